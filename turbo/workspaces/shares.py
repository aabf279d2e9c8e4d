"""Where a follow-up began in the worktree of its conversation: the commit and the files, so that its result tells its own share.

    <home of the workspace>/share-<follow-up>.json      written before its first run there, and gone with the workspace

The first task of a conversation needs none: it began with the worktree (turbo.workspaces.record). A program may have written
the file, because it often runs as the worker's user: names of objects count, nothing else does.

A follow-up is judged by its own share only where the task before it completed. Otherwise nobody has accepted what that one left,
and its start still counts:

    first (completed) ◀── second (failed) ◀── third (failed) ◀── fourth        judged from where the second began
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.domain.task import Task
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.state_dir import safe_name
from turbo.workspaces.changes import read_state, snapshot
from turbo.workspaces.git import Git
from turbo.workspaces.names import is_commit
from turbo.workspaces.record import Record
from turbo.workspaces.repository import Repository

_MOST_BYTES = 4096


def share_of(record: Record, home: Path, task_id: str) -> Record | None:
    """`record` with the start of this task. None: it is not known, or the task began with the worktree."""
    try:
        fields = json_file.read(_file(home, task_id), _MOST_BYTES)
        commit, tree = (json_file.text(fields, name, "") for name in ("commit", "tree"))
    except (OSError, ValueError):
        return None
    if not is_commit(commit) or (tree and not is_commit(tree)):
        return None
    return replace(record, start_commit=commit, start_tree=tree)


async def begin_share(
    git: Git, repository: Repository, record: Record, home: Path, task_id: str, *, since: str = ""
) -> Record:
    """The same, noted now if it is not yet. `git` runs in the worktree. `since`: the commit at which it began on another host; "": it
    begins now. Raises GitFailed, Stopped, OSError."""
    if (known := share_of(record, home, task_id)) is not None:
        return known
    if since and await repository.has(since):
        begun = replace(record, start_commit=since, start_tree="")
        write_atomically(_file(home, task_id), json.dumps({"commit": since, "tree": ""}))
        return begun
    begun = await snapshot(git, repository, replace(record, start_commit="", start_tree=""))
    if not begun.start_commit:  # as the worktree began, or without any commit
        head = (await read_state(git)).head
        begun = replace(begun, start_commit=head or record.base)
    write_atomically(_file(home, task_id), json.dumps({"commit": begun.start_commit, "tree": begun.start_tree}))
    return begun


@dataclass(frozen=True, slots=True)
class JudgedStart:
    """`record`: with the start from which a task's work is judged. `since`: the task that began there; `own`: it is this one."""

    record: Record
    since: str
    own: bool


def judged_from(record: Record, share: Record | None, task: Task, home: Path) -> JudgedStart:
    """`record`: of the worktree. `share`: the same with the start of this task; None: it began with the worktree, or its start is
    not known. Where a start is not known, or it is not known whose it is, it is that of the worktree."""
    whole = JudgedStart(record, record.task_id, own=task.continued is None)
    if task.continued is None or share is None:
        return whole
    unaccepted = task.continued.unaccepted
    if unaccepted is None:
        return whole
    if not unaccepted:
        return JudgedStart(share, task.task_id, own=True)
    began = share_of(record, home, unaccepted[0])
    return whole if began is None else JudgedStart(began, unaccepted[0], own=False)


def _file(home: Path, task_id: str) -> Path:
    return home / f"share-{safe_name(task_id)}.json"
