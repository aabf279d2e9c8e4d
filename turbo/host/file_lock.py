"""An advisory lock on a file (flock), held by one process at a time. The kernel releases it when that process ends.

The holder may remove the file. A process that waited for it then notices that the file it locked has no name any
more, and takes the new file instead. The directory must be on a local disk: flock over NFS grants every request.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from turbo.host.regular_file import open_regular


class FileLock:
    """The lock of one file, created with mode 0600. Each object holds its own, also within a process. Calls block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    @property
    def descriptor(self) -> int:
        """The open file, while the lock is held. The holder may keep data in it."""
        assert self._descriptor >= 0, "the lock is not held"
        return self._descriptor

    def take(self) -> bool:
        """Take it without waiting. False if another process holds it. Raises OSError."""
        while True:
            self._open()
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._has_its_name():
                    return True
            except BlockingIOError:
                self.release()
                return False
            except BaseException:
                self.release()
                raise
            self.release()

    def wait(self) -> None:
        """Take it, however long that takes. The file may have lost its name meanwhile. Raises OSError."""
        self._open()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Release it, held or not. Unlocks explicitly, because a forked child may have a copy of the descriptor."""
        if self._descriptor >= 0:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the file, while the lock is held. A process that waits for the lock notices."""
        self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        self._descriptor = open_regular(self.path, flags=os.O_RDWR | os.O_CREAT)

    def _has_its_name(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of `path` within the block. False if another process holds it. Raises OSError."""
    lock = FileLock(path)
    try:
        yield lock.take()
    finally:
        lock.release()
