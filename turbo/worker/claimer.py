"""The claimer: fills free slots, with one claim in flight at a time.

    waiting ──a queue to claim from, and a free slot──▶ claiming ──tasks──▶ the runner
       ▲  └──a poll is due──▶ polling ──┘                  └── fewer than there are slots: idle, polls once more
       └───────────────────────────────────────────────────┘

It claims when a notification names a queue, when a slot comes free, when a poll saw a runnable task; it polls when the next
scheduled task is due, and at rechecks (turbo.worker.wakeups). Otherwise it sleeps, and sends the database nothing.
"""

import asyncio
import logging
from typing import Protocol

from turbo import db
from turbo.db.channels import Notifier
from turbo.db.claim_store import Claim, ClaimStore
from turbo.domain.budget import NOTHING_SPENT, SpentQueue
from turbo.domain.task import Task
from turbo.domain.type_filter import TypeFilter
from turbo.observability.metrics import Metrics
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.poller import Poller
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.slots import Slots
from turbo.worker.wakeups import WakeUps, WokenQueues

log = logging.getLogger(__name__)

OVERLAP_SLOTS = 20
"""With this many slots or more, a claim takes at most half of them: while the database looks for the second half, the first half
runs. Otherwise runs of milliseconds would all wait for each claim, and the database for them."""


class Reservations(Protocol):
    """What has to be taken before a claim, and limits it (turbo.executors.exclusive_directories)."""

    @property
    def types(self) -> TypeFilter: ...
    def reserve(self) -> bool: ...
    def assign(self, task: Task) -> None: ...
    def let_go(self) -> None: ...


class TaskRunner(Protocol):
    """Runs what was claimed (turbo.worker.runner)."""

    def start(self, task: Task) -> None: ...


class SpentBudgets(Protocol):
    """What budgets keep from being claimed (turbo.worker.budget_keeper)."""

    async def up_to_date(self) -> None: ...
    def spent(self, queue: str) -> SpentQueue: ...


class IdleRule(Protocol):
    """Whether this worker's idle flag may be set (turbo.worker.presence)."""

    @property
    def may_idle(self) -> bool: ...


