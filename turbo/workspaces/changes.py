"""What a task changed in its worktree, and what would be lost with it.

Changes are measured from the files with which the task began to the files as they are now. They include commits,
uncommitted edits and untracked files, but not ignored ones. Only a copy of the index is written, and removed again.

An agent may have made any of these files. No filter, hook or command of a repository is run, nor of one nested in it
(turbo.workspaces.isolation). git's own `add` and `status` would run git in a nested one, with its configuration. So they
are not used for it: its state is read by a git that is isolated as well.

The task begins with the commit of the worktree's base, or with what `setup` made of it: then the files are stored as a
tree (`snapshot`), because nobody else has them.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.host.regular_file import open_regular, read_regular
from turbo.process.identity import Identity
from turbo.workspaces import files
from turbo.workspaces.git import Git, GitFailed
from turbo.workspaces.isolation import git_dirs, isolate
from turbo.workspaces.names import is_commit
from turbo.workspaces.own_commits import whole_number
from turbo.workspaces.record import Record
from turbo.workspaces.repository import Repository

NOT_INSIDE = "--ignore-submodules=dirty"
"""git runs no git in a nested repository, with that one's configuration. As an option: `ignore` in .gitmodules, which an agent
may have written, overrides the setting, and could hide a nested repository, too."""

PLAIN_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--submodule=short", NOT_INSIDE)
"""Runs no program that the repository's attributes name, and none in a nested one."""

DIFF = (*PLAIN_DIFF, "--find-renames")

NESTED = 100
NESTED_LEVELS = 4
"""Checked-out submodules beyond these bounds are not examined; then the worktree counts as one with work in it."""

HUGE_BYTES = 4 * 1024**3
"""A larger new file, sparse or not, is not in a diff: git would read it all. It counts as uncommitted."""

INDEX_BYTES = 1024**3
PACKED_REFS_BYTES = 64 * 1024**2

_GITLINK = "160000 "
_CHANGED_INSIDE = re.compile(r"[12u] .. S.(M.|.U) ")
"""Of a submodule, in porcelain version 2: modified, or untracked content."""
_EMPTY_BLOB = {
    40: "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    64: "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
}
"""By the length of an object's name: SHA-1, SHA-256."""
_STAT = re.compile(r"(?<!\d)(\d{1,15}) (file|insertion|deletion)")


@dataclass(frozen=True, slots=True)
class WorktreeState:
    """`head`: the checked-out commit, None before the first. `uncommitted`: changed files; a new directory as one, ending
    in a slash. `inside`: those of them that are nested repositories with changes of their own, which no diff shows."""

    head: str | None
    uncommitted: tuple[str, ...]
    inside: frozenset[str] = frozenset()


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
    return await _read_state(git, NESTED_LEVELS)


async def _read_state(git: Git, levels: int) -> WorktreeState:
    if git.run_as is None and git.git_dir is not None:
        _check_index(git.git_dir)
    flags = ("--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--no-renames")
    nested = (
        NOT_INSIDE if git.run_as is None else "--ignore-submodules=none"
    )  # with that user's rights, git may look itself
    status = await git("status", *flags, nested)
    entries = [entry for entry in status.split("\0") if entry]
    oid = next((e.removeprefix("# branch.oid ") for e in entries if e.startswith("# branch.oid ")), "(initial)")
    paths = [_path_of(entry) for entry in entries if not entry.startswith("# ")]
    if git.run_as is None:
        inside = await _nested_changed(git, levels)
        paths += [path for path in inside if path not in paths]
    else:
        inside = [_path_of(entry) for entry in entries if _CHANGED_INSIDE.match(entry)]
    return WorktreeState(None if oid == "(initial)" else oid, tuple(paths), frozenset(inside))


def _check_index(git_dir: Path) -> None:
    """git would wait for a FIFO, and read an index of any size. Raises GitFailed."""
    try:
        with os.fdopen(open_regular(git_dir / "index")) as file:
            if os.fstat(file.fileno()).st_size > INDEX_BYTES:
                raise GitFailed(f"{git_dir / 'index'} is larger than {INDEX_BYTES} bytes")
    except FileNotFoundError:
        return
    except OSError as error:
        raise GitFailed(str(error)) from None


async def _nested_changed(git: Git, levels: int) -> list[str]:
    """The submodules with uncommitted changes of their own."""
    listed = await git("ls-files", "--stage", "-z")
    paths = [entry.split("\t", 1)[1] for entry in listed.split("\0") if entry.startswith(_GITLINK)]
    checked_out = [path for path in paths if os.path.lexists(git.where / path / ".git")]
    if len(checked_out) > NESTED or (checked_out and not levels):
        raise GitFailed(f"{git.where} has more than {NESTED} nested repositories, or {NESTED_LEVELS} levels of them")
    return [path for path in checked_out if (await _state_of_nested(git, git.where / path, levels)).uncommitted]


