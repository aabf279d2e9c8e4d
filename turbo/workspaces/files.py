"""The few things that turbo does with the files of a worktree besides git: as the user whom they belong to.

Those of another user (`run_as`) are only touched by a shell of that user. An agent's links and directories can lead that
shell nowhere that the agent could not go itself, and a worker that is not root could not touch them at all.
"""

import asyncio
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from turbo.host.regular_file import read_regular
from turbo.process.identity import Identity, IdentityRefused, identity_of

_LOOK = """
[ -$1 "$2" ] && echo yes && exit
path=$2
while [ ! -e "$path" ] && [ -n "$path" ]; do path=${path%/*}; done
if [ -d "$path" ] && [ ! -x "$path" ]; then echo "$path: cannot look into it" >&2; exit 1; fi
echo no
"""
"""A path is missing only if the nearest directory that exists above it can be searched."""


async def exists(user: Identity | None, path: Path, *, directory: bool = False) -> bool:
    """Whether there is such a file, or directory. Raises OSError if nobody can tell: a directory above it is closed to the user."""
    return await asyncio.to_thread(exists_now, user, path, directory=directory)


def exists_now(user: Identity | None, path: Path, *, directory: bool = False) -> bool:
    """The same. Blocks."""
    if user is not None:
        return user.run(_LOOK, "d" if directory else "e", path).strip() == "yes"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return not directory or stat.S_ISDIR(mode)


async def make_directory(user: Identity | None, path: Path) -> None:
    """With its parents, closed to other users. Raises OSError."""
    if user is None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    else:
        await asyncio.to_thread(user.make_directory, path)


async def remove(user: Identity, path: Path) -> None:
    """Remove a directory with everything in it. Raises OSError."""
    await asyncio.to_thread(user.remove, path)


async def unlink(user: Identity | None, paths: list[Path]) -> list[Path]:
    """Remove files, if they exist. Returns those that did. Raises OSError."""
    if user is not None:
        script = 'for path; do [ -e "$path" ] && rm -f -- "$path" && printf "%s\\n" "$path"; done; true'
        return [Path(line) for line in (await asyncio.to_thread(user.run, script, *paths)).splitlines()]
    removed = []
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()
            removed.append(path)
    return removed


def copy(user: Identity | None, source: Path, target: Path, limit: int) -> None:
    """Copy a regular file of at most `limit` bytes, if there is one; `target` is replaced. Raises OSError."""
    if user is not None:
        user.run('rm -f -- "$2"; [ ! -f "$1" ] || cp -- "$1" "$2"', source, target)
        return
    target.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        content = read_regular(source, limit)
        created = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(created, "wb") as file:
            file.write(content)


def delete(user: Identity | None, path: Path) -> None:
    """Remove a file, if there is one. Raises OSError."""
    if user is not None:
        user.run('rm -f -- "$1"', path)
    else:
        path.unlink(missing_ok=True)


def has_entries(user: Identity | None, directory: Path) -> bool:
    """Whether a directory exists and is not empty. Raises OSError."""
    if user is not None:
        return bool(user.run('[ ! -d "$1" ] || ls -A -- "$1"', directory))
    return any(directory.glob("*"))


def size(user: Identity | None, directory: Path) -> int:
    """Bytes on disk of another user's directory; 0 if there is none, or nobody may look."""
    if user is None:
        return 0
    try:
        words = user.run('[ ! -d "$1" ] || du -sk -- "$1" 2>/dev/null', directory).split()
    except OSError:
        return 0
    return int(words[0]) * 1024 if words and words[0].isascii() and words[0].isdigit() else 0


def owner_of(name: str) -> Identity | None:
    """The user of a record; None for this process's own. Raises OSError if there is no such user here any more."""
    try:
        return identity_of(name) if name else None
    except IdentityRefused as error:
        raise OSError(str(error)) from None


def is_directory(path: Path) -> bool:
    """False also for one that this process may not look at."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises PermissionError
