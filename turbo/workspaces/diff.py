"""What a task changed, as a diff: for `turbo diff`, even while the task runs. Synchronous and read-only.

git runs isolated, as in a worker: it runs no program that the repository names, and ends in bounded time.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

from turbo.domain.task import NO_TASK
from turbo.process.environment import ChildEnvironment
from turbo.process.identity import Identity, powers_over
from turbo.process.launch import resolve
from turbo.workspaces import files
from turbo.workspaces.changes import ADD, DIFF, MARK, NEW_FILES, IndexCopy, marks, names, start_objects
from turbo.workspaces.git import OUTPUT_BYTES, SECONDS, GitFailed, error_text, git_environment, unread_filters
from turbo.workspaces.isolation import git_dirs, isolate
from turbo.workspaces.odd_files import REASON, USUAL_SECONDS, OddFile, Places
from turbo.workspaces.record import Record

CHUNK_BYTES = 256 * 1024
DIFF_SECONDS = 300.0


def diff_of(record: Record, *flags: str, config: Path | None = None) -> Iterator[bytes]:
    """The diff from the files with which the task began to its files now, new ones included.

    If the worktree is gone, the diff goes from its commit to its branch. `flags` are those of git diff. `config`: the
    executor's `workspace.git_config`. Raises GitFailed, SpawnFailed, OSError.
    """
    user = files.owner_of(record.user)
    yield from _our_diff(record, flags, config) if user is None else _their_diff(user, record, flags, config)


def _our_diff(record: Record, flags: Sequence[str], config: Path | None) -> Iterator[bytes]:
    environment = ChildEnvironment({}).for_task(NO_TASK)
    tree, repo = Path(record.tree), Path(record.repo)
    dirs = git_dirs(repo)
    with tempfile.TemporaryDirectory(prefix="turbo-diff-") as directory:
        isolated = isolate(Path(directory) / "git", dirs, environment.get("HOME"), config)
        if not tree.is_dir():
            branch = f"refs/heads/{record.branch}"
            variables = git_environment(environment, repo, dirs.own, isolated, config)
            places = Places(repo, environment, dirs.own, isolated)
            yield from stream_git((*DIFF, *flags, record.start, branch, "--"), variables, places)
            return
        git_dir = dirs.common / "worktrees" / Path(record.git_dir).name
        with IndexCopy(git_dir, Path(directory)) as index:
            variables = git_environment(environment, tree, git_dir, isolated, config) | {
                "GIT_INDEX_FILE": str(index),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(record),
            }
            places = Places(tree, environment, git_dir, isolated)
            new = b"".join(stream_git(NEW_FILES, variables, places, seconds=SECONDS, limit=OUTPUT_BYTES))
            if text := marks(record, names(os.fsdecode(new))):
                b"".join(stream_git(MARK, variables, places, os.fsencode(text), seconds=SECONDS))
            try:
                yield from stream_git((*DIFF, *flags, record.start_tree or record.base, "--"), variables, places)
            except GitFailed as error:
                raise GitFailed(f"{error}{unread_filters(str(error), isolated, config)}") from None


def _their_diff(user: Identity, record: Record, flags: Sequence[str], config: Path | None) -> Iterator[bytes]:
    """Of another user's worktree: all of it as that user, so what the repository makes git run has no more rights."""
    environment = user.own(ChildEnvironment({}).for_task(NO_TASK))
    tree, repo = Path(record.tree), Path(record.repo)
    if not files.exists_now(user, tree, directory=True):
        branch = f"refs/heads/{record.branch}"
        words = (*DIFF, *flags, record.start, branch, "--")
        yield from stream_git(
            words, git_environment(environment, repo, config=config), Places(repo, environment, user=user)
        )
        return
    git_dir, scratch = Path(record.git_dir), user.scratch()
    try:
        with IndexCopy(git_dir, scratch, user) as index:
            variables = git_environment(environment, tree, git_dir, config=config) | {
                "GIT_INDEX_FILE": str(index),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(record),
            }
            places = Places(tree, environment, git_dir, user=user)
            with suppress(GitFailed):  # a nested repository without a commit is left out
                b"".join(stream_git((*ADD, "--intent-to-add", "--", "."), variables, places, seconds=SECONDS))
            yield from stream_git((*DIFF, *flags, record.start_tree or record.base, "--"), variables, places)
    finally:
        user.remove(scratch)


def _git(environment: Mapping[str, str], where: Path) -> str:
    return resolve("git", environment.get("PATH"), where)


def _start(
    user: Identity | None, arguments: Sequence[str], environment: dict[str, str], where: Path, **ends: Any
) -> "subprocess.Popen[bytes]":
    if user is None:
        return subprocess.Popen([_git(environment, where), *arguments], env=environment, cwd=where, **ends)
    enter = ["/bin/sh", "-c", 'cd -- "$1" && shift && exec git "$@"', "turbo", str(where)]
    return user.popen([*enter, *arguments], env=environment, **ends)


def stream_git(
    arguments: Sequence[str],
    environment: dict[str, str],
    places: Places,
    stdin: bytes = b"",
    *,
    seconds: float = DIFF_SECONDS,
    limit: int | None = None,
) -> Iterator[bytes]:
    """Its output in chunks. git and what it started are ended after `seconds`, when it waits for a file that is none, and when the
    caller takes no more."""
    where, user = places.where, places.user
    what = f"git {arguments[0]} in {where}"
    try:
        places.refuse_known()
    except OddFile as error:
        raise GitFailed(f"{what}: {error}") from None
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = _start(
            user, arguments, environment, where,
            stdin=given, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        late = Timer(seconds, _end, (process, user))
        odd: list[Path] = []
        watch = Timer(USUAL_SECONDS, _end_if_odd, (process, places, odd))
        for timer in (late, watch):
            timer.daemon = True
            timer.start()
        got = 0
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                got += len(chunk)
                if limit is not None and got > limit:
                    raise GitFailed(f"{what}: it lists more than {limit // 1024**2} MiB of names")
                yield chunk
            process.wait()
        finally:
            in_time = late.is_alive()
            late.cancel()
            watch.cancel()
            if process.poll() is None:
                _end(process, user)
            process.stdout.close()
            process.wait()
        if process.returncode != 0 and odd:
            raise GitFailed(f"{what}: {odd[0]} {REASON}")
        if process.returncode != 0:
            errors.seek(0)
            text = errors.read(8192).decode("utf-8", "replace")
            why = (
                error_text(text) or f"exit code {process.returncode}"
                if in_time
                else f"it was ended after {seconds:g} s"
            )
            raise GitFailed(f"{what}: {why}")


def _end_if_odd(process: "subprocess.Popen[bytes]", places: Places, odd: list[Path]) -> None:
    if (found := places.anywhere()) is not None and process.poll() is None:
        odd.append(found)
        _end(process, places.user)


def _end(process: "subprocess.Popen[bytes]", user: Identity | None) -> None:
    powers = powers_over(user.user if user is not None and user.by_sudo else "")
    powers.signal([-process.pid], signal.SIGKILL)
