"""The quiet keeper: where wake-ups of a queue come fast, it looks for those who insert, so that they notify nobody.

    hearing ──several wake-ups in a short time──▶ keeping: a mark, and a look every few milliseconds
       ▲                                             │ few inserts come, or the worker stops
       └──all transactions of then are over── closing: the mark is removed, then looks, as rechecks do

A NOTIFY takes a lock of the whole server until its commit, and wakes every session that listens. One that is sent for what a hundred
inserters committed together does as much. A lone insert meets no mark: it notifies, and is picked up as ever.

Why nothing is lost: an inserter that saw the mark has a transaction id from before the mark's end. The first look after that end
sees its row, or sees its transaction open, and then looks go on until it is over (migrations/0029_quiet.sql). A keeper that is
killed leaves a mark that lapses. A worker that goes idle meanwhile polls, as always.
"""

import asyncio
import logging
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from turbo import db
from turbo.db.quiet_store import QuietStore
from turbo.runtime.backoff import Backoff
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuietTimings:
    """In seconds. Of many idle workers a wake-up reaches four, so each of them hears a few of those that are sent."""

    heard: int = 3
    """So many wake-ups of a queue within `within` begin it."""
    within: float = 1.0
    spread: float = 0.01
    """Each worker that heard them begins at a moment of its own: the first one is the keeper."""
    every: float = 0.01
    """Between looks. So much later, at most, is a row of a quiet queue seen."""
    slowest: float = 0.08
    """Between looks while nothing is claimed anywhere: those who were woken take nothing, and each look wakes them again."""
    lapse: float = 0.25
    """A mark lasts for so long, unless it is renewed."""
    worth: int = 3
    """A look is worth while with so many inserts since the one before."""
    trial: int = 3
    patience: int = 10
    """It ends after so many looks in a row that were not worth while: after the first few already, if none has been."""
    again: tuple[float, float] = (1.0, 60.0)
    """After an attempt that was not worth while, the first pause and the longest."""
    other: float = 10.0
    """The longest pause where another worker keeps the queue: it hears the wake-ups that that one sends."""


USUAL = QuietTimings()
LOOK_FIRST_SECONDS = 0.005
LOOK_GROWTH = 2.0
STOP_SECONDS = 0.5


class QuietKeeper(LoopService):
    """`kept` is emitted with each queue whose mark has been set, `closed` with each whose last look has been made."""

    name = "quiet keeper"

    def __init__(self, store: QuietStore, *, poll_seconds: float, timings: QuietTimings = USUAL) -> None:
        """`poll_seconds`: between the fallback polls, which do what is left after that time."""
        super().__init__()
        self._store = store
        self._poll_seconds = poll_seconds
        self._timings = timings
        self._heard: dict[str, deque[float]] = {}
        self._not_before: dict[str, float] = {}  # monotonic
        self._again: dict[str, Backoff] = {}
        self._wanted: set[str] = set()
        self._event = asyncio.Event()
        self._marked: str | None = None
        self.kept: Signal[str] = Signal()
        self.closed: Signal[str] = Signal()

    def heard(self, queue: str) -> None:
        """A wake-up of `queue` has reached this worker."""
        if queue == self._marked or queue in self._wanted:
            return
        now = time.monotonic()
        heard = self._heard.setdefault(queue, deque(maxlen=self._timings.heard))
        heard.append(now)
        if len(heard) < self._timings.heard or heard[0] < now - self._timings.within:
            return
        if now >= self._not_before.get(queue, 0.0):
            self._wanted.add(queue)
            self._event.set()

    async def run(self) -> None:
        outage = db.outage(log, "cannot keep a queue quiet", "keeping quiet again")
        self.started.set()
        try:
            while True:
                await self._event.wait()
                try:
                    if self._marked is not None:
                        await self._close(self._marked)  # after an outage
                    elif self._wanted:
                        await self._keep(self._wanted.pop())
                    else:
                        self._event.clear()
                except db.DATABASE_ERRORS as error:
                    if not db.is_transient(error):
                        self._marked = None  # a revoked privilege: it cannot look, so its mark is left to lapse
                    await outage.wait(error)
                else:
                    outage.over()
        finally:
            if (queue := self._marked) is not None:
                with suppress(TimeoutError, *db.DATABASE_ERRORS):
                    async with asyncio.timeout(STOP_SECONDS):
                        await self._close(queue)
            await self.jobs.ended(STOP_SECONDS)

    async def _keep(self, queue: str) -> None:
        """Keep `queue` quiet for as long as it is worth while. Raises `db.DATABASE_ERRORS`."""
        timings = self._timings
        self._heard.pop(queue, None)
        await asyncio.sleep(random.uniform(0.0, timings.spread))
        self._marked = queue  # from here on: an answer may be lost on its way
        look = await self._store.keep(queue, timings.lapse)
        if look is None:
            self._marked = None
            self._not_before[queue] = time.monotonic() + timings.other * random.uniform(0.5, 1.0)
            return
        self.kept.emit(queue)
        patience, worth = timings.trial, False
        pause = timings.every
        while patience > 0:
            await asyncio.sleep(pause)
            before = look
            look = await self._store.keep(queue, timings.lapse, before.unsent)
            if look is None:
                break  # this one stood still for so long that another worker keeps it
            vain = before.woken > 0 and look.claims == before.claims
            pause = min(2 * pause, timings.slowest) if vain else timings.every
            if look.unsent - before.unsent >= timings.worth:
                patience, worth = timings.patience, True
            else:
                patience -= 1
        again = self._again.setdefault(queue, Backoff(*timings.again))
        if worth:
            again.reset()
        else:
            self._not_before[queue] = time.monotonic() + again.next()
        await self._close(queue)

    async def _close(self, queue: str) -> None:
        """End it, and look after that. Raises `db.DATABASE_ERRORS`: then it is not closed yet."""
        await self._store.end(queue)
        look = await self._store.look(queue)
        self._marked = None
        if look.ended_below < look.begun_below:
            self.jobs.start(self._recheck(queue, look.begun_below), "rechecks of a quiet queue")
        else:
            self.closed.emit(queue)

    async def _recheck(self, queue: str, slipped_below: int) -> None:
        """Look until the transactions that were open at the first look after the end are over, or the fallback poll is due sooner."""
        delay, ended_below = LOOK_FIRST_SECONDS, 0
        while ended_below < slipped_below and delay < self._poll_seconds:
            await asyncio.sleep(delay * random.uniform(0.9, 1.1))
            delay *= LOOK_GROWTH
            with suppress(*db.DATABASE_ERRORS):  # the next one is later
                ended_below = (await self._store.look(queue)).ended_below
        self.closed.emit(queue)
