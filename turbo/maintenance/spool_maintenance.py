"""Small housekeeping of one worker: whether its disk takes results again, and results that need not be kept any more."""

import asyncio

from turbo.host.spool import Spool
from turbo.runtime.service import Service
from turbo.worker.completer import Completer

SECONDS = 5.0


class SpoolMaintenance(Service):
    name = "housekeeping"

    def __init__(self, finisher: Completer, spool: Spool) -> None:
        super().__init__()
        self._finisher = finisher
        self._spool = spool

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        await self._finisher.check_disk()
        await asyncio.to_thread(self._spool.prune_done)
