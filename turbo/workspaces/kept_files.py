"""Finds and reads the files of a directory that an executor's `files` names. An agent made the directory: anything may be in it.

No link is followed, as a file or as a directory on the way: each step is opened below the one before it. Nothing but a regular file
is opened, of the owner of the directory or of this process's user. Names, time, depth and sizes are bounded.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from turbo.domain.kept import (
    FILE_BYTES,
    MOST_FILES,
    MOST_NOTES,
    OWN_DIRECTORY,
    PATH_BYTES,
    TASK_BYTES,
    Kept,
    KeptFile,
    LeftOut,
)
from turbo.workspaces.globs import Globs

MOST_NAMES = 200_000
MOST_SECONDS = 20.0
MOST_LEVELS = 40

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a directory"),
)


class _Enough(Exception):
    """A bound is reached."""


def keep_files(
    directory: Path,
    patterns: Sequence[str],
    *,
    room: int = TASK_BYTES,
    most_names: int = MOST_NAMES,
    seconds: float = MOST_SECONDS,
) -> Kept:
    """The files below `directory` that match. `room`: bytes for all of them. Blocks on the disk, for about `seconds` at most."""
    return _Walk(Globs(patterns), room, most_names, time.monotonic() + seconds).of(directory)


class _Walk:
    def __init__(self, globs: Globs, room: int, names: int, until: float) -> None:
        self._globs = globs
        self._room = room
        self._names = names
        self._until = until
        self._files: list[KeptFile] = []
        self._left: list[LeftOut] = []
        self._unsaid = 0
        self._owners: set[int] = set()

    def of(self, directory: Path) -> Kept:
        try:
            top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return Kept(left_out=(LeftOut("", f"the directory cannot be read: {error.strerror}"),))
        try:
            owner = os.fstat(top).st_uid
            self._owners = {owner, os.geteuid()} - ({0} if owner else set())
            self._directory(top, "", 0)
        except _Enough as bound:
            self._left.insert(0, LeftOut("", f"the search ended early: {bound}"))
        finally:
            os.close(top)
        if self._unsaid:
            self._left.append(LeftOut("", f"{self._unsaid} more"))
        return Kept(tuple(self._files), tuple(self._left))

    def _directory(self, here: int, prefix: str, level: int) -> None:
        for name in self._listed(here):
            path = prefix + name
            if name == ".git" or path == OWN_DIRECTORY:
                continue
            if time.monotonic() > self._until:
                raise _Enough("it took too long")
            matches, below = self._globs.match(path), self._globs.may_hold(path)
            if not matches and not below:
                continue
            try:
                kind = os.lstat(name, dir_fd=here).st_mode
                if stat.S_ISDIR(kind) and below:
                    self._below(here, name, path, level)
                elif matches:
                    self._file(here, name, path, kind)
            except OSError as error:
                if matches:
                    self._leave(path, error.strerror or type(error).__name__)

    def _listed(self, here: int) -> Iterator[str]:
        with os.scandir(here) as entries:
            found = [entry.name for entry in islice(entries, self._names + 1)]
        if len(found) > self._names:
            raise _Enough("the directory has too many files")
        self._names -= len(found)
        yield from sorted(found)

    def _below(self, here: int, name: str, path: str, level: int) -> None:
        if level >= MOST_LEVELS:
            self._leave(path, f"it is more than {MOST_LEVELS} directories deep")
            return
        inside = os.open(name, _DIRECTORY, dir_fd=here)
        try:
            self._directory(inside, f"{path}/", level + 1)
        finally:
            os.close(inside)

    def _file(self, here: int, name: str, path: str, kind: int) -> None:
        if not stat.S_ISREG(kind):
            what = next((what for is_kind, what in _KINDS if is_kind(kind)), "a device")
            self._leave(path, f"it is {what}, not a regular file")
            return
        if (why := _unstorable(path)) is not None:
            self._leave(path, why)
            return
        opened = os.open(name, _FILE, dir_fd=here)
        with os.fdopen(opened, "rb", buffering=0) as file:
            before = os.fstat(opened)
            why = self._refused(before)
            content = b"" if why is not None else _read(opened, before.st_size)
            after = os.fstat(opened)
            if why is None and (len(content), after.st_size, after.st_mtime_ns) != (
                before.st_size, before.st_size, before.st_mtime_ns,
            ):  # fmt: skip
                why = "it changed while it was read"
            del file
        if why is not None:
            self._leave(path, why)
            return
        self._room -= len(content)
        self._files.append(KeptFile(path, content))

    def _refused(self, state: os.stat_result) -> str | None:
        if not stat.S_ISREG(state.st_mode):
            return "it is not a regular file"
        if state.st_uid not in self._owners:
            return "it belongs to another user"
        if state.st_size > FILE_BYTES:
            return f"it is larger than {FILE_BYTES // 1024**2} MiB"
        if state.st_size > self._room:
            return f"the files of a task are larger than {TASK_BYTES // 1024**2} MiB together"
        if len(self._files) >= MOST_FILES:
            return f"there are more than {MOST_FILES} files"
        return None

    def _leave(self, path: str, why: str) -> None:
        if len(self._left) < MOST_NOTES:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            self._left.append(LeftOut(shown[:PATH_BYTES], why))
        else:
            self._unsaid += 1


def _unstorable(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return f"its name is longer than {PATH_BYTES} bytes" if size > PATH_BYTES else None


def _read(opened: int, size: int) -> bytes:
    """Up to one byte more than `size`."""
    pieces, wanted = [], size + 1
    while wanted > 0 and (piece := os.read(opened, min(wanted, 1024**2))):
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)
