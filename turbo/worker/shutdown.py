"""The drain: a worker stops without losing or doubling anything, and in time, whether or not the database is there.

    claims stop ──▶ runs end by themselves, up to drain_seconds ──▶ results recorded ──▶ compared once more ──▶ gone
                         └── the time is over, or a second TERM: agents ended, tasks released without a try ──┘

From the end of the runs' time on one deadline holds for everything (`ShutdownDeadline`): the service manager kills whoever is
there after its stop timeout. With the database away, what could not be recorded is left in the spool, and what could not
be released to the lease. The heartbeat goes on to the end, so that nobody rescues what still runs here.
"""

import asyncio
import logging
import math
import time

import psycopg

from turbo.db.connect import Lane
from turbo.domain.states import StopCause
from turbo.worker.claimer import Claimer
from turbo.worker.completer import Completer
from turbo.worker.reconciler import Reconciler
from turbo.worker.runner import Runner
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

END_SECONDS = 13.0
"""From the end of the runs' time to the end of the process. The service manager's stop timeout leaves
`fleet.instance.STOP_MARGIN_SECONDS` for it; the difference is slack for a busy machine."""

STEP_SECONDS = 1.0
"""What each step after the runs is sure to have of it: release, record, say goodbye, end without the database."""


class ShutdownDeadline:
    """The one deadline of a worker that leaves, and how much of it is left for what.

        0 ── runs end, within their grace ── 9 ── the rest killed, all released ── 10 ── results recorded ── 11
          ── compared, loops ended, goodbye ── 12 ── no database any more ── 13 gone

    These are the latest moments, in seconds; with the database there each step follows the one before at once."""

    def __init__(self, claims: Lane, results: Lane, progress: Lane) -> None:
        """The lanes end with the time for the database, so that nobody has to be cancelled on a frozen server."""
        self.results = results
        self._lanes = (claims, results, progress)
        self._at = math.inf  # monotonic

    def begin(self) -> None:
        """From now on it runs. Right to call twice: the first call counts."""
        if self._at == math.inf:
            self._at = time.monotonic() + END_SECONDS
            for lane in self._lanes:
                lane.end_in(self.before(1))

    @property
    def left(self) -> float:
        """Seconds until the process should be gone."""
        return self.before(0)

    def before(self, steps: int) -> float:
        """Seconds until the moment that leaves `steps` steps their time."""
        return max(0.0, self._at - steps * STEP_SECONDS - time.monotonic())


async def drain(
    departure: ShutdownDeadline,
    claimer: Claimer,
    runner: Runner,
    slots: Slots,
    finisher: Completer,
    reconciler: Reconciler,
    *,
    seconds: float,
    now: asyncio.Event,
) -> None:
    """`seconds` are for the runs; `now` cuts them short."""
    log.info("draining: %d runs, up to %g s", slots.busy, seconds)
    claimer.listening = False
    stopping = asyncio.create_task(claimer.stop())  # a claim under way may wait for the server: nobody waits for it
    ended = asyncio.create_task(runner.ended(seconds))
    cut_short = asyncio.create_task(now.wait())
    await asyncio.wait({ended, cut_short}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    cut_short.cancel()

    departure.begin()
    if slots.busy:
        log.info("ending %d runs; their tasks are released without a try", slots.busy)
        runner.stop_all(StopCause.DRAIN)
        if not await runner.ended(departure.before(4)):
            if killed := runner.kill_all():
                log.error("%d runs did not end in time and are killed", killed)
            await runner.ended(departure.before(3))
    recorded = await finisher.flushed(departure.before(2))
    await departure.results.over()
    if not recorded:
        await finisher.flushed(0.0)  # what was on its way goes to the disk, too
        log.warning("results are left in the spool; the next worker of this host records them")
    try:
        await reconciler.compare()  # a claim that the stop cut off is known to the database only
    except (psycopg.Error, OSError) as error:
        log.debug("not compared before leaving: %s", error)
    stopping.cancel()
