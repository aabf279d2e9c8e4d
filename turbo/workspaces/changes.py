"""What a task changed in its worktree, and what would be lost with it.

Changes are measured from the commit at which the task began to the files as they are now. They include commits,
uncommitted edits and untracked files, but not ignored ones. Only a copy of the index is written, and removed again.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from turbo.workspaces.git import Git, GitFailed
from turbo.workspaces.record import Record
from turbo.workspaces.repository import Repository

DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--find-renames")
"""Runs no program that the repository's attributes name."""

_STAT = re.compile(r"(\d+) (file|insertion|deletion)")


@dataclass(frozen=True, slots=True)
class WorktreeState:
    """`head`: the checked-out commit, None before the first. `uncommitted`: changed files, a new directory as one."""

    head: str | None
    uncommitted: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Since the base.

    `files_changed`, `insertions` and `deletions` (lines) cover commits and uncommitted changes together.
    """

    head: str | None
    commits: int
    files_changed: int
    insertions: int
    deletions: int
    uncommitted: int


async def read_state(git: Git) -> WorktreeState:
    """Raises GitFailed."""
    status = await git("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--no-renames")
    entries = [entry for entry in status.split("\0") if entry]
    oid = next((e.removeprefix("# branch.oid ") for e in entries if e.startswith("# branch.oid ")), "(initial)")
    return WorktreeState(None if oid == "(initial)" else oid, sum(not e.startswith("# ") for e in entries))


async def measure(git: Git, record: Record, home: Path) -> Changes:
    """`git` runs in the worktree. Raises GitFailed, OSError."""
    state = await read_state(git)
    commits = 0
    if state.head is not None and state.head != record.base:
        commits = int(await git("rev-list", "--count", "--end-of-options", f"{record.base}..{state.head}"))
    with IndexCopy(Path(record.git_dir), home) as index:
        await mark_new_files(git, index)
        stat = await git(*DIFF, "--shortstat", record.base, "--", GIT_INDEX_FILE=str(index))
    numbers = {what: int(number) for number, what in _STAT.findall(stat)}
    return Changes(
        state.head,
        commits,
        numbers.get("file", 0),
        numbers.get("insertion", 0),
        numbers.get("deletion", 0),
        state.uncommitted,
    )


class IndexCopy:
    """A copy of a worktree's index, to which new files are added so that a diff shows them. Removed afterwards."""

    def __init__(self, git_dir: Path, home: Path) -> None:
        self._source = git_dir / "index"
        self._index = home / "index.copy"

    def __enter__(self) -> Path:
        self._index.unlink(missing_ok=True)
        if self._source.exists():
            shutil.copyfile(self._source, self._index)
        return self._index

    def __exit__(self, *_: object) -> None:
        self._index.unlink(missing_ok=True)


NEW_FILES = ("add", "--intent-to-add", "--ignore-errors", "--", ".")


async def mark_new_files(git: Git, index: Path) -> None:
    """Stores no file content. A file that cannot be added (a nested repository without a commit) is left out."""
    try:
        await git(
            "-c", "core.safecrlf=false", "-c", "advice.addEmbeddedRepo=false", *NEW_FILES, GIT_INDEX_FILE=str(index)
        )
    except GitFailed:
        return


async def at_risk(git: Git | None, repository: Repository, record: Record) -> str | None:
    """What would be lost for good with the worktree and its branch; None if nothing would.

    `git` runs in the worktree; None if the worktree is gone. Errors count as a risk.
    """
    try:
        commits = {await repository.branch_tip(record.branch)}
        if git is not None:
            state = await read_state(git)
            if state.uncommitted:
                return f"uncommitted changes ({state.uncommitted})"
            commits.add(state.head)
            if commits - {None, record.base} and any((Path(record.git_dir) / "modules").glob("*")):
                return "commits, and submodules whose commits may exist nowhere else"
        for commit in commits - {None, record.base}:
            assert commit is not None
            if not await repository.held_elsewhere(commit, record.branch):
                return "commits that no other branch has"
    except (GitFailed, OSError) as error:
        return f"its contents cannot be examined ({error})"
    return None
