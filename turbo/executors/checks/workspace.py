"""What must be true of a workspace (turbo.workspaces.view): `requires`, and the files that `protect` names."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from turbo.domain.check import FILES_NAMED, CheckResult, Requirement
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.executors.checks.judge import Delivery, Judgement
from turbo.workspaces.area import CannotExamine, WorkDone

NAME_CHARACTERS = 200
T = TypeVar("T")


class RequiresJudge:
    """A commit, changes, nothing uncommitted."""

    def __init__(self, requires: Sequence[Requirement]) -> None:
        self._requires = tuple(requires)

    async def judge(self, delivery: Delivery) -> Judgement | Outcome:
        """See `Judge`."""
        if delivery.workspace is None:
            return _no_workspace(CheckResult.UNMET)
        delivery.progress("requires " + ", ".join(self._requires))
        done = await examined(delivery, CheckResult.UNMET, delivery.workspace.work_done())
        if isinstance(done, Judgement | Outcome):
            return done
        missing = [(name, why) for name in self._requires if (why := _missing(name, done)) is not None]
        if not missing:
            return Judgement()
        return Judgement(
            CheckResult.UNMET, "; ".join(why for _, why in missing), requires=tuple(name for name, _ in missing)
        )

    def missing(self) -> str | None:
        """See `Judge`."""
        return None


class ProtectJudge:
    """Files that the task must leave as they are: those of `Delivery.protected`."""

    async def judge(self, delivery: Delivery) -> Judgement | Outcome:
        """See `Judge`."""
        if delivery.protected is None:
            return _no_workspace(CheckResult.PROTECTED)
        delivery.progress("protected files")
        changed = await examined(delivery, CheckResult.PROTECTED, delivery.protected.changed())
        if isinstance(changed, Judgement | Outcome):
            return changed
        if not changed:
            return Judgement()
        named = tuple(_shown(name) for name in changed[:FILES_NAMED])
        return Judgement(
            CheckResult.PROTECTED, f"protected files were changed: {_list(named, len(changed))}", protect=named
        )

    def missing(self) -> str | None:
        """See `Judge`."""
        return None


async def examined(delivery: Delivery, result: CheckResult, answer: Awaitable[T]) -> T | Judgement | Outcome:
    """A workspace that cannot be examined passes nothing: the task has made it so, unless its repository is away."""
    try:
        return await answer
    except CannotExamine as error:
        if delivery.run.stop.is_set():
            return Outcome(OutcomeKind.CANCELLED, error=f"the check was ended on request: {delivery.run.stop.cause}")
        if error.away is not None:
            return Outcome.unavailable(f"check: {error}", error.away)
        return Judgement(result, f"the workspace cannot be examined: {error}")


def _missing(name: Requirement, done: WorkDone) -> str | None:
    match name:
        case Requirement.COMMIT if not done.commits:
            return "no commit was made"
        case Requirement.COMMIT if not done.on_branch:
            return f"what is checked out is not on its branch {done.branch}: commit it there"
        case Requirement.CHANGES if not (done.files_changed or done.uncommitted):
            return "no file was changed"
        case Requirement.CLEAN if done.uncommitted:
            names = [_shown(path) for path in done.uncommitted[:FILES_NAMED]]
            return f"not everything is committed: {_list(names, len(done.uncommitted))}"
    return None


def _no_workspace(result: CheckResult) -> Judgement:
    return Judgement(result, "the executor has no workspace")


def _list(names: Sequence[str], count: int) -> str:
    more = f", and {count - len(names):,} more" if count > len(names) else ""
    return ", ".join(names) + more


def _shown(name: str) -> str:
    """A file's name, which the agent chose. Its bytes that are no UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:NAME_CHARACTERS]
