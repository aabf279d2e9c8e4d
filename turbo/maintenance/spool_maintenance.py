"""Spool maintenance: checks whether an unwritable disk takes results again, and deletes results that are no longer needed."""

import asyncio

from turbo.host.spool_writer import SpoolWriter
from turbo.runtime.service import LoopService

EVERY_SECONDS = 5.0


class SpoolMaintenance(LoopService):
    name = "spool maintenance"

    def __init__(self, spool: SpoolWriter) -> None:
        super().__init__()
        self._spool = spool

    async def run(self) -> None:
        self.started.set()
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.once()

    async def once(self) -> None:
        await self._spool.check()
        await self._spool.prune_done()
