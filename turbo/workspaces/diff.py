"""What a task changed, as a diff: for `turbo diff`, even while the task runs. Synchronous and read-only."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from turbo.domain.task import NO_TASK
from turbo.process.environment import ChildEnvironment
from turbo.process.identity import Identity
from turbo.process.launch import resolve
from turbo.workspaces import files
from turbo.workspaces.changes import DIFF, NEW_FILES, IndexCopy, start_objects
from turbo.workspaces.git import SECONDS, GitFailed, error_text, git_environment
from turbo.workspaces.record import Record

CHUNK_BYTES = 256 * 1024


def diff_of(record: Record, *flags: str) -> Iterator[bytes]:
    """The diff from the files with which the task began to its files now, new ones included.

    If the worktree is gone, the diff goes from its commit to its branch. `flags` are those of git diff. Raises GitFailed,
    SpawnFailed, OSError.
    """
    environment = ChildEnvironment({}).for_task(NO_TASK)
    tree, git_dir = Path(record.tree), Path(record.git_dir)
    user = files.owner_of(record.user)
    environment = environment if user is None else user.own(environment)
    if not (tree.is_dir() if user is None else user.script('[ -d "$1" ]', tree).returncode == 0):
        repo = Path(record.repo)
        branch = f"refs/heads/{record.branch}"
        yield from _run(user, (*DIFF, *flags, record.start, branch, "--"), git_environment(environment, repo), repo)
        return
    with _scratch(user) as directory, IndexCopy(git_dir, directory, user) as index:
        variables = git_environment(environment, tree, git_dir) | {
            "GIT_INDEX_FILE": str(index),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(record),
        }
        with _start(user, NEW_FILES, variables, tree, subprocess.DEVNULL, subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        yield from _run(user, (*DIFF, *flags, record.start_tree or record.base, "--"), variables, tree)


def _git(environment: Mapping[str, str], where: Path) -> str:
    return resolve("git", environment.get("PATH"), where)


@contextmanager
def _scratch(user: Identity | None) -> Iterator[Path]:
    """An empty directory, gone afterwards."""
    if user is None:
        with tempfile.TemporaryDirectory(prefix="turbo-diff-") as directory:
            yield Path(directory)
        return
    place = user.scratch()
    try:
        yield place
    finally:
        user.remove(place)


def _start(
    user: Identity | None,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    where: Path,
    stdout: int,
    stderr: int | IO[bytes],
) -> "subprocess.Popen[bytes]":
    """git, as the user whose the worktree is: what its repository makes git run has that user's rights, not ours."""
    ends: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
    if user is None:
        return subprocess.Popen([_git(environment, where), *arguments], env=environment, cwd=where, **ends)
    enter = ["/bin/sh", "-c", 'cd -- "$1" && shift && exec git "$@"', "turbo", str(where)]
    return user.popen([*enter, *arguments], env=environment, **ends)


def _run(
    user: Identity | None, arguments: tuple[str, ...], environment: dict[str, str], where: Path
) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as errors:
        with _start(user, arguments, environment, where, subprocess.PIPE, errors) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
        if process.returncode != 0:
            errors.seek(0)
            text = errors.read(8192).decode("utf-8", "replace")
            raise GitFailed(f"git diff in {where}: {error_text(text) or f'exit code {process.returncode}'}")
