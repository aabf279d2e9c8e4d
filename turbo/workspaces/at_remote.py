"""`workspace: {push: origin}`: a task's branch at a remote, so that another host can go on with it.

    a run is over ──pushed──▶ remote ──fetched──▶ another host: a worktree of that branch, at its head
                                 └──────────────▶ the first host again: its worktree is brought forward

Only commits travel. What others have pushed is never overwritten: a branch that was rewritten here replaces exactly the commit that
this workspace pushed last, or nothing.

    <home of the workspace>/pushed.json      the commit that was pushed, or fetched, last
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.domain.task import Task
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.workspaces.changes import read_state
from turbo.workspaces.git import GitFailed, RemoteAway, Stopped
from turbo.workspaces.names import is_commit, ref_problem
from turbo.workspaces.record import Record
from turbo.workspaces.repository import CHECKOUT_SECONDS, Repository

log = logging.getLogger(__name__)

NOTE = "pushed.json"
_NOTE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class EarlierWork:
    """What earlier runs told of the worktree of a conversation. `host`: of the last one. `pushed`: one of them has pushed the branch,
    which began at `base`, the commit of `ref`; `start`: see Record. `since`: where this task itself began, if it ran before."""

    host: str = ""
    pushed: bool = False
    branch: str = ""
    base: str = ""
    ref: str = ""
    start: str = ""
    since: str = ""


NOTHING_EARLIER = EarlierWork()

AsksEarlierWork = Callable[[str], Awaitable[Sequence[Mapping[str, object]]]]
"""The `output_data.workspace` of a task's conversation, by the task's id: that of the last run, of the last one that pushed, and of the
first one of the task itself. One that there is none of is empty. Raises OSError if the database cannot say."""


async def knows_no_earlier(_task_id: str) -> Sequence[Mapping[str, object]]:
    return ()


async def earlier_work(asks: AsksEarlierWork, task: Task) -> EarlierWork:
    """Values that turbo would not have written count as absent. Raises OSError."""
    last, pushed, own = (*await asks(task.task_id), {}, {}, {})[:3]
    base, branch, ref = _commit(pushed, "base"), _text(pushed, "branch"), _text(pushed, "ref")
    named = base and not ref_problem(branch) and not ref_problem(ref)
    return EarlierWork(
        host=_text(last, "host"),
        pushed=bool(named),
        branch=branch,
        base=base,
        ref=ref,
        start=_commit(pushed, "start"),
        since=_commit(own, "since"),
    )


async def require_remote(repository: Repository, remote: str) -> None:
    """Raises RepositoryAway where the repository does not know it."""
    await repository.require_remote(remote, f"add it with git remote add {remote} URL, or correct workspace.push")


async def fetch_branch(repository: Repository, remote: str, branch: str) -> str | None:
    """The head of the task's branch at the remote; None if it is gone there. Raises RemoteAway, RepositoryAway, Stopped, OSError."""
    try:
        async with repository.alone():
            await repository.fetch(f"{remote}/{branch}", time.time())
    except GitFailed as error:
        if repository.is_missing(error):
            return None
        raise
    return await repository.commit_of(f"refs/remotes/{remote}/{branch}")


async def bring_forward(
    repository: Repository, record: Record, home: Path, remote: str, earlier: EarlierWork, host: str
) -> None:
    """Give a worktree the commits that another host has made since, and pushed. Nothing of this host's is lost: where both have
    something of their own, a person has to decide. Raises GitFailed, RemoteAway, RepositoryAway, Stopped, OSError."""
    if not earlier.pushed or earlier.host in ("", host) or earlier.branch != record.branch:
        return
    tip = await fetch_branch(repository, remote, record.branch)
    local = await repository.branch_tip(record.branch)
    if tip is None or local is None or await repository.contains(local, tip):
        return
    git = repository.in_tree(record)
    on_branch = await _on_branch(repository, record)
    try:
        if on_branch and await repository.contains(tip, local):
            await git("merge", "--ff-only", "--quiet", "--no-stat", tip, seconds=CHECKOUT_SECONDS)
            note_pushed(home, tip)
            log.info("brought forward to what host %s has pushed", earlier.host, extra={"task": record.task_id})
            return
    except GitFailed as error:
        log.info("%s cannot be brought forward: %s", record.tree, error, extra={"task": record.task_id})
    if on_branch and last_pushed(home) == local and not (await read_state(git)).uncommitted:
        await git("reset", "--hard", "--quiet", "--no-recurse-submodules", tip, seconds=CHECKOUT_SECONDS)
        note_pushed(home, tip)
        return
    raise GitFailed(
        f"host {earlier.host} has gone on with {record.branch} and pushed it to {remote}, but {record.tree} has changes of its own: "
        f"save what you want to keep of them, then run git reset --hard {remote}/{record.branch} there, and turbo retry"
    )


async def push_branch(repository: Repository, record: Record, home: Path, remote: str, head: str | None) -> str | None:
    """Push the task's branch. Returns None, or why the remote does not have all that is committed. `head`: what is checked out."""
    try:
        tip = await repository.branch_tip(record.branch)
        if tip is None:
            return f"the branch {record.branch} does not exist any more"
        await repository.push(remote, record.branch, last_pushed(home))
        note_pushed(home, tip)
        if head is not None and head != tip and not await repository.contains(tip, head):
            return f"what is checked out is not on the branch {record.branch}, so it was not pushed"
    except Stopped:
        return "the run was asked to end meanwhile"
    except RemoteAway as error:
        return str(error)
    except (GitFailed, OSError) as error:
        return str(error)
    return None


def last_pushed(home: Path) -> str:
    """The commit that this workspace has pushed or fetched last; empty if it is not known."""
    try:
        commit = json_file.text(json_file.read(home / NOTE, _NOTE_BYTES), "commit", "")
    except (OSError, ValueError):
        return ""
    return commit if is_commit(commit) else ""


def note_pushed(home: Path, commit: str) -> None:
    with suppress(OSError):  # without it, a rewritten branch is refused
        write_atomically(home / NOTE, json.dumps({"commit": commit}))


def stop_of_push(stop: StopSignal) -> StopSignal:
    """A run that was asked to end pushes all the same; one that is asked meanwhile stops pushing."""
    return StopSignal() if stop.is_set() else stop


def portable(report: Mapping[str, object]) -> bool:
    """Whether another host gets all of a worktree from the remote. `report`: `output_data.workspace`."""
    return report.get("pushed") is True and report.get("uncommitted") == 0


async def _on_branch(repository: Repository, record: Record) -> bool:
    try:
        found = await repository.in_tree(record)("symbolic-ref", "--quiet", "HEAD")
    except GitFailed:
        return False
    return found.strip() == f"refs/heads/{record.branch}"


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _commit(fields: Mapping[str, object], name: str) -> str:
    value = _text(fields, name)
    return value if is_commit(value) else ""
