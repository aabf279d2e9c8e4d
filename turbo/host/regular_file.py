"""Opens files that a program may have replaced: by a link, a FIFO, a device, another user's file, or one without end.

A plain open() would follow the link, wait for the FIFO's other end, and read whatever it is given. These functions
open a regular file, and nothing else. They never wait.
"""

import errno
import os
import stat
from pathlib import Path

_CLOSED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class NotRegular(OSError):
    """It is a link, a FIFO, a device, too large, or another user's. The message names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, message)

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path, *, below: Path | None = None, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of the regular file `path`. Raises OSError.

    `below`: a directory above it. Then no directory between the two may be a link, and the file must belong to the owner
    of `below`, or to this process's user: a name in the directory must not lead to what its owner could not read.
    """
    if below is None:
        descriptor = _open(path, flags, mode)
        owners = None
    else:
        directory, owner = _parent_below(path, below)
        try:
            descriptor = _open(path, flags, mode, directory)
        finally:
            os.close(directory)
        owners = {owner, os.geteuid()} - ({0} if owner else set())
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise NotRegular(f"{path}: is not a regular file")
    if owners is not None and state.st_uid not in owners:
        os.close(descriptor)
        raise NotRegular(f"{path}: belongs to user {state.st_uid}, unlike the directory {below}")
    return descriptor


def read_regular(path: Path, limit: int, *, below: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes. `below`: see `open_regular`. Raises OSError."""
    with os.fdopen(open_regular(path, below=below), "rb") as file:
        large = os.fstat(file.fileno()).st_size > limit
        content = b"" if large else file.read(limit + 1)
    if large or len(content) > limit:
        raise NotRegular(f"{path}: is larger than {limit} bytes")
    return content


def _open(path: Path, flags: int, mode: int, directory: int | None = None) -> int:
    try:
        return os.open(path.name if directory is not None else path, flags | _CLOSED, mode, dir_fd=directory)
    except OSError as error:
        if path.is_symlink():
            raise NotRegular(f"{path}: is a symbolic link") from error
        if error.errno == errno.ENXIO:
            raise NotRegular(f"{path}: is a FIFO or a socket") from error
        raise


def _parent_below(path: Path, below: Path) -> tuple[int, int]:
    """The directory of `path`, reached from `below` without following a link, and the owner of `below`."""
    here = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    owner = os.fstat(here).st_uid
    try:
        for name in path.parent.relative_to(below).parts:
            if name == "..":
                raise NotRegular(f"{path}: is not in {below}")
            inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inside
    except BaseException:
        os.close(here)
        raise
    return here, owner
