"""The drain: a worker stops without losing or doubling anything.

    claims stop ──▶ runs end by themselves, up to drain_seconds ──▶ results recorded ──▶ compared once more ──▶ gone
                         └── the time is over, or a second TERM: agents ended, tasks released without a try ──┘

The heartbeat goes on to the end, so that nobody rescues what still runs here.
"""

import asyncio
import logging

import psycopg

from turbo import db
from turbo.claimer import Claimer
from turbo.finisher import Finisher
from turbo.queue import Queue
from turbo.reconciler import Reconciler
from turbo.runner import Runner
from turbo.slots import Slots
from turbo.states import WorkerState

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""How long ended agents may take to go, past their own grace, before the worker leaves without them."""

FLUSH_SECONDS = 30.0
LAST_WORDS_SECONDS = 5.0


async def drain(
    queue: Queue,
    claimer: Claimer,
    runner: Runner,
    slots: Slots,
    finisher: Finisher,
    reconciler: Reconciler,
    *,
    seconds: float,
    now: asyncio.Event,
) -> None:
    """`seconds` are for the runs; `now` cuts them short."""
    log.info("draining: %d runs, up to %g s", slots.busy, seconds)
    await claimer.stop()
    claimer.listening = False
    try:
        await queue.set_state(WorkerState.DRAINING)
    except (psycopg.Error, OSError) as error:
        log.warning("cannot say that this worker drains: %s", db.reason(error))
    ended = asyncio.create_task(runner.ended(seconds))
    cut_short = asyncio.create_task(now.wait())
    await asyncio.wait({ended, cut_short}, return_when=asyncio.FIRST_COMPLETED)
    cut_short.cancel()
    if slots.busy:
        log.info("ending %d runs; their tasks are released without a try", slots.busy)
        runner.stop_all("drain")
        if not await runner.ended(STOP_SECONDS):
            log.error("%d runs did not end; their programs are left to the watcher", slots.busy)
    ended.cancel()
    if not await finisher.flushed(FLUSH_SECONDS):
        log.warning("results are left in the spool; the next worker of this host records them")
    try:
        async with asyncio.timeout(LAST_WORDS_SECONDS):  # a claim that the stop cut off is known to the database only
            await reconciler.compare()
    except (psycopg.Error, OSError, TimeoutError) as error:
        log.debug("not compared before leaving: %s", error)
