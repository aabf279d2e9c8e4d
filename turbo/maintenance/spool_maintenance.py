"""Small housekeeping of one worker: whether its disk takes results again, and results that need not be kept any more."""

import asyncio

from turbo.host.spool import Spool
from turbo.runtime.service import Loop
from turbo.worker.completer import Finisher

SECONDS = 5.0


class Housekeeping(Loop):
    name = "housekeeping"

    def __init__(self, finisher: Finisher, spool: Spool) -> None:
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
