"""The settler: lets tasks go that wait for others, once those are over.

    at rest ──a need is over, a notification, a poll──▶ a pass: settle, place, tie … until nothing moves ──▶ at rest
       ▲                                                  └── rows that somebody has locked are left ──▶ again, in a while
       └── no pass for a minute: its session is closed

Three steps, each one statement in a short transaction of its own (docs/how-it-works.md):

- **place** gives new follow-ups their turn in their conversation,
- **tie** writes down what a new blocked task needs, and counts it,
- **settle** tells those who wait that a task is over; whoever waits for nothing any more becomes pending.

Every worker has a settler, and any number of them may work at once: none waits for another, nor for a person. So a need may end
at any moment, a worker may die between any two statements, and whatever is left undone is seen by the next poll of any worker.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from turbo import db
from turbo.db.channels import CONTROL, Notifier
from turbo.db.settle_store import SettleStep, SettleStore, Walk
from turbo.domain.states import ControlMessage
from turbo.runtime.backoff import Backoff
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)

AGAIN_CAP = 5.0
"""Seconds at most until the next look at what somebody has locked."""

DEFECT_SECONDS = 30.0
"""Until the next pass after one that ended in an error of turbo's own."""

LINGER_SECONDS = 60.0
"""How long the session is kept after a pass."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What one pass did: tasks let go, tasks cancelled because of a need, rows changed in all. `unsettled`: something is left, in
    the hands of a person or of another settler, or in a queue that an older worker serves."""

    released: int = 0
    cancelled: int = 0
    moved: int = 0
    unsettled: bool = False

    def __add__(self, step: SettleStep) -> "Settled":
        return replace(
            self,
            released=self.released + step.released,
            cancelled=self.cancelled + step.cancelled,
            moved=self.moved + step.moved,
        )


class Settler(LoopService):
    """`settled` is emitted after each pass."""

    name = "settler"

    def __init__(
        self,
        store: SettleStore,
        notifier: Notifier,
        wakeups: WakeUps,
        *,
        unsettled: Callable[[], Awaitable[bool]] | None = None,
        linger: float = LINGER_SECONDS,
        again: Backoff | None = None,
    ) -> None:
        """`unsettled`: whether there is anything to do, asked after a notification; on a session that is open anyway, because every
        worker of a fleet hears it. `again`: the pauses before another look at what somebody has locked."""
        super().__init__()
        self._store = store
        self._notifier = notifier
        self._wakeups = wakeups
        self._unsettled = unsettled or store.unsettled
        self._linger = linger
        self._backoff = again or Backoff(cap=AGAIN_CAP)
        self._event = asyncio.Event()
        self._sure = False  # there is something to do, as far as is known
        self._again_at: float | None = None  # monotonic
        self.settled: Signal[Settled] = Signal()

    # ── what other parts tell ───────────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """There is something to do: a task is over that others wait for."""
        self._sure = True
        self._event.set()

    def heard(self) -> None:
        """A notification. All workers heard it, and another one may have been quicker."""
        self._event.set()

    def polled(self, unsettled: bool) -> None:
        """What a poll saw. What is left for a later look is no news."""
        if unsettled and self._again_at is None:
            self.wake()

    # ── passes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        outage = db.outage(log, "cannot settle tasks that wait for others", "settling again")
        self.started.set()
        while True:
            await self._wait()
            sure, self._sure = self._sure, False
            self._again_at = None
            try:
                if not sure and not await self._unsettled():
                    outage.over()
                    self.settled.emit(Settled())
                    continue
                found = await self.once()
            except db.DATABASE_ERRORS as error:
                self._again_at = time.monotonic() + outage.failed(error)
                continue
            except Exception:
                # Whatever a row says must not stop every worker of the fleet.
                log.exception(
                    "a defect: cannot settle tasks that wait for others; trying again in %d s", DEFECT_SECONDS
                )
                self._again_at = time.monotonic() + DEFECT_SECONDS
                continue
            outage.over()
            if found.moved:
                self._backoff.reset()
            if found.unsettled:
                self._again_at = time.monotonic() + self._backoff.next()
            self.settled.emit(found)

    async def once(self) -> Settled:
        """One pass: the steps, again and again, until nothing moves. Raises `db.DATABASE_ERRORS`.

        Places are given in portions, and what can be tied and let go meanwhile is: nobody waits for the places of thousands."""
        total = Settled()
        placed_up_to = 0
        while True:
            before = total.moved
            steps = await self._walk(self._store.settle, None)
            for step in steps:
                total += step
            if any(step.notes for step in steps):
                places = await self._store.place(placed_up_to)
                placed_up_to = places.after if isinstance(places.after, int) else 0
                await self._woken(places, announce=True)
                for step in (places, *await self._walk(self._store.tie, 0)):
                    total += step
            else:
                placed_up_to = 0
            if any(step.messages for step in steps):
                total += await self._store.left_over()
            if total.moved == before and not placed_up_to:
                return replace(total, unsettled=steps[-1].unsettled)

    async def _walk(self, step: Callable[[Any], Awaitable[SettleStep]], start: int | None) -> list[SettleStep]:
        """Call `step` from `start` until it has looked at all, and wake who is to be woken."""
        done: list[SettleStep] = []
        after: int | str | Walk | None = start
        while not done or after is not None:
            found = await step(after)
            done.append(found)
            after = found.after
            await self._woken(found, announce=start is not None)
        return done

    async def _woken(self, step: SettleStep, *, announce: bool) -> None:
        """Rows became pending in `step.queues`. `announce`: no trigger has told the other workers."""
        for queue in step.queues:
            self._wakeups.wake(queue)
        if announce:
            await self._announce(step.queues)
        if step.later:  # they are due some time: every worker asks when
            self._wakeups.poll_soon()
            await self._notifier.notify(CONTROL, ControlMessage.QUEUES)

    async def _announce(self, queues: Sequence[str]) -> None:
        for queue in queues:
            await self._notifier.wake_all(queue)

    async def _wait(self) -> None:
        """Until there is something to do. The session is closed meanwhile, if that takes long."""
        if not await self._told(self._linger):
            await self._store.close()
            await self._told(None)
        self._event.clear()

    async def _told(self, seconds: float | None) -> bool:
        """Wait for news, or for the next look at what is left, at most `seconds`."""
        now = time.monotonic()
        again = None if self._again_at is None else max(0.0, self._again_at - now)
        least = min((s for s in (again, seconds) if s is not None), default=None)
        try:
            async with asyncio.timeout(least):
                await self._event.wait()
        except TimeoutError:
            if again is None or least != again:
                return False
            self._sure = True
        return True

    async def stop(self) -> None:
        """A statement under way is cut off: the next poll of any worker finds what it did not do."""
        await self._store.end()
        await super().stop()
