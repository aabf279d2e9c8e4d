"""One task at a time in a directory, on this host: `exclusive_cwd`.

    free ──before a claim: flock──▶ reserved ──the claim took a task for it──▶ in use ──its run is over──▶ free
      ▲                                └──it took none──▶ free
      └──the holder lets go, or is dead and all it left has ended──── awaited ◀──somebody else holds it── (a try)

The lock is a file in the state directory, named after the directory's real path, so all workers of the host that share
a state directory agree, whichever executors they name it in. An executor's fixed directory is locked before the claim:
while it is busy its task types are not claimed (`types`), and a claim that could take such a task takes one. A
directory that a row chose is known only afterwards: if it stays busy, `enter` raises NotNow, and the task is given back.

The kernel gives a lock back when its holder dies, but the holder's program may outlive it by the seconds its watcher
needs. So a holder writes down who it is, and clears that before it lets go; whoever finds the name of a dead one ends
what that one left, as the watcher does, before the directory counts as free. That holds without the watcher, too.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from turbo.domain.run import NotNow
from turbo.domain.task import Task
from turbo.domain.type_filter import TaskTypes, executor_of, types_served
from turbo.process import table as process_table
from turbo.process.reaper import end_leftovers

log = logging.getLogger(__name__)

BUSY_SECONDS = (10.0, 20.0)
"""After how long a task whose row chose a busy directory may be claimed again; jittered between the two."""

PATIENCE_SECONDS = 1.0
"""How long such a task waits in its slot before: a claim elsewhere has the directory reserved for some milliseconds."""

EXIT_SECONDS = 0.05
"""Between two looks whether a holder that lost its lock is gone."""

RETRY_SECONDS = 5.0
"""Until a lock file that could not be opened is tried again."""


def lock_path(locks: Path, directory: Path) -> Path:
    """The lock of a directory, which is given by its real path."""
    return locks / f"{hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]}.lock"


class LockFile:
    """The lock of one directory. Blocking calls; each object of its own, also within a process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Without waiting. False when somebody holds it, or held it last and died with it. Raises OSError."""
        self._open()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        if os.fstat(self._descriptor).st_size:
            self.release()
            return False
        if not self._is_there():
            self.release()
            return self.take()
        return True

    def await_free(self) -> None:
        """Wait until nobody holds it, and end what a dead holder left. It is not taken. Raises OSError."""
        self._open()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            while content := os.pread(self._descriptor, 65536, 0):
                if _end_what_is_left(content, self._path):
                    os.ftruncate(self._descriptor, 0)
                else:
                    time.sleep(EXIT_SECONDS)
        finally:
            self.release()

    def sign(self, journal: Path) -> None:
        """Write down whose programs are in the directory from now on: those of `journal`, this process's."""
        me = process_table.find(os.getpid())
        holder = {"journal": str(journal), "pid": os.getpid(), "start": me.start if me else 0}
        os.pwrite(self._descriptor, json.dumps({**holder, "boot": process_table.boot()}).encode(), 0)

    def release(self) -> None:
        """Let go, signed or not. Explicitly: a forked child may hold a copy of the descriptor."""
        if self._descriptor >= 0:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """The file, while the caller holds it. Who waits for it finds that out."""
        self._path.unlink(missing_ok=True)

    def clear(self) -> None:
        """The program in the directory is gone: what was signed no longer holds."""
        os.ftruncate(self._descriptor, 0)

    def _is_there(self) -> bool:
        """Whether the file that is locked still has its name: a holder may have removed it meanwhile."""
        try:
            return os.fstat(self._descriptor).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _end_what_is_left(content: bytes, lock: Path) -> bool:
    """End what the holder that signed with `content` left. False while the holder itself is still there: a process
    that is killed loses its locks some moments before it is gone, and nothing of a living worker's may be ended."""
    try:
        holder = json.loads(content)
        journal, pid, start, boot = Path(holder["journal"]), holder["pid"], holder["start"], holder["boot"]
    except (ValueError, KeyError, TypeError):
        log.warning("%s: its last holder cannot be read; taking it for free", lock)
        return True
    row = process_table.find(pid)
    if row is not None and not row.zombie and (row.start, process_table.boot()) == (start, boot):
        return False
    if ended := end_leftovers(journal):
        log.warning("ended %d programs that a dead worker left, before its directory is used again", len(ended))
    return True