async def _state_of_nested(git: Git, top: Path, levels: int) -> WorktreeState:
    try:
        dirs = git_dirs(top)
        with tempfile.TemporaryDirectory(prefix="turbo-nested-") as place:
            isolated = isolate(Path(place), dirs, git.environment.get("HOME"), git.config)
            return await _read_state(replace(git, where=top, git_dir=dirs.own, isolated=isolated), levels - 1)
    except OSError as error:
        raise GitFailed(f"the nested repository {top} cannot be examined: {error}") from None


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
    async with index_copy(Path(record.git_dir), record.objects.parent, git.run_as) as index:

        async def apart(*arguments: str, stdin: str = "") -> str:
            return await git(
                *arguments,
                stdin=stdin,
                GIT_INDEX_FILE=str(index),
                GIT_OBJECT_DIRECTORY=str(record.objects),
                GIT_ALTERNATE_OBJECT_DIRECTORIES=_quoted(repository.common / "objects"),
            )

        if git.run_as is not None:
            with suppress(GitFailed):
                await apart(*ADD, "--all", "--", ".")
        else:
            changed = await apart("ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard")
            new = set(names(changed))
            nested = {name for name in new if name.endswith("/")}
            flags = ("--add", "--replace", "--remove", "-z", "--stdin")
            await apart("update-index", *flags, stdin="".join(f"{name}\0" for name in new - nested))
            await apart(*MARK, stdin=marks(record, nested))
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
    """How many files have uncommitted changes that `setup` did not make, a new directory as one. Raises GitFailed, OSError.

    What is changed inside a nested repository counts, whoever did it: nobody keeps what it was at the start."""
    if not record.start_tree or not state.uncommitted:
        return len(state.uncommitted)
    async with index_copy(Path(record.git_dir), record.objects.parent, git.run_as) as index:
        await mark_new_files(git, record, index)
        arguments = (*PLAIN_DIFF, "--no-renames", "--name-only", "-z", record.start_tree, "--")
        listed = await git(
            *arguments, GIT_INDEX_FILE=str(index), GIT_ALTERNATE_OBJECT_DIRECTORIES=start_objects(record)
        )
    changed = names(listed)
    return sum(
        path in state.inside or any(name == path or (path.endswith("/") and name.startswith(path)) for name in changed)
        for path in state.uncommitted
    )


async def measure(git: Git, record: Record, home: Path) -> Changes:
    """`git` runs in the worktree. Raises GitFailed, OSError."""
    state = await read_state(git)
    commits = 0
    if state.head is not None and state.head != record.start:
        counted = await git("rev-list", "--count", "--end-of-options", f"{record.start}..{state.head}")
        commits = whole_number(git, counted)
    own = home if git.run_as is None else record.objects.parent
    async with index_copy(Path(record.git_dir), own, git.run_as) as index:
        await mark_new_files(git, record, index)
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

    `user`: whose both directories are, if not this process's own. Blocks on the disk. Raises OSError: also for an index that is a
    link, a FIFO, or larger than INDEX_BYTES.
    """

    def __init__(self, git_dir: Path, home: Path, user: Identity | None = None) -> None:
        self._user = user
        self._source = git_dir / "index"
        self._index = home / "index.copy"

    def __enter__(self) -> Path:
        files.copy(self._user, self._source, self._index, INDEX_BYTES)
        return self._index

    def __exit__(self, *_: object) -> None:
        files.delete(self._user, self._index)


@asynccontextmanager
async def index_copy(git_dir: Path, home: Path, user: Identity | None) -> AsyncIterator[Path]:
    """An IndexCopy, made and removed in a thread."""
    copy = IndexCopy(git_dir, home, user)
    index = await asyncio.to_thread(copy.__enter__)
    try:
        yield index
    finally:
        await asyncio.to_thread(copy.__exit__)


ADD = ("-c", "advice.addEmbeddedRepo=false", "add", "--ignore-errors")
"""For another user's worktree (`run_as`): what a repository makes git run then has that user's rights, as its agent has."""

NEW_FILES = ("ls-files", "-z", "--others", "--exclude-standard")
MARK = ("update-index", "--replace", "-z", "--index-info")


def names(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


def marks(record: Record, new: Iterable[str]) -> str:
    """The input of MARK for what NEW_FILES lists: each becomes an entry without content."""
    return "".join(_entries(Path(record.tree), _EMPTY_BLOB[len(record.base)], new))


def _entries(tree: Path, empty: str, new: Iterable[str]) -> Iterator[str]:
    for name in new:
        if not name.endswith("/"):
            with suppress(OSError):
                if (tree / name).lstat().st_size > HUGE_BYTES:
                    continue
            yield f"100644 {empty} 0\t{name}\0"
        elif (head := head_of(tree / name)) is not None:  # a nested repository without a commit is left out
            yield f"160000 {head} 0\t{name.rstrip('/')}\0"


def head_of(top: Path) -> str | None:
    """The commit that a nested repository has checked out. Reads files; runs nothing."""
    try:
        dirs = git_dirs(top)
        text = _small(dirs.own / "HEAD")
        if text.startswith("ref: refs/") and ".." not in text:
            name = text.removeprefix("ref: ")
            try:
                text = _small(dirs.common / name)
            except FileNotFoundError:
                packed = read_regular(dirs.common / "packed-refs", PACKED_REFS_BYTES).decode("ascii", "replace")
                text = next((line.split(" ", 1)[0] for line in packed.splitlines() if line.endswith(f" {name}")), "")
    except OSError:
        return None
    return text if is_commit(text) else None


def _small(file: Path) -> str:
    return read_regular(file, 4096).decode("utf-8", "replace").strip()


async def mark_new_files(git: Git, record: Record, index: Path) -> None:
    """Stores no file content. Raises GitFailed."""
    if git.run_as is not None:
        with suppress(GitFailed):  # a nested repository without a commit is left out
            await git(*ADD, "--intent-to-add", "--", ".", GIT_INDEX_FILE=str(index))
        return
    listed = await git(*NEW_FILES, GIT_INDEX_FILE=str(index))
    if text := await asyncio.to_thread(marks, record, names(listed)):
        await git(*MARK, stdin=text, GIT_INDEX_FILE=str(index))


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
