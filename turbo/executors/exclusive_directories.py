"""One task at a time in a directory, on this host: `exclusive_cwd`.

    free ──before a claim: flock──▶ reserved ──the claim took a task for it──▶ in use ──its run is over──▶ free
      ▲                                └──it took none──▶ free
      └──the holder lets go, or is dead and all it left has ended──── awaited ◀──somebody else holds it── (a try)

The lock is a file in the state directory, named after the directory's real path, so all workers of the host that share
a state directory agree, whichever executors they name it in. An executor's fixed directory is locked before the claim:
while it is busy its task types are not claimed (`types`), and a claim that could take such a task takes one. A
directory that a row chose is known only afterwards: if it stays busy, `enter` raises Snooze, and the task is given back.

A directory whose last holder was killed counts as free once that one's programs are gone (turbo.process.directory_lock).
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
from turbo.domain.type_filter import TypeFilter, executor_of, served_types
from turbo.process.directory_lock import DirectoryLock, lock_path

log = logging.getLogger(__name__)

BUSY_SECONDS = (10.0, 20.0)
"""After how long a task whose row chose a busy directory may be claimed again; jittered between the two."""

PATIENCE_SECONDS = 1.0
"""How long such a task waits in its slot before: a claim elsewhere has the directory reserved for some milliseconds."""

RETRY_SECONDS = 5.0
"""Until a lock file that could not be opened is tried again."""


class ExclusiveDirectories:
    """The exclusive directories of one worker process. All on the event loop, but for the waiting for a busy one."""

    def __init__(
        self,
        locks: Path,
        journal: Path,
        fixed: Mapping[str, Path],
        routes: Mapping[str, str],
        on_free: Callable[[], None],
    ) -> None:
        """`locks`: where the lock files are, one place per host. `journal`: this worker's. `fixed`: the directory of each
        exclusive executor that has one. `on_free` is called when one of those may be free."""
        self._locks = locks
        self._journal = journal
        self._fixed = {name: path.expanduser() for name, path in fixed.items()}
        self._routes = routes
        self._on_free = on_free
        self._reserved: dict[Path, DirectoryLock] = {}
        self._in_use: dict[Path, tuple[DirectoryLock, int]] = {}  # by which claim (fencing token)
        self._awaited: dict[Path, asyncio.Event] = {}
        self._types: TypeFilter | None = None

    # ── the claimer's side ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def types(self) -> TypeFilter:
        """What may be claimed beside the directories known to be busy."""
        if self._types is None:
            busy = {
                n
                for n, path in self._fixed.items()
                if (real := path.resolve()) in self._in_use or real in self._awaited
            }
            self._types = served_types(self._routes, lambda executor: executor not in busy)
        return self._types

    def reserve(self) -> bool:
        """Before a claim: take every fixed directory that can be had. True: the claim may take one task, and `assign`
        keeps its directory; `let_go` follows in any case."""
        for real in {path.resolve() for path in self._fixed.values()}:
            if real not in self._in_use and real not in self._awaited and (lock := self._take(real)) is not None:
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
        """Run in `directory`, alone. Raises Snooze when somebody else does, and goes on to."""
        real = directory.resolve()
        if (holder := self._in_use.get(real)) is not None and holder[1] == task.fencing_token:
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
                raise Snooze(f"another task is at work in {real}", random.uniform(*BUSY_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(until - now()):
                    await self._awaited[real].wait()
        return lock

    def _use(self, real: Path, lock: DirectoryLock, fencing_token: int) -> None:
        with suppress(OSError):  # a full disk: then no program can be journalled either, and none is started
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
        self._on_free()
