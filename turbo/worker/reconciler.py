"""The reconciler: compares the runs of this worker with the runs that the database has for it.

It compares only while runs are in flight, after a connection error, and when a run is to be stopped. Three differences:

    orphan   the database has it as this worker's, and this worker does not know it: the claim's answer was lost on the
             wire. The statement itself gives it back
    lost     this worker runs it, and the database no longer has it as this worker's: it is taken back if no other
             worker has it, else the run is ended
    stop     a person requested its end: the fallback for a lost notification on `turbo_ctl`
"""

import asyncio
import contextlib
import logging

from turbo import db
from turbo.db.claim_store import ClaimStore
from turbo.domain.states import RescueReason, StopCause
from turbo.observability.metrics import Metrics
from turbo.runtime.service import LoopService
from turbo.worker.contact import DatabaseContact
from turbo.worker.runner import Runner
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)


class Reconciler(LoopService):
    name = "reconciler"

    def __init__(
        self,
        store: ClaimStore,
        slots: Slots,
        runner: Runner,
        contact: DatabaseContact,
        metrics: Metrics,
        *,
        claiming: asyncio.Lock,
        wanted: asyncio.Event,
        seconds: float,
        lease_seconds: float,
        kill_when_cut_off: bool,
    ) -> None:
        """`seconds` between comparisons. `claiming` is held during a claim, whose rows would look like orphans. `wanted`
        is set by parts that need a comparison. `kill_when_cut_off`: end all runs once the lease must have ended."""
        super().__init__()
        self._store = store
        self._slots = slots
        self._runner = runner
        self._contact = contact
        self._metrics = metrics
        self._claiming = claiming
        self._wanted = wanted
        self._seconds = seconds
        self._lease_seconds = lease_seconds
        self._kill_when_cut_off = kill_when_cut_off
        self._comparing = asyncio.Lock()

    def compare_soon(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        outage = db.outage(log, "cannot reconcile", "reconciling again")
        self.started.set()
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
            except db.DATABASE_ERRORS as error:
                self._wanted.set()
                await outage.wait(error)
            else:
                outage.over()

    def _fence_myself(self) -> None:
        silence = self._contact.silence
        if self._kill_when_cut_off and silence > self._lease_seconds and self._slots.running:
            log.warning("cut off from the database for %.0f s, longer than the lease: ending all runs", silence)
            for claim in list(self._slots.running):
                self._runner.stop(claim, StopCause.LOST)

    async def compare(self) -> None:
        """Compare once, and act on the differences. Raises `db.DATABASE_ERRORS`."""
        # One at a time: a claim that another comparison has just taken back would look as if another worker had it.
        async with self._comparing:
            await self._compare()

    async def _compare(self) -> None:
        async with self._claiming:
            differences = await self._store.reconcile(self._slots.known())
        for claim in differences.orphans:
            self._metrics.rescued.labels(RescueReason.ORPHAN).inc()
            log.warning("released: the answer to its claim was lost on the wire", extra={"task": claim.task_id})
        # A run that ended meanwhile is recorded, or about to be: its result decides.
        running = self._slots.running
        lost = {claim: running[claim].task.last_answered for claim in differences.lost if claim in running}
        if lost:
            answer = await self._store.reassert(lost)
            for claim in lost:
                if claim in answer.taken:
                    log.warning("claim reasserted: the database had lost it", extra={"task": claim.task_id})
                elif claim not in answer.refused:  # the next comparison tries again; its result is welcome meanwhile
                    log.warning("lease lost: another worker has the task", extra={"task": claim.task_id})
                    self._runner.stop(claim, StopCause.LOST)
        for claim in differences.stop:
            self._runner.stop(claim, StopCause.CANCEL)
        if differences.again_in is not None:
            asyncio.get_running_loop().call_later(differences.again_in, self._wanted.set)
