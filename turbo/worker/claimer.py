"""The claimer: fills free slots, one claim in flight at a time, and knows when to look.

It looks when a notification names a queue, when a slot comes free, when the next scheduled task is due, when a poll saw
something runnable, and on the ladder. Otherwise it sleeps, and the database hears nothing from it.

The ladder closes the gate's one race. A trigger that looked before this worker's idle flag was committed sends no NOTIFY;
its row may become visible only after the worker's last claim. So a worker that has just gone idle looks once more. If
transactions that may hold such a row were open then, it sweeps again after 5 ms, 10 ms, 20 ms … until all of those are over,
or the fallback poll is due sooner: such a row waits about as long as its own transaction stayed open. The ladder starts only
when the flag changed; a worker that was idle all along has no such race.

Of many idle workers the trigger wakes as many as it has rows, and has three stand by. Those look a little later, one
after the other, whether the row is gone: it is, unless whoever was woken is dead or was just busy. Who sees one looks a second
time before it claims.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import psycopg

from turbo import db
from turbo.db.claim_store import Claim, PollResult, Queue
from turbo.db.connect import Backoff
from turbo.domain.task import Task
from turbo.domain.type_filter import TypeFilter
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

LADDER_FIRST_SECONDS = 0.005
LADDER_GROWTH = 2.0
DUE_SLACK_SECONDS = 0.001

STAND_BY_SECONDS = 0.02
STAND_BY_GROWTH = 5.0
SECOND_LOOK_SECONDS = 0.01

OVERLAP_SLOTS = 20
"""From so many slots on a claim takes half of them at most: while the database looks for the second half the first one runs.
Runs of milliseconds would otherwise wait for each claim together, and the database for them."""


class Reservations(Protocol):
    """What has to be taken before a claim, and limits it (turbo.executors.exclusive_directories)."""

    @property
    def types(self) -> TypeFilter: ...
    def reserve(self) -> bool: ...
    def assign(self, task: Task) -> None: ...
    def let_go(self) -> None: ...


class Unlimited:
    """Nothing to reserve."""

    types = TypeFilter()

    def reserve(self) -> bool:
        return False

    def assign(self, task: Task) -> None: ...
    def let_go(self) -> None: ...


class Claimer(Service):
    name = "claimer"

    def __init__(
        self,
        queue: Queue,
        queues: Sequence[str],
        slots: Slots,
        metrics: Metrics,
        start_task: Callable[[Task], None],
        *,
        poll_seconds: float,
        ladder: bool = True,
    ) -> None:
        super().__init__()
        self._queue = queue
        self._queues = list(queues)
        self._slots = slots
        self._metrics = metrics
        self._start_task = start_task
        self._poll_seconds = poll_seconds
        self._ladder = ladder
        self._woken: set[str] = set()
        self._by_notify: set[str] = set()
        self._sweep_wanted = False
        self._event = asyncio.Event()
        self._next_due: float | None = None  # monotonic
        self._called: set[str] = set()
        self._look_at: float | None = None  # monotonic; standing by
        self._seen = False  # it looked once and saw a row
        self._rung: float | None = None  # seconds; None while the ladder stands aside
        self._rung_at = 0.0  # monotonic
        self._slipped_below = 0  # transactions with lower ids may hold a row that slipped by
        self._idle = False
        self.claiming = asyncio.Lock()  # held during a claim: reconciliation must not run meanwhile
        self.listening = False  # a deaf worker is never idle
        self.held_back: str | None = None  # why nothing may be claimed now (a full spool, no account), or None
        self.types = TypeFilter()  # what accounts and programs let through
        self.exclusive: Reservations = Unlimited()
        self.on_stop: Callable[[], None] = lambda: None
        self.on_sweep: Callable[[PollResult], None] = lambda _sweep: None

    # ── what others tell it ─────────────────────────────────────────────────────────────────────────────────────────

    def wake(self, queue: str, *, by_notify: bool = False) -> None:
        """`queue` may have something to claim."""
        if queue in self._queues:
            self._woken.add(queue)
            if by_notify:
                self._by_notify.add(queue)
            self._event.set()

    def called(self, queue: str, place: int) -> None:
        """Of many idle workers this one is to claim (`place` 0), or to look in its turn (from 1) whether somebody did."""
        if queue in self._queues and place == 0:
            self._called.add(queue)
            self.wake(queue, by_notify=True)
        elif queue in self._queues:
            seconds = STAND_BY_SECONDS * STAND_BY_GROWTH ** (place - 1) * random.uniform(0.9, 1.1)
            at = time.monotonic() + seconds
            if self._look_at is None or at < self._look_at:
                self._look_at = at
                self._event.set()

    def wake_all(self) -> None:
        self._woken.update(self._queues)
        self._event.set()

    def look(self) -> None:
        """PollResult soon: something may have changed that only the database knows."""
        self._sweep_wanted = True
        self._event.set()

    def swept(self, sweep: PollResult) -> None:
        self.on_sweep(sweep)
        self.due_in(sweep.next_in, replace=True)
        if sweep.ended_below >= self._slipped_below:
            self._rung = None
        for queue in sweep.runnable:
            self.wake(queue)
        if sweep.stop:
            self.on_stop()

    def due_in(self, seconds: float | None, *, replace: bool = False) -> None:
        """A scheduled task is due in `seconds`; the earliest one known sets the timer."""
        at = None if seconds is None else time.monotonic() + seconds + DUE_SLACK_SECONDS
        if replace or (at is not None and (self._next_due is None or at < self._next_due)):
            self._next_due = at
            self._event.set()

    async def forget_idle(self) -> None:
        """After a reconnect: a failover may have lost the flag. Write it anew, and go down the ladder again."""
        self._idle = False
        await self._queue.set_idle(False)
        self.wake_all()

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        backoff = Backoff()
        self.wake_all()
        trouble = False
        while True:
            await self._wait()
            try:
                await self._turn()
                backoff.reset()
                if trouble:
                    log.info("claiming again")
                    trouble = False
            except (psycopg.Error, OSError) as error:
                if not isinstance(error, OSError) and not db.is_transient(error):
                    log.error("cannot claim: %s", db.reason(error))
                elif not trouble:
                    log.warning("cannot claim: %s", db.reason(error))
                trouble = True
                self._sweep_wanted = True
                self._woken.update(self._queues)
                self.on_stop()  # the answer may have been lost on the wire: reconcile
                await asyncio.sleep(backoff.next())

    async def _wait(self) -> None:
        """Until there is something to do: an event, a free slot, the next due task, the next rung."""
        while True:
            now = time.monotonic()
            timers = []
            if self._next_due is not None:
                timers.append(self._next_due)
            if self._rung is not None:
                timers.append(self._rung_at)
            if self._look_at is not None:
                timers.append(self._look_at)
            if self._sweep_wanted or (self._woken and self._able()) or any(t <= now for t in timers):
                return
            self._event.clear()
            timer = asyncio.get_running_loop().call_later(min(timers) - now, self._event.set) if timers else None
            try:  # this is between a notification and its claim: a plain timer costs less than asyncio.timeout
                await self._event.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _able(self) -> bool:
        return self._slots.free > 0 and self.held_back is None and not (self.types & self.exclusive.types).none

    def _restricted(self) -> bool:
        types = self.types & self.exclusive.types
        return types.only is not None or bool(types.skip)

    async def _turn(self) -> None:
        now = time.monotonic()
        due = self._next_due is not None and self._next_due <= now
        rung = self._rung is not None and self._rung_at <= now
        stood_by = self._look_at is not None and self._look_at <= now
        if due or rung or stood_by or self._sweep_wanted:
            self._sweep_wanted = False
            if stood_by:
                self._look_at = None
            if due:
                self._next_due = None
            sweep = await self._queue.sweep(self._queues)
            if stood_by and sweep.runnable and not self._seen:
                # A later row, perhaps, that another worker was called for and has not claimed yet.
                self._look_at = time.monotonic() + SECOND_LOOK_SECONDS
                self._seen = True
                sweep = replace(sweep, runnable=())
            elif stood_by:
                self._seen = False
                self._called.update(sweep.runnable)
            self.swept(sweep)
            if rung and self._rung is not None:
                self._climb()
        if self._woken:
            await self._claim_woken()

    async def _claim_woken(self) -> None:
        random.shuffle(self._queues)  # no queue of several goes first for ever
        woken, self._woken = [q for q in self._queues if q in self._woken], set()
        by_notify, self._by_notify = self._by_notify, set()
        called, self._called = self._called, set()
        for i, queue in enumerate(woken):
            if not self._able():
                self._woken.update(woken[i:])  # later, when a slot comes free
                return
            claim, limit = await self._claim(queue)
            if queue in by_notify and not claim.tasks:
                self._metrics.claims.labels(queue, "lost").inc()
            if queue in called and not claim.tasks and self._restricted():
                await self._queue.wake_all(queue)  # somebody else may take what this worker must not
            if len(claim.tasks) == limit or any(t.concurrency_key for t in claim.tasks):
                # There may be more: behind a full batch, and behind the waiters of a key, of whom a batch takes one.
                self._woken.add(queue)
            if claim.idle_now:
                # The flag is up from this commit on. What slipped by before it is found by looking once more, and
                # what commits later by the ladder.
                async with self.claiming:
                    sweep = await self._queue.sweep(self._queues)
                    self._start_ladder(sweep)
                    self.swept(sweep)
            elif queue in by_notify and len(claim.tasks) < limit:
                self._sweep_wanted = True  # it may have been told of a row that is due soon: set the timer

    async def _claim(self, queue: str) -> tuple[Claim, int]:
        """What it brought, and how many it might have brought."""
        await self._queue.settled()
        async with self.claiming:
            # With a directory reserved one task at a time: a batch could hold several that want the same one.
            limit = 1 if self.exclusive.reserve() else self._slots.free
            if self._slots.size >= OVERLAP_SLOTS:
                limit = min(limit, self._slots.size // 2)
            try:
                types = self.types & self.exclusive.types
                claim = await self._queue.claim(
                    queue, limit, may_idle=self.listening, only_types=types.only, skip_types=types.skip
                )
                if claim.idle_now is not None:
                    self._idle = claim.idle_now
                for task in claim.tasks:
                    self.exclusive.assign(task)
                    self._start_task(task)
                if claim.tasks and len(claim.tasks) < limit:
                    await asyncio.sleep(0)  # nothing waits for the next claim: let them begin before the books are kept
            finally:
                self.exclusive.let_go()
            if claim.tasks:
                self._metrics.claims.labels(queue, "claimed").inc(len(claim.tasks))
                waited = self._metrics.wait.labels(queue)
                for task in claim.tasks:
                    waited.observe(task.waited_seconds)
            if claim.races:
                self._metrics.claims.labels(queue, "lost").inc(claim.races)
            return claim, limit

    def slot_freed(self, *, key: bool) -> None:
        """A run ended. While this worker is idle it will be notified; otherwise, or for a freed key, it looks itself."""
        if key or not self._idle:
            self._woken.update(self._queues)
        self._event.set()

    # ── the ladder ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_ladder(self, sweep: PollResult) -> None:
        """`sweep`: the first one that was begun after the flag was up."""
        if self._ladder:
            self._slipped_below = sweep.begun_below
            self._rung = LADDER_FIRST_SECONDS
            self._rung_at = time.monotonic() + self._rung

    def _climb(self) -> None:
        assert self._rung is not None
        self._rung *= LADDER_GROWTH
        if self._rung >= self._poll_seconds:
            self._rung = None  # from here on the listener's poll does it
        else:
            self._rung_at = time.monotonic() + self._rung * random.uniform(0.9, 1.1)
