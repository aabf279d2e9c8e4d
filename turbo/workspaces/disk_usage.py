"""Which worktrees this host keeps, and their size, for `turbo doctor` and retention's cap. Reads files, runs no git."""

import time
from dataclasses import dataclass
from pathlib import Path

from turbo.host.state_dir import all_files, workspaces_of
from turbo.workspaces import files
from turbo.workspaces.entries import entries_below
from turbo.workspaces.record import Record, records

SIZE_SECONDS = 30.0
"""Enough for three million files."""

BLOCK_BYTES = 512  # the unit of st_blocks on every file system (stat(2))


@dataclass(frozen=True, slots=True)
class KeptWorktree:
    """A worktree on disk. `size`: bytes on disk, without the objects it shares with `repo`. `used_at`: Unix seconds.

    `cap`: bytes that all worktrees of its executor may take on this host; None without a limit.
    """

    task_id: str
    executor: str
    repo: Path
    branch: str
    tree: Path
    size: int
    used_at: float
    cap: int | None


def kept_worktrees(state_dir: Path) -> list[KeptWorktree]:
    """Every worktree in a state directory, of all databases, longest unused first. Never raises.

    Reads the directories of each one: about a second for 100,000 files. What disappears meanwhile is left out.
    """
    worktrees = [
        KeptWorktree(
            record.task_id,
            record.executor,
            Path(record.repo),
            record.branch,
            Path(record.tree),
            size_of(home) + size_elsewhere(record),
            record.used_at,
            record.policy.max_bytes,
        )
        for of_database in all_files(state_dir)
        for home, record in records(workspaces_of(of_database))
        if _is_there(record)
    ]
    return sorted(worktrees, key=lambda worktree: worktree.used_at)


def size_elsewhere(record: Record) -> int:
    """Bytes of a worktree that is another user's (`run_as`), and so is not in its home; 0 if nobody may look."""
    try:
        return files.size(files.owner_of(record.user), Path(record.tree).parent)
    except OSError:
        return 0


def _is_there(record: Record) -> bool:
    tree = Path(record.tree)
    try:
        user = files.owner_of(record.user)
        return files.is_directory(tree) if user is None else user.script('[ -d "$1" ]', tree).returncode == 0
    except OSError:
        return False


def size_of(directory: Path, *, seconds: float = SIZE_SECONDS) -> int:
    """Bytes on disk of everything in it. A file with several names counts once; links are not followed.

    What it has not seen after `seconds`, or below a path that is too long for the kernel, is left out.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    end = time.monotonic() + seconds
    for entry in entries_below(directory):
        if time.monotonic() > end:
            break
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if state.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
        total += state.st_blocks * BLOCK_BYTES
    return total
