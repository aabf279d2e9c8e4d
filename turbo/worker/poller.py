"""The poller: sends a poll, and hands its result to the parts of the worker that act on it."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from turbo.db.account_store import AccountRow
from turbo.db.claim_store import ClaimStore, PollResult
from turbo.db.connect import Connection
from turbo.worker.wakeups import WakeUps


class BreakerObserver(Protocol):
    """Gets the account rows of each poll (turbo.accounts.manager)."""

    def polled(self, rows: tuple[AccountRow, ...], asked_at: float) -> None: ...


class Poller:
    """Used by the claimer, and by the listener on its own connection."""

    def __init__(
        self,
        store: ClaimStore,
        queues: Sequence[str],
        wakeups: WakeUps,
        accounts: BreakerObserver,
        reconcile: asyncio.Event,
    ) -> None:
        """`reconcile` is set where a run of this worker is to be stopped."""
        self._store = store
        self._queues = tuple(queues)
        self._wakeups = wakeups
        self._accounts = accounts
        self._reconcile = reconcile

    async def read(self, connection: Connection | None = None) -> PollResult:
        """One poll, on `connection` or on the claims' lane. Raises `db.DATABASE_ERRORS`."""
        return await self._store.poll(self._queues, connection)

    def act_on(self, result: PollResult) -> None:
        self._accounts.polled(result.accounts, result.asked_at)
        self._wakeups.polled(result)
        if result.stop:
            self._reconcile.set()

    async def poll(self, connection: Connection | None = None) -> PollResult:
        """`read`, then `act_on`."""
        result = await self.read(connection)
        self.act_on(result)
        return result
