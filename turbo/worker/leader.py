"""The leader: gauges of the whole fleet, and pruning. Nothing that correctness needs.

Leadership is a lease row that the heartbeat holds (sql/workers/beat.sql), on the database's clock. Every statement here is right
with two leaders at once.
"""

import asyncio
import logging
import time

import psycopg

from turbo import db
from turbo.db.claim_store import Queue
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service

log = logging.getLogger(__name__)

GAUGES_SECONDS = 15.0
GAUGES_SHARE = 0.02  # of the time at most: counting a backlog of 1 M rows takes 150 ms, of 10 M ten times that
PRUNE_SECONDS = 300.0


class Leader(Service):
    name = "leader"

    def __init__(self, queue: Queue, metrics: Metrics) -> None:
        super().__init__()
        self._queue = queue
        self._metrics = metrics
        self._leads = asyncio.Event()

    def leads(self, yes: bool) -> None:
        """What the last beat said."""
        if yes and not self._leads.is_set():
            log.info("leader: this worker reports the fleet's gauges")
            self._leads.set()
        elif not yes and self._leads.is_set():
            self._leads.clear()
            self._metrics.fleet.resign()

    async def run(self) -> None:
        pruned = float("-inf")
        while True:
            await self._leads.wait()
            began = time.monotonic()
            try:
                self._metrics.fleet.lead(await self._queue.gauges())
                took = time.monotonic() - began
                if time.monotonic() - pruned > PRUNE_SECONDS:
                    await self._queue.prune_workers()
                    pruned = time.monotonic()
            except (psycopg.Error, OSError) as error:
                self._metrics.fleet.resign()
                took = 0.0
                if not db.is_transient(error):
                    log.error("leader cannot read the gauges: %s", db.reason(error))
            await asyncio.sleep(max(GAUGES_SECONDS, took / GAUGES_SHARE))
