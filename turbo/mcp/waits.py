"""Waits of a server whose clients may be gone: over HTTP, nobody is told of that.

a wait ──▶ one of `most` ──its tasks are over, its time is up──▶ ended
               └── one more comes: the oldest ends early, as if its time were up
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


class Waits:
    """`room`: what a wait takes besides its turn, until it has given back what it holds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.Event, None] = {}
        self.room = asyncio.Semaphore(most)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncio.Event]:
        """The event is set when the wait is to end early."""
        over = asyncio.Event()
        self._open[over] = None
        if len(self._open) > self._most:
            oldest = next(iter(self._open))
            self._open.pop(oldest)
            oldest.set()
        try:
            yield over
        finally:
            self._open.pop(over, None)


async def until(over: asyncio.Event, job: Coroutine[Any, Any, None]) -> None:
    """Do the job, or as much of it as there is time for until the event is set. Raises what the job raises."""
    doing, ending = asyncio.ensure_future(job), asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({doing, ending}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
    finally:
        for one in (doing, ending):
            one.cancel()
        with suppress(asyncio.CancelledError):
            await doing
