"""What a task changed, as a diff: for `turbo diff`, even while the task runs. Synchronous and read-only."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from turbo.domain.task import NO_TASK
from turbo.process.environment import ChildEnvironment
from turbo.process.launch import resolve
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
    if not tree.is_dir():
        repo = Path(record.repo)
        branch = f"refs/heads/{record.branch}"
        yield from _run((*DIFF, *flags, record.start, branch, "--"), git_environment(environment, repo), repo)
        return
    with tempfile.TemporaryDirectory(prefix="turbo-diff-") as directory, IndexCopy(git_dir, Path(directory)) as index:
        variables = git_environment(environment, tree, git_dir) | {
            "GIT_INDEX_FILE": str(index),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(record),
        }
        subprocess.run(
            [_git(variables, tree), *NEW_FILES], env=variables, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, timeout=SECONDS, check=False,
        )  # fmt: skip
        yield from _run((*DIFF, *flags, record.start_tree or record.base, "--"), variables, tree)


def _git(environment: Mapping[str, str], where: Path) -> str:
    return resolve("git", environment.get("PATH"), where)


def _run(arguments: tuple[str, ...], environment: dict[str, str], where: Path) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [_git(environment, where), *arguments], env=environment, cwd=where, stdout=subprocess.PIPE, stderr=errors,
            stdin=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
        if process.returncode != 0:
            errors.seek(0)
            text = errors.read(8192).decode("utf-8", "replace")
            raise GitFailed(f"git diff in {where}: {error_text(text) or f'exit code {process.returncode}'}")