class Claimer(LoopService):
    """`claimed` is emitted with each task."""

    name = "claimer"

    def __init__(
        self,
        store: ClaimStore,
        notifier: Notifier,
        wakeups: WakeUps,
        poller: Poller,
        gate: ClaimGate,
        recovery_gate: RecoveryGate,
        presence: IdleRule,
        reservations: Reservations,
        slots: Slots,
        runner: TaskRunner,
        metrics: Metrics,
        *,
        claiming: asyncio.Lock,
        reconcile: asyncio.Event,
        budgets: SpentBudgets | None = None,
    ) -> None:
        """`claiming` is held during a claim: reconciliation must not run meanwhile. `reconcile` is set when a claim
        failed: its answer may have been lost on the wire."""
        super().__init__()
        self._store = store
        self._notifier = notifier
        self._wakeups = wakeups
        self._poller = poller
        self._gate = gate
        self._recovery_gate = recovery_gate
        self._presence = presence
        self._reservations = reservations
        self._slots = slots
        self._runner = runner
        self._metrics = metrics
        self._claiming = claiming
        self._reconcile = reconcile
        self._budgets = budgets
        self.claimed: Signal[Task] = Signal()

    async def run(self) -> None:
        outage = db.outage(log, "cannot claim", "claiming again")
        self._wakeups.wake_all()
        self.started.set()
        while True:
            await self._wakeups.wait(self._able)
            try:
                await self._turn()
            except db.DATABASE_ERRORS as error:
                self._wakeups.retry()
                self._reconcile.set()
                await outage.wait(error)
            else:
                outage.over()

    @property
    def _types(self) -> TypeFilter:
        return self._gate.types & self._reservations.types

    def _able(self) -> bool:
        return self._slots.free > 0 and self._gate.open and not self._types.none

    async def _turn(self) -> None:
        due = self._wakeups.take_due_poll()
        if due is not None:
            result = await self._poller.read()
            self._poller.act_on(self._wakeups.stood_by(result) if due.standby else result)
            if due.recheck:
                self._wakeups.rechecked()
        woken = self._wakeups.take_queues()
        for i, queue in enumerate(woken.queues):
            if not self._able():
                self._wakeups.put_back(woken.queues[i:])  # later, when a slot comes free
                return
            await self._claim_from(queue, woken)

    async def _claim_from(self, queue: str, woken: WokenQueues) -> None:
        spent = await self._spent(queue)
        if (self._types & spent.types).none:
            return  # a spent budget covers the whole queue
        by_notify = queue in woken.by_notify
        claim, limit = await self._claim(queue, spent, woken=by_notify or woken.key_freed)
        if by_notify and not claim.tasks:
            self._metrics.claims.labels(queue, "lost").inc()
        if queue in woken.called and not claim.tasks and (self._types & spent.types).restricted:
            await self._notifier.wake_all(queue)  # another worker may take what this one must not
        if len(claim.tasks) == limit or any(task.concurrency_key or task.continued for task in claim.tasks):
            # There may be more: behind a full batch, and behind the waiters of a key or a conversation, of whom a batch takes one.
            self._wakeups.put_back([queue])
        if claim.idle_now:
            # The flag is set from this commit on. A poll finds the rows committed before it, rechecks those committed later.
            async with self._claiming:
                result = await self._poller.read()
                self._wakeups.went_idle(result)
                self._poller.act_on(result)
        elif by_notify and len(claim.tasks) < limit:
            self._wakeups.poll_soon()  # the notification may have been of a row that is due soon: set the timer
        await self._survey(queue, claim, short=len(claim.tasks) < limit)

    async def _survey(self, queue: str, claim: Claim, *, short: bool) -> None:
        """Look for rows that are in the way of claims, and for those that claims have passed by."""
        surveyed = await self._store.survey(claim, short=short)
        if surveyed.claimable and short:
            self._wakeups.put_back([queue])
        if surveyed.again_in is not None:
            self._wakeups.wake_in(queue, min(surveyed.again_in, claim.again_in or surveyed.again_in))

    async def _spent(self, queue: str) -> SpentQueue:
        if self._budgets is None:
            return NOTHING_SPENT
        await self._budgets.up_to_date()
        return self._budgets.spent(queue)

    async def _claim(self, queue: str, spent: SpentQueue, *, woken: bool) -> tuple[Claim, int]:
        """The answer of one claim, and its limit."""
        await self._store.open()
        await self._recovery_gate.wait_open()
        async with self._claiming:
            # With a directory reserved, one task at a time: a batch could hold several that need the same directory.
            limit = 1 if self._reservations.reserve() else self._slots.free
            if self._slots.size >= OVERLAP_SLOTS:
                limit = min(limit, self._slots.size // 2)
            try:
                claim = await self._store.claim(
                    queue,
                    limit,
                    may_idle=self._presence.may_idle,
                    types=self._types & spent.types,
                    spent=spent.submitters,
                    woken=woken,
                )
                if claim.idle_now is not None:
                    self._wakeups.set_idle(claim.idle_now)
                for task in claim.tasks:
                    self._reservations.assign(task)
                    self._runner.start(task)
                    self.claimed.emit(task)
                if claim.again_in is not None:
                    self._wakeups.wake_in(queue, claim.again_in)
                if claim.tasks and len(claim.tasks) < limit:
                    await asyncio.sleep(0)  # nothing waits for the next claim: let the runs begin before counting them
            finally:
                self._reservations.let_go()
            if claim.tasks:
                self._metrics.claims.labels(queue, "claimed").inc(len(claim.tasks))
                waited = self._metrics.wait.labels(queue)
                for task in claim.tasks:
                    waited.observe(task.waited_seconds)
            if claim.races:
                self._metrics.claims.labels(queue, "lost").inc(claim.races)
            if claim.failed is not None:
                raise claim.failed
            return claim, limit