class ExclusiveDirectories:
    """The exclusive directories of one worker process. All on the event loop, but for the waiting for a busy one."""

    def __init__(
        self,
        locks: Path,
        journal: Path,
        fixed: Mapping[str, Path],
        routes: Mapping[str, str],
        opened: Callable[[], None],
    ) -> None:
        """`locks`: where the lock files are, one place per host. `journal`: this worker's. `fixed`: the directory of each
        exclusive executor that has one. `opened` is called when one of those may be free."""
        self._locks = locks
        self._journal = journal
        self._fixed = {name: path.expanduser() for name, path in fixed.items()}
        self._routes = routes
        self._opened = opened
        self._reserved: dict[Path, LockFile] = {}
        self._used: dict[Path, tuple[LockFile, int]] = {}  # by which claim (fencing token)
        self._awaited: dict[Path, asyncio.Event] = {}
        self._types: TaskTypes | None = None

    # ── the claimer's side ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def types(self) -> TaskTypes:
        """What may be claimed beside the directories known to be busy."""
        if self._types is None:
            busy = {
                n for n, path in self._fixed.items() if (real := path.resolve()) in self._used or real in self._awaited
            }
            self._types = types_served(self._routes, lambda executor: executor not in busy)
        return self._types

    def reserve(self) -> bool:
        """Before a claim: take every fixed directory that can be had. True: the claim may take one task, and `assign`
        keeps its directory; `let_go` follows in any case."""
        for real in {path.resolve() for path in self._fixed.values()}:
            if real not in self._used and real not in self._awaited and (lock := self._take(real)) is not None:
                self._reserved[real] = lock
        return bool(self._reserved)

    def assign(self, task: Task) -> None:
        """The claim took this task: its executor's directory is its own until `run_ended`."""
        path = self._fixed.get(executor_of(self._routes, task.task_type) or "")
        if path is not None and (lock := self._reserved.pop(path.resolve(), None)) is not None:
            self._use(path.resolve(), lock, task.fencing_token)

    def let_go(self) -> None:
        """After a claim: what it did not need."""
        while self._reserved:
            self._reserved.popitem()[1].release()

    # ── the runs' side ──────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def enter(self, directory: Path, task: Task) -> AsyncIterator[None]:
        """Run in `directory`, alone. Raises NotNow when somebody else does, and goes on to."""
        real = directory.resolve()
        if (used := self._used.get(real)) is not None and used[1] == task.fencing_token:
            yield  # came with the claim, goes with `run_ended`
            return
        self.run_ended(task.fencing_token)  # the row chose another directory than the executor's
        self._use(real, await self._wait_for(real), task.fencing_token)
        try:
            yield
        finally:
            self._free(real)

    def run_ended(self, fencing_token: int) -> None:
        """A run is over and its program gone."""
        for real in [real for real, (_, token) in self._used.items() if token == fencing_token]:
            self._free(real)

    # ── the locks ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, real: Path) -> LockFile | None:
        lock = LockFile(lock_path(self._locks, real))
        try:
            if lock.take():
                return lock
        except OSError as error:
            log.warning("cannot lock the directory %s: %s", real, error)
        self._await(real, lock)
        return None

    async def _wait_for(self, real: Path) -> LockFile:
        now = asyncio.get_running_loop().time
        until = now() + PATIENCE_SECONDS
        while (lock := self._take(real)) is None:
            if now() >= until:
                raise NotNow(f"another task is at work in {real}", random.uniform(*BUSY_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(until - now()):
                    await self._awaited[real].wait()
        return lock

    def _use(self, real: Path, lock: LockFile, fencing_token: int) -> None:
        with suppress(OSError):  # a full disk: then no program can be journalled either, and none is started
            lock.sign(self._journal)
        self._used[real] = lock, fencing_token
        self._types = None

    def _free(self, real: Path) -> None:
        lock, _ = self._used.pop(real)
        with suppress(OSError):
            lock.clear()
        lock.release()
        self._changed()

    def _await(self, real: Path, lock: LockFile) -> None:
        """Learn when it is free, from a thread that waits for the lock. It does not keep it: this worker may be full."""
        if real in self._awaited:
            return
        self._awaited[real] = asyncio.Event()
        self._types = None
        loop = asyncio.get_running_loop()

        def wait() -> None:
            try:
                lock.await_free()
            except OSError:
                time.sleep(RETRY_SECONDS)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._is_free, real)

        threading.Thread(target=wait, name=f"turbo-directory-{real.name}", daemon=True).start()

    def _is_free(self, real: Path) -> None:
        self._awaited.pop(real).set()
        self._changed()

    def _changed(self) -> None:
        self._types = None
        self._opened()
