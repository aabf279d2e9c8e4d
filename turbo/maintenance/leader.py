"""The leader's work: report the fleet's gauges, and delete the rows of workers that died long ago.

    follows ──the heartbeat won the lease──▶ leads: gauges every 15 s, prune every 5 min ──lease lost──▶ follows

Right with two leaders at once: gauges are read, and pruning deletes rows that are not used any more.
"""

import logging
import time

from turbo import db
from turbo.db.worker_registry import WorkerRegistry
from turbo.maintenance.leadership import Leadership
from turbo.observability.metrics import Metrics
from turbo.runtime.outage import Outage
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

GAUGES_SECONDS = 15.0
GAUGES_SHARE = 0.02  # of the time at most: counting a backlog of 1 M rows takes 150 ms, of 10 M ten times that
PRUNE_SECONDS = 300.0


class Leader(LoopService):
    name = "leader"

    def __init__(self, registry: WorkerRegistry, leadership: Leadership, metrics: Metrics) -> None:
        super().__init__()
        self._registry = registry
        self._leadership = leadership
        self._metrics = metrics

    async def run(self) -> None:
        self.started.set()
        outage = db.outage(log, "leader cannot read the gauges", "leader reads the gauges again", level=logging.DEBUG)
        while True:
            await self._leadership.wait()
            log.info("leader: this worker reports the fleet's gauges")
            try:
                await self._lead(outage)
            finally:
                self._metrics.fleet.clear()

    async def _lead(self, outage: Outage) -> None:
        pruned = float("-inf")
        while self._leadership.held:
            began = time.monotonic()
            pause = GAUGES_SECONDS
            try:
                self._metrics.fleet.replace(await self._registry.gauges())
                took = time.monotonic() - began
                pause = max(GAUGES_SECONDS, took / GAUGES_SHARE)
                if time.monotonic() - pruned > PRUNE_SECONDS:
                    await self._registry.prune()
                    pruned = time.monotonic()
                outage.over()
            except db.DATABASE_ERRORS as error:
                self._metrics.fleet.clear()
                outage.failed(error)
            await self._leadership.lost(pause)
