"""One task at a time in a directory of this host: `exclusive_cwd`.

    free ──before a claim: flock──▶ reserved ──the claim took a task for it──▶ in use ──its run has ended──▶ free
      ▲                                └──the claim took none──▶ free
      └──the holder releases it, or died and its programs have ended──── awaited ◀──another worker holds it── (flock)

The lock is a file in the state directory, named after the directory's real path. So all workers that share a state
directory agree, whichever executors name the directory.

An executor's fixed directory is locked before the claim. While it is busy, its task types are not claimed (`types`);
a claim that could take such a task takes only one. A directory that a row chose is known only after the claim. If it
stays busy, `enter` raises Snooze, and the task is given back.

If the last holder was killed, the directory is free once that holder's programs are gone
(turbo.process.directory_lock).
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from turbo.domain.run import Snooze
from turbo.domain.task import Task
from turbo.domain.type_filter import Routes, TypeFilter, executors_of, served_types
from turbo.process.directory_lock import DirectoryLock, lock_path

log = logging.getLogger(__name__)

BUSY_SECONDS = (10.0, 20.0)
"""When a task whose row chose a busy directory may be claimed again; a random delay between the two."""

PATIENCE_SECONDS = 1.0
"""How long such a task waits in its slot first: a claim elsewhere may have reserved the directory for milliseconds."""

RETRY_SECONDS = 5.0
"""Delay before a lock file that could not be opened is tried again."""


class ExclusiveDirectories:
    """The exclusive directories of one worker process. All on the event loop, except waiting for a busy one."""

    def __init__(
        self,
        locks: Path,
        journal: Path,
        fixed: Mapping[str, Path],
        routes: Routes,
        on_free: Callable[[], None],
    ) -> None:
        """`locks`: the directory with the lock files, one per host. `journal`: this worker's. `fixed`: the fixed
        directory of each exclusive executor that has one. `on_free` is called when one of those may be free.
        """
        self._locks = locks
        self._journal = journal
        self._fixed = {name: path.expanduser() for name, path in fixed.items()}
        self._routes = routes
        self._on_free = on_free
        self._reserved: dict[Path, DirectoryLock] = {}
        self._in_use: dict[Path, tuple[DirectoryLock, int]] = {}  # and the claim that uses it (fencing token)
        self._awaited: dict[Path, asyncio.Event] = {}
        self._types: TypeFilter | None = None

    # ── the claimer's side ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def types(self) -> TypeFilter:
        """The task types that may be claimed: all except those whose directory is known to be busy."""
        if self._types is None:
            busy = {
                n
                for n, path in self._fixed.items()
                if (real := path.resolve()) in self._in_use or real in self._awaited
            }
            self._types = served_types(self._routes, lambda executor: executor not in busy)
        return self._types

    def reserve(self) -> bool:
        """Before a claim: lock every fixed directory that is free. `let_go` must follow in any case.

        True: the claim may take only one task, and `assign` keeps its directory.
        """
        for real in {path.resolve() for path in self._fixed.values()}:
            if real not in self._in_use and real not in self._awaited and (lock := self._take(real)) is not None:
                self._reserved[real] = lock
        return bool(self._reserved)

    def assign(self, task: Task) -> None:
        """The claim took this task: it keeps its executor's directory until `run_ended`."""
        path = next((self._fixed.get(name) for name in executors_of(self._routes, task.task_type)), None)
        if path is not None and (lock := self._reserved.pop(path.resolve(), None)) is not None:
            self._use(path.resolve(), lock, task.fencing_token)

    def let_go(self) -> None:
        """After a claim: release the directories that it did not need."""
        while self._reserved:
            self._reserved.popitem()[1].release()

    # ── the runs' side ──────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def enter(self, directory: Path, task: Task) -> AsyncIterator[None]:
        """Run alone in `directory`. Raises Snooze if another task keeps running there."""
        real = directory.resolve()
        if (holder := self._in_use.get(real)) is not None and holder[1] == task.fencing_token:
            yield  # locked at the claim, released by `run_ended`
            return
        self.run_ended(task.fencing_token)  # the row chose a directory other than the executor's
        self._use(real, await self._wait_for(real), task.fencing_token)
        try:
            yield
        finally:
            self._free(real)

    def run_ended(self, fencing_token: int) -> None:
        """A run has ended, and its program is gone."""
        for real in [real for real, (_, token) in self._in_use.items() if token == fencing_token]:
            self._free(real)

    # ── the locks ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, real: Path) -> DirectoryLock | None:
        lock = DirectoryLock(lock_path(self._locks, real))
        try:
            if lock.take():
                return lock
        except OSError as error:
            log.warning("cannot lock the directory %s: %s", real, error)
        self._await(real, lock)
        return None

    async def _wait_for(self, real: Path) -> DirectoryLock:
        now = asyncio.get_running_loop().time
        until = now() + PATIENCE_SECONDS
        while (lock := self._take(real)) is None:
            if now() >= until:
                raise Snooze(f"another task is running in {real}", random.uniform(*BUSY_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(until - now()):
                    await self._awaited[real].wait()
        return lock

    def _use(self, real: Path, lock: DirectoryLock, fencing_token: int) -> None:
        with suppress(OSError):  # a full disk: then no program can be journalled or started either
            lock.sign(self._journal)
        self._in_use[real] = lock, fencing_token
        self._types = None

    def _free(self, real: Path) -> None:
        lock, _ = self._in_use.pop(real)
        with suppress(OSError):
            lock.clear()
        lock.release()
        self._changed()

    def _await(self, real: Path, lock: DirectoryLock) -> None:
        """Learn from a thread when the directory is free. The lock is not kept, because this worker may be full."""
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
        self._on_free()
