"""The chooser: which account of a pool a run takes, and when its agent may begin.

claimed ──▶ chosen (turbo.domain.headroom) ──its start is due──▶ runs with it
              ▲                               └── closed meanwhile ──┐
              └──────────────────────────────────────────────────────┘
              └── none is open: given back uncounted, and its task type is not claimed any more (turbo.accounts.manager)
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from turbo.accounts.conversations import KeptAccounts
from turbo.accounts.headroom import Headroom
from turbo.accounts.windows import AccountWindows
from turbo.domain.headroom import OpenAccount, UsageWindow, choose
from turbo.domain.run import Running, Snooze
from turbo.executors.pool import AccountPool, PoolMember
from turbo.executors.protocol import Executor, NeedsProgram

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""When a task may be claimed again whose accounts were all closed between its claim and its start."""


class AccountRules(Protocol):
    """What worker.yaml says of an account (turbo.config.worker)."""

    @property
    def leave_at(self) -> float: ...
    @property
    def start_every_seconds(self) -> float: ...
    @property
    def last_resort(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _NoRules:
    """Of an account without a name in worker.yaml."""

    leave_at: float = 1.0
    start_every_seconds: float = 0.0
    last_resort: bool = False


_NO_RULES = _NoRules()


@dataclass(frozen=True, slots=True)
class ChosenAccount:
    """`executor`: the member of the pool that runs the task. `moved`: another account had the task's conversation, or none that is
    known."""

    executor: Executor
    moved: bool


class AccountChooser:
    """`open_members(pool)`: those whose account and model are not closed, in the order of the configuration. `running`: the runs of
    this process. `went_missing` is called when an account turns out to be unusable on this host."""

    def __init__(
        self,
        rules: Mapping[str, AccountRules],
        headroom: Headroom,
        windows: AccountWindows,
        kept: KeptAccounts,
        open_members: Callable[[AccountPool], Sequence[PoolMember]],
        running: Callable[[], Iterable[Running]],
        went_missing: Callable[[], None],
    ) -> None:
        self._rules = rules
        self._headroom = headroom
        self._windows = windows
        self._kept = kept
        self._open_members = open_members
        self._running = running
        self._went_missing = went_missing
        self._tried: set[str] = set()
        self._began: dict[str, float] = {}
        self._next_start: dict[str, float] = {}

    async def take(self, pool: AccountPool, run: Running, spent: Collection[str]) -> ChosenAccount:
        """Choose, but none of those whose budget is `spent`, and wait until a start is due. `run.account` is set from then on. Raises
        Snooze if no account is open."""
        keeps = await asyncio.to_thread(self._kept.of, pool.name, run.task)
        await self._windows.refresh(self._rules.keys())
        while True:
            chosen = self._choose(pool, keeps, spent)
            if chosen is None:
                run.account = None
                raise Snooze(f"no account of executor {pool.name} is open", AGAIN_SECONDS)
            run.account = account = chosen.account
            await self._due(account, run)
            if run.stop.is_set() or chosen in self._open_members(pool):
                break
        if account != keeps:
            await asyncio.to_thread(self._kept.keep, pool.name, run.task, account)
        return ChosenAccount(chosen.executor, moved=account != keeps)

    def report(self, account: str, windows: Iterable[UsageWindow]) -> None:
        """What the service says about an account, while a run is under way."""
        self._windows.report(account, windows)

    def _choose(self, pool: AccountPool, keeps: str | None, spent: Collection[str]) -> PoolMember | None:
        """Of the first model that an open account has. A last resort is one: another model of another account comes first."""
        usable = [one for one in self._open_members(pool) if one.account not in spent]
        while usable:
            first = [one for one in usable if not self._rule(one.account).last_resort] or usable
            mine = {one.account: one for one in first if one.model == first[0].model}
            account = choose([self._as_known(one) for one in mine], keeps)
            assert account is not None
            member = mine[account].executor
            if not isinstance(member, NeedsProgram) or member.missing() is None:
                self._tried.add(account)
                self._began[account] = time.monotonic()
                return mine[account]
            usable = [one for one in usable if one.account != account]
            self._went_missing()
        return None

    def _rule(self, account: str) -> AccountRules:
        return self._rules.get(account, _NO_RULES)

    def _as_known(self, account: str) -> OpenAccount:
        rules = self._rule(account)
        return OpenAccount(
            account,
            self._headroom.utilization(account),
            running=sum(run.account == account for run in self._running()),
            tried=account in self._tried,
            began=self._began.get(account, 0.0),
            leave_at=rules.leave_at,
            last_resort=rules.last_resort,
        )

    async def _due(self, account: str, run: Running) -> None:
        """Wait for the account's next start, or until the run is asked to end."""
        every = self._rule(account).start_every_seconds
        if not every:
            return
        now = time.monotonic()
        start = max(now, self._next_start.get(account, 0.0))
        self._next_start[account] = start + every
        if start > now:
            try:
                async with asyncio.timeout(start - now):
                    await run.stop.wait()
            except TimeoutError:
                return
