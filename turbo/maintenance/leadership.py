"""Leadership: whether this worker is the one that reports the fleet's gauges and deletes old rows.

The heartbeat learns it with every beat (docs/adr/0004); gauges and retention wait for it. Both are right with two leaders
at once, so nothing here has to be exact.
"""

import asyncio
from contextlib import suppress


class Leadership:
    """`held`: this worker leads. `may_lead` False: it no longer asks to (it drains)."""

    def __init__(self) -> None:
        self.may_lead = True
        self._held = asyncio.Event()
        self._lost = asyncio.Event()

    def step_down(self) -> None:
        """Ask for the lead no more."""
        self.may_lead = False

    @property
    def held(self) -> bool:
        return self._held.is_set()

    def update(self, leads: bool) -> None:
        """What the last beat brought back."""
        if leads:
            self._held.set()
            self._lost.clear()
        else:
            self._held.clear()
            self._lost.set()

    async def wait(self) -> None:
        """Until this worker leads."""
        await self._held.wait()

    async def lost(self, seconds: float) -> None:
        """Until this worker no longer leads, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._lost.wait()
