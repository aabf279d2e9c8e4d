"""The reconciler: what this worker runs against what the database says it runs.

It asks only while runs are in flight, or after a connection error, or when somebody wants a run stopped. Three answers:
an *orphan* (the database says mine, I do not know it: the claim's answer was lost on the wire) was released by the
statement; a *lost* one (I run it, it is not mine any more) is taken back if nobody else has it, else its program is
ended; a *stop* is the poll twin of `turbo_ctl`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import psycopg

from turbo import db
from turbo.db.claim_store import Queue
from turbo.db.connect import Backoff
from turbo.domain.claim import ClaimRef
from turbo.domain.states import StopCause
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service
from turbo.worker.claimer import Claimer
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)


class Reconciler(Service):
    name = "reconciler"

    def __init__(
        self,
        queue: Queue,
        slots: Slots,
        claimer: Claimer,
        metrics: Metrics,
        stop_run: Callable[[ClaimRef, StopCause], None],
        *,
        seconds: float,
        lease_seconds: float,
        last_beat: Callable[[], float],
        kill_when_cut_off: bool,
    ) -> None:
        """`seconds` between comparisons. With `kill_when_cut_off`, runs are ended once the lease must have expired."""
        super().__init__()
        self._queue = queue
        self._slots = slots
        self._claimer = claimer
        self._metrics = metrics
        self._stop_run = stop_run
        self._seconds = seconds
        self._lease_seconds = lease_seconds
        self._last_beat = last_beat
        self._kill_when_cut_off = kill_when_cut_off
        self._wanted = asyncio.Event()
        self._comparing = asyncio.Lock()

    def want(self) -> None:
        """Compare soon."""
        self._wanted.set()

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._wanted.wait()
            wanted = self._wanted.is_set()
            self._wanted.clear()
            if not wanted and not self._slots.known():
                continue
            self._fence_myself()
            try:
                await self.compare()
                backoff.reset()
            except (psycopg.Error, OSError) as error:
                if not db.is_transient(error):
                    log.error("cannot reconcile: %s", db.reason(error))
                self._wanted.set()
                await asyncio.sleep(backoff.next())

    def _fence_myself(self) -> None:
        silent = time.monotonic() - self._last_beat()
        if self._kill_when_cut_off and silent > self._lease_seconds and self._slots.running:
            log.warning("cut off from the database for %.0f s, longer than the lease: ending all runs", silent)
            for held in list(self._slots.running):
                self._stop_run(held, StopCause.LOST)

    async def compare(self) -> None:
        # One at a time: what another comparison has just taken back would look as if somebody else had it.
        async with self._comparing:
            await self._compare()

    async def _compare(self) -> None:
        async with self._claimer.claiming:
            found = await self._queue.reconcile(self._slots.known())
        for held in found.orphans:
            self._metrics.rescued.labels("orphan").inc()
            log.warning("released: the answer to its claim was lost on the wire", extra={"task": held.task_id})
        # What ended meanwhile is recorded or about to be, and answers for itself.
        lost = [held for held in found.lost if held in self._slots.running]
        if lost:
            back = set(await self._queue.reassert(lost))
            for held in lost:
                if held in back:
                    log.warning("claim reasserted: the database had lost it", extra={"task": held.task_id})
                else:
                    log.warning("lease lost: somebody else has the task", extra={"task": held.task_id})
                    self._stop_run(held, StopCause.LOST)
        for held in found.stop:
            self._stop_run(held, StopCause.CANCEL)
