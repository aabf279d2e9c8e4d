"""The poller: sends a poll, and hands its result to the parts of the worker that act on it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from turbo.db.account_store import AccountRow
from turbo.db.claim_store import ClaimStore
from turbo.db.connect import Connection
from turbo.db.polls import PollResult
from turbo.domain.budget import Budget
from turbo.worker.wakeups import WakeUps

ALSO_SECONDS = 120.0
"""Twice the longest backoff of a rescued task."""

ALSO_QUEUES = 100


class BreakerObserver(Protocol):
    """Gets the account rows of each poll (turbo.accounts.manager)."""

    def polled(self, rows: tuple[AccountRow, ...], asked_at: float) -> None: ...


class UnsettledObserver(Protocol):
    """Is told by each poll whether tasks that wait are to be seen to (turbo.worker.settler)."""

    def polled(self, unsettled: bool) -> None: ...


class ScheduleObserver(Protocol):
    """Is told by each poll when the next slot of a schedule is (turbo.worker.scheduler)."""

    def polled(self, slot_in: float | None, clock: float, asked_at: float) -> None: ...


class BudgetObserver(Protocol):
    """Is told by each poll what the budgets are, and whether usage is to be added to them (turbo.worker.budget_keeper)."""

    def polled(self, budgets: tuple[Budget, ...], fold: bool, asked_at: float) -> None: ...


class Poller:
    """Used by the claimer, and by the listener on its own connection."""

    def __init__(
        self,
        store: ClaimStore,
        queues: Sequence[str],
        wakeups: WakeUps,
        accounts: BreakerObserver,
        reconcile: asyncio.Event,
        settler: UnsettledObserver | None = None,
        messages_open: Callable[[], None] = lambda: None,
        scheduler: ScheduleObserver | None = None,
        budgets: BudgetObserver | None = None,
    ) -> None:
        """`reconcile` is set where a run of this worker is to be stopped. `messages_open` is called where any message is open."""
        self._store = store
        self._queues = tuple(queues)
        self._wakeups = wakeups
        self._accounts = accounts
        self._reconcile = reconcile
        self._settler = settler
        self._messages_open = messages_open
        self._scheduler = scheduler
        self._budgets = budgets
        self._also: dict[str, float] = {}  # until when, in monotonic seconds

    def promote_also(self, queues: Iterable[str]) -> None:
        """Promote what falls due in these queues, too, for a while: this worker has just put rescued tasks into them, and
        their own workers do not know when those are due."""
        until = time.monotonic() + ALSO_SECONDS
        self._also |= dict.fromkeys(sorted(set(queues) - set(self._queues))[:ALSO_QUEUES], until)

    async def read(self, connection: Connection | None = None) -> PollResult:
        """One poll, on `connection` or on the claims' lane. Raises `db.DATABASE_ERRORS`."""
        if not self._also:
            return await self._store.poll(self._queues, connection)
        now = time.monotonic()
        self._also = {queue: until for queue, until in self._also.items() if until > now}
        return await self._store.poll((*self._queues, *self._also), connection)

    def message_told(self) -> None:
        """Somebody has told a task something: the next claims look whether it is one of theirs."""
        self._store.message_told()

    def limits_told(self) -> None:
        """Somebody has written a limit of a key, or removed one."""
        self._store.limits_told()

    def act_on(self, result: PollResult) -> None:
        self._accounts.polled(result.accounts, result.asked_at)
        self._wakeups.polled(result)
        if result.stop:
            self._reconcile.set()
        if self._settler is not None:
            self._settler.polled(result.unsettled)
        if result.messages:
            self._messages_open()
        if self._scheduler is not None:
            self._scheduler.polled(result.schedule_in, result.clock, result.asked_at)
        if self._budgets is not None:
            self._budgets.polled(result.budgets, result.fold, result.asked_at)

    async def poll(self, connection: Connection | None = None) -> PollResult:
        """`read`, then `act_on`."""
        result = await self.read(connection)
        self.act_on(result)
        return result
