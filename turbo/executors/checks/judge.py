"""What a judge is: one thing that must be true of a run's work. A new one is one file beside this one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turbo.domain.check import CheckResult
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.run import Run
from turbo.workspaces.area import ProtectedFiles, WorkspaceView

UNFIT = "unfit_answer"
"""In `Outcome.extra` of a turn: why the agent gave no answer, in the words of its CLI, which has refused those that it gave."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is judged. `directory`: where the agent worked; it is still locked for this task. `workspace`: what may be asked of it;
    None where it is a plain directory. `protected`: its files that must stay as they were, if any are named. `outcome`: of the
    agent's turn, which succeeded. `number`: of this check. `log_path`: for what the check's own programs print.
    `progress(text)` shows people how far the check is. `used`: by the run so far."""

    run: Run
    directory: Path
    workspace: WorkspaceView | None
    outcome: Outcome
    number: int
    log_path: Path
    progress: Callable[[str], None]
    protected: ProtectedFiles | None = None
    used: tuple[ModelUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge found. The fields are those of a WorkCheck (turbo.domain.check), which the last judge's become. `why`: for the
    agent and for people: what is wrong, one or a few lines. `outcome`: the run's from here on, None for unchanged: an answer that
    was read as JSON, for example. `usage`: what the judge itself used of a model."""

    result: CheckResult = CheckResult.PASSED
    why: str = ""
    exit_code: int | None = None
    output: str = ""
    requires: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    by: str | None = None
    log: str | None = None
    outcome: Outcome | None = None
    usage: tuple[ModelUsage, ...] = ()

    @property
    def passed(self) -> bool:
        return self.result is CheckResult.PASSED


@dataclass(frozen=True, slots=True)
class NotMade:
    """A judge could not do its work, for a reason that may pass: a service that a command needs is away, or a reviewer gave no verdict.
    The task rests, uncounted, and comes to its check again. `why`, `exit_code`, `output`, `log`, `usage`: as of a Judgement.
    `account`: whose login a probe can tell of. `most`: so often in a row the task rests; then it counts as a fault of the host.
    None: for as long as it takes."""

    why: str
    exit_code: int | None = None
    output: str = ""
    log: str | None = None
    usage: tuple[ModelUsage, ...] = ()
    account: str | None = None
    most: int | None = None


class Judge(Protocol):
    """Judges run in the order of their cost; the first that does not pass ends the check."""

    async def judge(self, delivery: Delivery) -> Judgement | NotMade | Outcome:
        """What it found; or why it could not do its work: NotMade, or an Outcome that ends the run (cancelled, infrastructure, a
        login, a limit). The task then goes straight to the check when it runs again. Raises OSError (infrastructure)."""
        ...

    def missing(self) -> str | None:
        """Why it could judge nothing on this host now, or None. Cheap: no process, no request."""
        ...
