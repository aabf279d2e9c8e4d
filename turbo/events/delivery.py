"""One subscription, as long as this worker holds it: read what is new, deliver it, write down how far.

    looks ──nothing new──▶ waits ──the courier sees higher ids, or a gap is open──▶ looks
      └── events ──▶ a body each, or folded ──taken──▶ written down ──▶ the next body … ──▶ looks
                        └── failed: written down with the time of the next try ──▶ ends; whoever is free then takes it

Promises:
- At least once: an event is owed until its target has taken it, and that is in the database. A crash in between delivers it again.
- In the order of their ids, so per task in the order in which things happened: one body at a time.
- Nothing is lost because ids commit out of order (turbo.db.subscription_store).
- Another server, or another timeline of one (a restore, a failover): the last hour is delivered again.
- Nothing is delivered after the lease has run out, as far as this process can know.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from turbo.config.notify import LONGEST_DELIVERY, MOST_FOLDED
from turbo.db.subscription_store import Held, SubscriptionStore, earlier
from turbo.domain.event import Event, notice
from turbo.domain.redaction import Redactor
from turbo.events.failure import DeliveryFailed
from turbo.events.targets import Target
from turbo.observability.metrics import Metrics
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)

LEASE_SECONDS = 90.0
RENEW_SECONDS = 20.0
SAFETY_SECONDS = 5.0
WALK = 2000
"""Rows of the trail that one look reads."""

MOST_OWED = 500
MOST_GAPS = 2000
"""With more, it is read no further until some are closed: a gap costs each look a probe."""

STEADY_SECONDS = 10.0
"""A mark is an id that was known for so long: by then the transaction that drew it has an id itself."""

REPEATED = timedelta(hours=1)
RELEASE_AFTER = 3
"""Failures in a row after which another worker may try: the network of this host may be the cause."""

ERROR_CHARACTERS = 500


class Retries:
    """How long to wait after so many failures: it doubles from `first` to `last` seconds, with jitter."""

    def __init__(self, first: float = 2.0, last: float = 300.0) -> None:
        self._first, self._last = first, last

    def wait(self, failures: int) -> float:
        return float(min(self._last, self._first * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0))


class SubscriptionDelivery:
    """`run` ends when the subscription is not this worker's any more, or its target has failed. `behind(trail, stream)`: the highest
    ids that the courier has seen."""

    def __init__(
        self,
        held: Held,
        target: Target,
        store: SubscriptionStore,
        redactor: Callable[[], Redactor],
        metrics: Metrics,
        retries: Retries,
        *,
        web_url: str | None = None,
        told: Signal[tuple[str, int]] | None = None,
    ) -> None:
        """`redactor` takes secrets out of what is delivered. `told` is emitted after each delivery: the name, and how many events."""
        self._held = held
        self._target = target
        self._store = store
        self._redactor = redactor
        self._metrics = metrics
        self._retries = retries
        self._web_url = web_url
        self._told = told
        self._position = held.position
        self._due = asyncio.Event()
        self._due.set()
        self._steady: dict[str, tuple[int, float]] = {}  # an id, and since when it is known, monotonic
        self._renewed = time.monotonic()
        self._failures = held.failures
        self._fold = MOST_FOLDED

    @property
    def held(self) -> Held:
        return self._held

    def behind(self, trail: int | None, stream: int) -> None:
        """The courier has looked: there may be something new, or the lease is to be renewed."""
        heads = {"actions": trail, "events": stream}
        open_gaps = any(place.gap_count for place in self._position.places.values())
        ahead = any((heads[name] or 0) > place.seen for name, place in self._position.places.items())
        if open_gaps or ahead or time.monotonic() - self._renewed > RENEW_SECONDS:
            self._due.set()

    async def run(self) -> None:
        """Raises db.DATABASE_ERRORS: then it is begun again from what is written."""
        if not await self._begin():
            return
        while True:
            await self._due.wait()
            self._due.clear()
            while True:
                events, more = await self._look()
                if events:
                    if not await self._deliver(events):
                        return
                elif not await self._keep():
                    return
                if not more:
                    break

    async def _begin(self) -> bool:
        """After a restore or a failover, go back an hour. What was written before it may be ahead of what the server knows now."""
        server = self._held.server
        if self._position.server == server:
            return True
        since = earlier(self._held, REPEATED)
        if self._position.server and since is not None:
            log.warning(
                "subscription %s: the database is on another server or timeline; the last hour is delivered again",
                self._held.name,
            )
            for stream, place in self._position.places.items():
                seen = min(place.seen, await self._store.rewind(stream, since))
                self._position = self._position.with_place(stream, replace(place, seen=seen, mark=None, xid=None))
        self._position = replace(self._position, server=server)
        return await self._save()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> tuple[list[Event], bool]:
        """What is to be delivered now, in order, and whether there may be more."""
        found: list[Event] = []
        more = False
        for stream, place in self._position.places.items():
            walk = WALK if len(place.owed) < MOST_OWED and place.gap_count < MOST_GAPS else 0
            look = await self._store.look(self._held, stream, place, walk)
            self._position = self._position.with_place(stream, look.place)
            found += look.events
            more = more or (walk > 0 and look.more)
        # Each stream is in order; between the two, the time decides.
        return sorted(found, key=lambda event: event.at) if _of_both(found) else found, more

    def _marks(self) -> list[str]:
        """Streams whose gaps get a mark now: an id that has been known for a while."""
        marking = []
        now = time.monotonic()
        for stream, place in self._position.places.items():
            if not place.gap_count:
                self._steady.pop(stream, None)
            elif place.mark is None:
                known = self._steady.setdefault(stream, (place.seen, now))
                if now - known[1] >= STEADY_SECONDS:
                    self._steady.pop(stream)
                    self._position = self._position.with_place(stream, replace(place, mark=known[0], xid=None))
                    marking.append(stream)
        return marking

    async def _keep(self) -> bool:
        """Nothing is to be delivered: write down the position from time to time. False: it is this worker's no more."""
        marking = self._marks()
        if not marking and time.monotonic() - self._renewed < RENEW_SECONDS:
            return True
        return await self._save(marking=marking)

    async def _save(self, *, left: Sequence[Event] = (), delivered: int = 0, marking: Sequence[str] = ()) -> bool:
        began = time.monotonic()
        xid = await self._store.save(self._held, self._position, _oldest(left), delivered=delivered, marking=marking)
        if xid is None:
            return False
        self._renewed = began
        for stream in marking:
            self._position = self._position.with_place(stream, replace(self._position.places[stream], xid=xid))
        return True

    # ── delivering ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, events: Sequence[Event]) -> bool:
        """False: it failed, or is this worker's no more."""
        left = list(events)
        fold_over = self._target.fold_over
        folded = fold_over is not None and len(left) > fold_over
        while left:
            if (
                time.monotonic() - self._renewed > LEASE_SECONDS - LONGEST_DELIVERY - SAFETY_SECONDS
                and not await self._save(left=left)
            ):
                return False
            batch = left[: self._fold if folded else 1]
            try:
                await self._hand_over(batch)
            except DeliveryFailed as failed:
                await self._failed(failed, left)
                return False
            left = left[len(batch) :]
            self._settle(batch)
            self._failures = 0
            self._metrics.events_delivered.labels(self._held.target).inc(len(batch))
            saved = await self._save(left=left, delivered=len(batch), marking=self._marks())
            if self._told is not None:
                self._told.emit((self._held.name, len(batch)))
            if not saved:
                return False
        return True

    async def _hand_over(self, batch: Sequence[Event]) -> None:
        outputs: Mapping[str, object] = {}
        if self._target.with_output and (ids := [event.task_id for event in batch if event.task_id is not None]):
            outputs = await self._store.outputs(ids)
        redactor = await asyncio.to_thread(self._redactor)
        made = await asyncio.to_thread(notice, self._held.name, batch, redactor, web_url=self._web_url, outputs=outputs)
        await self._target.deliver(made)

    def _settle(self, batch: Sequence[Event]) -> None:
        """These are owed no more."""
        for stream, place in self._position.places.items():
            done = {event.id for event in batch if event.stream == stream}
            if done:
                owed = tuple(number for number in place.owed if number not in done)
                self._position = self._position.with_place(stream, replace(place, owed=owed))

    async def _failed(self, failed: DeliveryFailed, left: Sequence[Event]) -> None:
        error = self._redactor().text(str(failed))[:ERROR_CHARACTERS]
        wait = self._retries.wait(self._failures)
        self._failures += 1
        self._metrics.event_failures.labels(self._held.target).inc()
        if self._failures == 1:
            log.warning("subscription %s: %s was not delivered: %s", self._held.name, _many(left), error)
        release = self._failures >= RELEASE_AFTER
        await self._store.fail(self._held, self._position, _oldest(left), error, wait=wait, release=release)


def _of_both(events: Sequence[Event]) -> bool:
    return len({event.stream for event in events}) > 1


def _oldest(events: Sequence[Event]) -> datetime | None:
    return min((event.at for event in events), default=None)


def _many(events: Sequence[Event]) -> str:
    return "an event" if len(events) == 1 else f"{len(events)} events"
