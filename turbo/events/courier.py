"""The courier: delivers events to the targets that this worker has (`notify` in worker.yaml). Without targets there is none.

    sleeps ──a subscription is written; a poll──▶ lists ──free──▶ takes ──▶ a SubscriptionDelivery of its own ──lost, failed──▶ lists …
                                                    └── held: tells its SubscriptionDelivery of higher ids

Of the workers that have a target, one holds each subscription that names it. While there are such subscriptions, every one of them
asks for the list, the holders about every two seconds, the others every ten. With no subscription it asks as rarely as it polls.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from turbo import db
from turbo.db.subscription_store import Listed, SubscriptionStore
from turbo.domain.redaction import Redactor
from turbo.events.delivery import Retries, SubscriptionDelivery
from turbo.events.targets import Target
from turbo.observability.metrics import Metrics
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)

HOLDING_SECONDS = 2.0
WATCHING_SECONDS = 10.0
SPREAD_SECONDS = 0.5
"""After a notification, each worker looks at a moment of its own."""

GOODBYE_SECONDS = 2.0
DEFECT_SECONDS = 60.0
"""Until a subscription is tried again after an error of turbo's own."""


class EventCourier(LoopService):
    """`told` is emitted after each delivery: the subscription's name, and how many events. `listed` after each look at the list."""

    name = "events"

    def __init__(
        self,
        store: SubscriptionStore,
        targets: Mapping[str, Target],
        redactor: Callable[[], Redactor],
        metrics: Metrics,
        *,
        web_url: str | None = None,
        poll_seconds: float = 30.0,
        retries: Retries | None = None,
        holding_seconds: float = HOLDING_SECONDS,
    ) -> None:
        """`poll_seconds`: between two looks while no subscription names a target of this worker. `retries`, `holding_seconds`: for
        tests."""
        super().__init__()
        self._store = store
        self._targets = targets
        self._redactor = redactor
        self._metrics = metrics
        self._web_url = web_url
        self._poll_seconds = poll_seconds
        self._retries = retries or Retries()
        self._holding_seconds = holding_seconds
        self._deliveries: dict[str, tuple[SubscriptionDelivery, asyncio.Task[None]]] = {}
        self._woken = asyncio.Event()
        self._known = False
        self._holds = False
        self.told: Signal[tuple[str, int]] = Signal()
        self.listed: Signal[Sequence[Listed]] = Signal()

    def heard(self) -> None:
        """A notification: a subscription was written or removed."""
        if self._targets:
            self._woken.set()

    async def run(self) -> None:
        self.started.set()
        if not self._targets:
            return
        outage = db.outage(log, "cannot read the subscriptions", "reading the subscriptions again")
        while True:
            try:
                await self.once()
                outage.over()
            except db.DATABASE_ERRORS as error:
                await outage.wait(error)
                continue
            await self._pause()

    async def stop(self) -> None:
        """See Service. What it holds is free at once for others."""
        holds = bool(self._deliveries)
        await super().stop()
        if holds:
            with suppress(*db.DATABASE_ERRORS, TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._store.release()
        self._deliveries.clear()

    async def once(self) -> None:
        """Look at the list, and act on it. Raises `db.DATABASE_ERRORS`."""
        listed = await self._store.list(list(self._targets))
        self._known = bool(listed)
        self._holds = any(one.mine for one in listed)
        self._deliveries = {name: pair for name, pair in self._deliveries.items() if not pair[1].done()}
        names = {one.name for one in listed}
        for name, (_, task) in list(self._deliveries.items()):
            if name not in names:  # removed, paused, or for a target of others
                task.cancel()
        for one in listed:
            running = self._deliveries.get(one.name)
            if running is None:
                if one.free:
                    await self._take(one)
            elif not one.mine or running[0].held.updated_at != one.updated_at:
                running[1].cancel()  # begun again from what is written
            else:
                running[0].behind(one.trail, one.stream)
        self.listed.emit(listed)

    async def _take(self, one: Listed) -> None:
        try:
            held = await self._store.take(one.name, list(self._targets))
        except (ValueError, TypeError, KeyError):
            log.error("subscription %s: its position is none; remove it, and add it again", one.name)
            return
        if held is None or held.target not in self._targets:
            return
        delivery = SubscriptionDelivery(
            held,
            self._targets[held.target],
            self._store,
            self._redactor,
            self._metrics,
            self._retries,
            web_url=self._web_url,
            told=self.told,
        )
        task = self.jobs.start(self._deliver(delivery), f"subscription {one.name}")
        self._deliveries[one.name] = (delivery, task)

    async def _deliver(self, delivery: SubscriptionDelivery) -> None:
        try:
            await delivery.run()
        except db.DATABASE_ERRORS as error:
            log.debug("subscription %s is begun again: %s", delivery.held.name, db.reason(error))
        except Exception:
            log.exception("a defect: cannot deliver subscription %s; trying again later", delivery.held.name)
            await asyncio.sleep(DEFECT_SECONDS)

    async def _pause(self) -> None:
        if self._holds or any(not task.done() for _, task in self._deliveries.values()):
            seconds = self._holding_seconds
        else:
            seconds = min(WATCHING_SECONDS, self._poll_seconds) if self._known else self._poll_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.8, 1.0)):
                await self._woken.wait()
        if self._woken.is_set():
            self._woken.clear()
            await asyncio.sleep(random.uniform(0.0, SPREAD_SECONDS))
