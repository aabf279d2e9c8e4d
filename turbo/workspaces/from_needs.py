"""`workspace: {from: needs}`: the commit at which a dependent begins, from what the tasks that it needed left in their worktrees.

    no need left a commit ──▶ the executor's ref, as without needs      one did, or one that has all the others ──▶ its head
    some that go different ways ──▶ HandoverRefused                     it is on another host, and not here ──▶ Elsewhere

`output_data.workspace` of a need says what it left. A need that changed nothing, but began at another commit than the
executor's ref (because it began at a need of its own), hands that one on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.work import Need
from turbo.workspaces.names import is_commit, ref_problem
from turbo.workspaces.repository import Repository


class HandoverRefused(Exception):
    """The task cannot begin at what its needs left. The message says why, and what to do."""


class Elsewhere(Exception):
    """What its needs left is on another host only."""

    def __init__(self, need: str, host: str) -> None:
        super().__init__(f"the branch of {need}, which it needed, is on host {host}")
        self.host = host


@dataclass(frozen=True, slots=True)
class Handover:
    """`need`: the task that left `commit` on `branch`, on `host`."""

    need: str
    branch: str
    commit: str
    host: str


def handovers(needs: Mapping[str, Need], repo: Path, ref: str, host: str) -> list[Handover]:
    """What each need left in this repository, one for each commit. Raises HandoverRefused for work that is in no commit."""
    found: dict[str, Handover] = {}
    for task_id, need in needs.items():
        space = need.workspace or {}
        where, head, branch = (_text(space, name) for name in ("host", "head", "branch"))
        if not _same_repository(space, repo, host) or not is_commit(head) or not branch or ref_problem(branch):
            continue
        if head == space.get("base") and space.get("ref") == ref:
            if space.get("uncommitted") and space.get("kept"):
                raise HandoverRefused(
                    f"{task_id}, which it needed, left changes that are in no commit, so no other task can begin with them: "
                    f"commit them in {_text(space, 'path')}, or have such tasks commit"
                )
            continue
        found.setdefault(head, Handover(task_id, branch, head, where))
    return list(found.values())


async def begin_at(
    repository: Repository, needs: Mapping[str, Need], repo: Path, ref: str, host: str
) -> Handover | None:
    """None: at the ref, as without needs. Raises HandoverRefused, Elsewhere, GitFailed, Stopped."""
    found = handovers(needs, repo, ref, host)
    missing = [one for one in found if not await repository.has(one.commit)]
    for one in missing:
        if one.host == host:
            raise HandoverRefused(f"{one.need}, which it needed, left commit {one.commit}, but {repo} has lost it")
    if missing:
        if len({one.host for one in missing}) > 1 or any(one.host == host for one in found):
            raise HandoverRefused(
                f"{_named(found)} are on different hosts: push their branches, and merge them in a task of its own"
            )
        raise Elsewhere(missing[0].need, missing[0].host)
    for one in found:
        if all([await repository.contains(one.commit, other.commit) for other in found]):
            return one
    if found:
        raise HandoverRefused(f"{_named(found)} left different branches: merge them in a task that the others need")
    return None


def _same_repository(space: Mapping[str, object], repo: Path, host: str) -> bool:
    """On another host it may be in another place."""
    theirs = _text(space, "repo")
    return theirs == str(repo) if space.get("host") == host else Path(theirs).name == repo.name


def _text(space: Mapping[str, object], name: str) -> str:
    value = space.get(name)
    return value if isinstance(value, str) else ""


def _named(found: Iterable[Handover]) -> str:
    named = [f"{one.need} ({one.branch} on host {one.host})" for one in found]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
