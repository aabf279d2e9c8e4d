"""Which commits a task has made itself, and not checked out, merged or reset to.

    before the agent's first turn ──▶ the tips that its start does not contain are noted: branches, remotes' branches, tags
    afterwards ──▶ what is checked out has commits that neither the start nor those tips contain ──▶ they are the task's

A program may have written the note, where it is the worker's user: names of objects count, nothing else does. Without a note, all
commits since the start count.
"""

import json
import logging
from pathlib import Path

from turbo.host import json_file
from turbo.host.atomic_file import write_atomically
from turbo.host.state_dir import safe_name
from turbo.workspaces.git import Git, GitFailed
from turbo.workspaces.names import is_commit
from turbo.workspaces.record import Record

log = logging.getLogger(__name__)

MOST_TIPS = 10_000
"""The newest ones."""

FILE_BYTES = 1024 * 1024


def note_file(home: Path, task_id: str) -> Path:
    """Where the tips are noted of a task that began in the workspace."""
    return home / f"tips-{safe_name(task_id)}.json"


async def note_tips(git: Git, record: Record, file: Path) -> None:
    """Note what others have committed already. `git` runs in the worktree. Raises GitFailed, Stopped."""
    listed = await git(
        "for-each-ref",
        f"--no-merged={record.start}",
        "--sort=-committerdate",
        f"--count={MOST_TIPS}",
        "--format=%(objectname)",
    )
    tips = sorted({line for line in listed.splitlines() if is_commit(line)})
    try:
        write_atomically(file, json.dumps({"tips": tips}))
    except OSError as error:
        log.warning("what others have committed cannot be noted: %s", error, extra={"task": git.task_id})


async def own_commits(git: Git, record: Record, head: str, file: Path) -> int:
    """How many commits of `head` are the task's own. Raises GitFailed, Stopped."""
    revisions = [head, f"^{record.start}", *(f"^{tip}" for tip in _noted(git, file))]
    counted = await git(
        "rev-list", "--count", "--ignore-missing", "--stdin", stdin="".join(f"{r}\n" for r in revisions)
    )
    return whole_number(git, counted)


def whole_number(git: Git, counted: str) -> int:
    """What `rev-list --count` says. Raises GitFailed: with `run_as`, the agent's user may have another git, or write into its pipe."""
    count = counted.strip()
    if not (count.isascii() and count.isdigit() and len(count) <= 15):
        raise GitFailed(f"git rev-list in {git.where}: gives no number of commits")
    return int(count)


def _noted(git: Git, file: Path) -> list[str]:
    try:
        tips = json_file.read(file, FILE_BYTES).get("tips")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("what others had committed is not known: %s", error, extra={"task": git.task_id})
        return []
    return [tip for tip in tips if is_commit(tip)] if isinstance(tips, list) else []
