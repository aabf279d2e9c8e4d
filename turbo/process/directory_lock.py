"""The lock of a directory in which programs run. It is free only when the programs of its last holder have ended.

    free ──take──▶ held ──sign──▶ signed: programs may run ──clear──▶ held ──release──▶ free
                                     └── the holder is killed ──await_free: its programs are ended──▶ free

The kernel releases a lock when its holder dies. The holder's program may live a few seconds longer, until the watcher
ends it. So a holder signs the lock file while a program runs, and clears the signature before it releases the lock. A
process that finds the signature of a dead holder first ends that holder's programs, as the watcher does. This works
even if the watcher is gone too.
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
"""Time between two checks whether a holder that lost its lock has exited."""


def lock_path(locks: Path, directory: Path) -> Path:
    """The lock file of a directory, given by its real path."""
    return locks / f"{hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]}.lock"


class DirectoryLock:
    """The lock of one directory. Calls block. Each object holds its own lock, also within one process."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def take(self) -> bool:
        """Take it without waiting. False if another process holds it, or its last holder died. Raises OSError."""
        if not self._lock.take():
            return False
        if os.fstat(self._lock.descriptor).st_size:
            self._lock.release()
            return False
        return True

    def await_free(self) -> None:
        """Wait until no process holds it, and end the programs of a dead holder. Does not take it. Raises OSError."""
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
        """Record whose programs run in the directory from now on: those of `journal`, this process's own."""
        me = process_table.find(os.getpid())
        holder = {"journal": str(journal), "pid": os.getpid(), "start": me.start if me else 0}
        os.pwrite(self._lock.descriptor, json.dumps({**holder, "boot": process_table.boot()}).encode(), 0)

    def clear(self) -> None:
        """Remove the signature: the program in the directory has ended."""
        os.ftruncate(self._lock.descriptor, 0)

    def release(self) -> None:
        """Release it, signed or not."""
        self._lock.release()

    def remove(self) -> None:
        """Remove the lock file. Only while it is held."""
        self._lock.remove()


def _end_leftovers_of(content: bytes, lock: Path) -> bool:
    """End the programs of the holder that signed with `content`. False while that holder is still alive.

    A killed process loses its locks a moment before it is gone, and no program of a living worker may be ended.
    """
    try:
        holder = json.loads(content)
        journal, pid, start, boot = Path(holder["journal"]), holder["pid"], holder["start"], holder["boot"]
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("%s: its last holder cannot be read; the directory is treated as free", lock)
        return True
    row = process_table.find(pid)
    if row is not None and not row.zombie and (row.start, process_table.boot()) == (start, boot):
        return False
    if ended := end_leftovers(journal):
        log.warning("ended %d programs that a dead worker had left running in a directory", len(ended))
    return True
