"""The shutdown: a worker stops without losing or doubling anything, and in time, with or without the database.

    claims stop ──▶ runs end by themselves, up to drain_seconds ──▶ results recorded ──▶ compared once more ──▶ gone
                         └── time is up, or a second TERM: agents ended, tasks released uncounted ──┘

After the runs' time, one deadline bounds everything (turbo.worker.shutdown_deadline): the service manager kills the process
after its stop timeout. With the database away, unrecorded results stay in the spool, and tasks that could not be released
are rescued when the lease ends. The heartbeat goes on to the end, so that no other worker rescues what still runs here.
"""

import asyncio
import logging

from turbo import db
from turbo.domain.states import StopCause
from turbo.maintenance.leadership import Leadership
from turbo.worker.claimer import Claimer
from turbo.worker.completer import Completer
from turbo.worker.lifecycle import Lifecycle
from turbo.worker.presence import WorkerPresence
from turbo.worker.reconciler import Reconciler
from turbo.worker.runner import Runner
from turbo.worker.shutdown_deadline import ShutdownDeadline
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)


class Shutdown:
    """Drains one worker."""

    def __init__(
        self,
        deadline: ShutdownDeadline,
        lifecycle: Lifecycle,
        leadership: Leadership,
        presence: WorkerPresence,
        claimer: Claimer,
        runner: Runner,
        slots: Slots,
        completer: Completer,
        reconciler: Reconciler,
        *,
        drain_seconds: float,
    ) -> None:
        """`drain_seconds` are for the runs; `lifecycle.now` cuts them short."""
        self._deadline = deadline
        self._lifecycle = lifecycle
        self._leadership = leadership
        self._presence = presence
        self._claimer = claimer
        self._runner = runner
        self._slots = slots
        self._completer = completer
        self._reconciler = reconciler
        self._drain_seconds = drain_seconds

    async def drain(self) -> None:
        """Returns when the runs have ended and their results are in the database or in the spool."""
        log.info("draining: %d runs, up to %g s", len(self._slots.running), self._drain_seconds)
        self._lifecycle.begin_drain()
        self._leadership.step_down()
        self._presence.state_changed()
        # A claim under way may wait for the server: it is not waited for.
        stopping = asyncio.create_task(self._claimer.stop())
        await self._wait_for_runs()
        self._deadline.begin()
        await self._end_runs()
        recorded = await self._completer.flushed(self._deadline.before(2))
        await self._deadline.results.over()
        if not recorded:
            await self._completer.flushed(0.0)  # what was on its way goes to the disk, too
            log.warning("results are left in the spool; the next worker of this host records them")
        try:
            await self._reconciler.compare()  # a claim that the stop cut off is known to the database only
        except db.DATABASE_ERRORS as error:
            log.debug("not compared before stopping: %s", db.reason(error))
        stopping.cancel()

    async def _wait_for_runs(self) -> None:
        ended = asyncio.create_task(self._runner.ended(self._drain_seconds))
        cut_short = asyncio.create_task(self._lifecycle.now.wait())
        await asyncio.wait({ended, cut_short}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        cut_short.cancel()

    async def _end_runs(self) -> None:
        if not self._slots.running:
            return
        log.info("ending %d runs; their tasks are released uncounted", len(self._slots.running))
        self._runner.stop_all(StopCause.DRAIN)
        if not await self._runner.ended(self._deadline.before(4)):
            if killed := self._runner.kill_all():
                log.error("%d runs did not end in time and are killed", killed)
            await self._runner.ended(self._deadline.before(3))
