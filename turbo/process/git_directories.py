"""The git directories of a checkout, and what in them git runs or obeys.

repo/.git                     objects, refs and logs: a commit writes there
repo/.git/hooks, config       what git runs, and what its configuration names
repo/.git/worktrees/NAME      the same of one worktree: its HEAD and its index
"""

import os
from dataclasses import dataclass
from pathlib import Path

from turbo.host.regular_file import read_regular

_LINE_BYTES = 8192
OBEYED = ("hooks", "config")
"""Of the repository's directory: git runs the one, and what the other names."""

WRITTEN_BY_COMMITS = ("objects", "refs", "logs", "reftable")
"""Of the repository's directory, by a commit in a worktree, which has the rest in its own."""

OBEYED_OF_WORKTREE = ("gitdir", "commondir", "config.worktree")


@dataclass(frozen=True, slots=True)
class GitDirectories:
    """`own`: the git directory of what is checked out. `common`: the repository's; the same but in a worktree."""

    own: Path
    common: Path


def git_directories(directory: Path) -> GitDirectories | None:
    """Those of a checkout whose top is `directory`; None: it is none, or one that does not hold together.

    What is in the directory may have been written by an agent, so a worktree counts only if its repository names it in turn: to
    forge that, one has to be able to write there already."""
    marker = directory / ".git"
    try:
        if marker.is_symlink():
            return None
        if marker.is_dir():
            return GitDirectories(marker, marker) if (marker / "HEAD").is_file() else None
        own = _path_in(marker, "gitdir: ")
        if own is None or own.is_symlink() or own.parent.name != "worktrees":
            return None
        common = own.parent.parent
        if _path_in(own / "gitdir") != marker.absolute() or not (common / "HEAD").is_file():
            return None
        return GitDirectories(own, common)
    except OSError:
        return None


def _path_in(file: Path, prefix: str = "") -> Path | None:
    """The absolute path on the only line of a file."""
    text = os.fsdecode(read_regular(file, _LINE_BYTES)).rstrip("\n")
    path = text.removeprefix(prefix)
    return Path(path) if text.startswith(prefix) and path.startswith("/") and os.path.normpath(path) == path else None
