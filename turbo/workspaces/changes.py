"""What a task changed in its worktree, and what would be lost with it.

Changes are measured from the files with which the task began to the files as they are now. They include commits,
uncommitted edits and untracked files, but not ignored ones. Only a copy of the index is written, and removed again.

The task begins with the commit of the worktree's base, or with what `setup` made of it: then the files are stored as a
tree (`snapshot`), because nobody else has them.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.process.identity import Identity
from turbo.workspaces import files
from turbo.workspaces.git import Git, GitFailed
from turbo.workspaces.record import Record
from turbo.workspaces.repository import Repository

DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--find-renames")
"""Runs no program that the repository's attributes name."""

_STAT = re.compile(r"(?<!\d)(\d+) (file|insertion|deletion)")


@dataclass(frozen=True, slots=True)
class WorktreeState:
    """`head`: the checked-out commit, None before the first. `uncommitted`: changed files; a new directory as one, ending
    in a slash."""

    head: str | None
    uncommitted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Since the start.

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
    paths = tuple(_path_of(entry) for entry in entries if not entry.startswith("# "))
    return WorktreeState(None if oid == "(initial)" else oid, paths)


def _path_of(entry: str) -> str:
    """git-status(1), porcelain version 2, without renames."""
    return entry.split(" ", {"1": 8, "u": 10}.get(entry[0], 1))[-1]


async def snapshot(git: Git, repository: Repository, record: Record) -> Record:
    """The record with the state of the worktree as the start of the task, if it differs from the base.

    Raises GitFailed, Stopped, OSError."""
    state = await read_state(git)
    if state.head is None or (state.head == record.base and not state.uncommitted):
        return record
    await files.make_directory(git.run_as, record.objects)
    with IndexCopy(Path(record.git_dir), record.objects.parent, git.run_as) as index:

        async def apart(*arguments: str) -> str:
            return await git(
                *arguments,
                GIT_INDEX_FILE=str(index),
                GIT_OBJECT_DIRECTORY=str(record.objects),
                GIT_ALTERNATE_OBJECT_DIRECTORIES=_quoted(repository.common / "objects"),
            )

        with suppress(GitFailed):  # a nested repository without a commit is left out
            await apart(*QUIET, "add", "--all", "--ignore-errors", "--", ".")
        tree = (await apart("write-tree")).strip()
    return replace(record, start_commit=state.head, start_tree=tree)


def start_objects(record: Record) -> str:
    """GIT_ALTERNATE_OBJECT_DIRECTORIES, with which git can read the start of a task."""
    return _quoted(record.objects) if record.start_tree else ""


def _quoted(path: Path) -> str:
    """One path in a list that colons separate (git(1))."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def own_uncommitted(git: Git, record: Record, state: WorktreeState) -> int:
    """How many files have uncommitted changes that `setup` did not make, a new directory as one. Raises GitFailed, OSError."""
    if not record.start_tree or not state.uncommitted:
        return len(state.uncommitted)
    with IndexCopy(Path(record.git_dir), record.objects.parent, git.run_as) as index:
        await mark_new_files(git, index)
        names = ("diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--name-only", "-z", record.start_tree, "--")
        listed = await git(*names, GIT_INDEX_FILE=str(index), GIT_ALTERNATE_OBJECT_DIRECTORIES=start_objects(record))
    changed = [name for name in listed.split("\0") if name]
    return sum(
        any(name == path or (path.endswith("/") and name.startswith(path)) for name in changed)
        for path in state.uncommitted
    )


async def measure(git: Git, record: Record, home: Path) -> Changes:
    """`git` runs in the worktree. Raises GitFailed, OSError."""
    state = await read_state(git)
    commits = 0
    if state.head is not None and state.head != record.start:
        count = (await git("rev-list", "--count", "--end-of-options", f"{record.start}..{state.head}")).strip()
        if not (count.isascii() and count.isdigit()):  # a git that is not git's: the agent's user may have another
            raise GitFailed(f"git rev-list in {git.where}: gives no number of commits")
        commits = int(count)
    with IndexCopy(Path(record.git_dir), home if git.run_as is None else record.objects.parent, git.run_as) as index:
        await mark_new_files(git, index)
        stat = await git(
            *DIFF,
            "--shortstat",
            record.start_tree or record.base,
            "--",
            GIT_INDEX_FILE=str(index),
            GIT_ALTERNATE_OBJECT_DIRECTORIES=start_objects(record),
        )
    numbers = {what: int(number) for number, what in _STAT.findall(stat)}
    return Changes(
        state.head,
        commits,
        numbers.get("file", 0),
        numbers.get("insertion", 0),
        numbers.get("deletion", 0),
        await own_uncommitted(git, record, state),
    )


class IndexCopy:
    """A copy of a worktree's index, to which new files are added so that a diff shows them. Removed afterwards.

    `user`: whose both directories are, if not this process's own."""

    def __init__(self, git_dir: Path, home: Path, user: Identity | None = None) -> None:
        self._user = user
        self._source = git_dir / "index"
        self._index = home / "index.copy"

    def __enter__(self) -> Path:
        files.copy(self._user, self._source, self._index)
        return self._index

    def __exit__(self, *_: object) -> None:
        files.delete(self._user, self._index)


QUIET = ("-c", "core.safecrlf=false", "-c", "advice.addEmbeddedRepo=false")
NEW_FILES = ("add", "--intent-to-add", "--ignore-errors", "--", ".")


async def mark_new_files(git: Git, index: Path) -> None:
    """Stores no file content. A file that cannot be added (a nested repository without a commit) is left out."""
    try:
        await git(*QUIET, *NEW_FILES, GIT_INDEX_FILE=str(index))
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
            if uncommitted := await own_uncommitted(git, record, state):
                return f"uncommitted changes ({uncommitted})"
            commits.add(state.head)
            if commits - {None, record.base, record.start} and files.has_entries(
                git.run_as, Path(record.git_dir) / "modules"
            ):
                return "commits, and submodules whose commits may exist nowhere else"
        for commit in commits - {None, record.base, record.start}:
            assert commit is not None
            if not await repository.held_elsewhere(commit, record.branch):
                return "commits that no other branch has"
    except (GitFailed, OSError) as error:
        return f"its contents cannot be examined ({error})"
    return None
