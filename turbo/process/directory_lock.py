"""The lock of a directory in which programs run: free only once the programs of its last holder are gone.

    free ──take──▶ held ──sign──▶ signed: programs may run ──clear──▶ held ──release──▶ free
                                     └── the holder is killed ──await_free: what it left is ended──▶ free

The kernel gives a lock back when its holder dies, but the holder's program may outlive it by the seconds its watcher
needs. So a holder writes down who it is, and clears that before it lets go. A process that finds the name of a dead
holder ends what that one left, as the watcher does, before the directory counts as free. This holds without a watcher.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from turbo.host.file_lock import FileLock
from turbo.process import table as process_table
from turbo.process.reaper import end_leftovers

log = logging.getLogger(__name__)

EXIT_SECONDS = 0.05
"""Between two checks whether a holder that lost its lock is gone."""


def lock_path(locks: Path, directory: Path) -> Path:
    """The lock file of a directory, which is given by its real path."""
    return locks / f"{hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]}.lock"


class DirectoryLock:
    """The lock of one directory. Calls block; each object holds its own, also within a process."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def take(self) -> bool:
        """Take it without waiting. False when another process holds it, or held it last and died. Raises OSError."""
        if not self._lock.take():
            return False
        if os.fstat(self._lock.descriptor).st_size:
            self._lock.release()
            return False
        return True

    def await_free(self) -> None:
        """Wait until no process holds it, and end what a dead holder left. It is not taken. Raises OSError."""
        try:
            self._lock.wait()
            while content := os.pread(self._lock.descriptor, 65536, 0):
                if _end_leftovers_of(content, self._lock.path):
                    os.ftruncate(self._lock.descriptor, 0)
                else:
                    time.sleep(EXIT_SECONDS)
        finally:
            self._lock.release()

    def sign(self, journal: Path) -> None:
        """Write down whose programs are in the directory from now on: those of `journal`, this process's."""
        me = process_table.find(os.getpid())
        holder = {"journal": str(journal), "pid": os.getpid(), "start": me.start if me else 0}
        os.pwrite(self._lock.descriptor, json.dumps({**holder, "boot": process_table.boot()}).encode(), 0)

    def clear(self) -> None:
        """The program in the directory is gone: the signature no longer holds."""
        os.ftruncate(self._lock.descriptor, 0)

    def release(self) -> None:
        """Let go, signed or not."""
        self._lock.release()

    def remove(self) -> None:
        """Remove the lock file, while it is held."""
        self._lock.remove()


def _end_leftovers_of(content: bytes, lock: Path) -> bool:
    """End what the holder that signed with `content` left. False while that holder is still there.

    A process that is killed loses its locks some moments before it is gone, and nothing of a living worker may be ended.
    """
    try:
        holder = json.loads(content)
        journal, pid, start, boot = Path(holder["journal"]), holder["pid"], holder["start"], holder["boot"]
    except (ValueError, KeyError, TypeError):
        log.warning("%s: the signature of its last holder is unreadable; the directory counts as free", lock)
        return True
    row = process_table.find(pid)
    if row is not None and not row.zombie and (row.start, process_table.boot()) == (start, boot):
        return False
    if ended := end_leftovers(journal):
        log.warning("ended %d programs that a dead worker left in a directory that is used again", len(ended))
    return True
