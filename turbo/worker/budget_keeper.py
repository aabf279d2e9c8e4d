"""The budget keeper: adds what runs used to the budgets, and says what a spent budget closes. Every worker has one, and none leads.

    waits ──a result brings usage; a budget changes; a period ends; a poll finds something to add──▶ folds ──▶ waits

A finish only records usage. The fold comes right after it, and until it is done this worker claims nothing that a budget might cover:
so what is spent too much is what was in flight. A budget whose row a person has locked cannot be added to: what it covers stays shut
while some of its usage is open, and the fold is tried again. Results wait for none of this. Without budgets nothing is sent.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from psycopg import errors

from turbo import db
from turbo.db.budget_store import BudgetStore, Fold
from turbo.domain.budget import NOTHING_SPENT, Budget, Payers, SpentQueue, spent_queue
from turbo.domain.task import Task
from turbo.domain.type_filter import Routes
from turbo.domain.usage import Spent
from turbo.runtime.backoff import Backoff
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)

SPREAD_SECONDS = 0.03
"""After a notification, and after the end of a period, each worker looks at a moment of its own."""

LATE_SECONDS = 0.001
"""A look at the end of a period must not come before it."""

LONGEST_TIMER = 86_400.0

AGAIN_CAP = 1.0
"""Seconds at most until the next fold, after one that met a lock."""

PATIENCE_SECONDS = 0.5
"""How long a claim waits for a fold. After that, what any budget covers is shut until there has been one."""

FIRST_SECONDS = 10.0
"""The same as long as it is not known which budgets there are."""

DEFECT_SECONDS = 10.0
"""Until the next fold after one that ended in an error of turbo's own."""


class BudgetKeeper(LoopService):
    """`folded` is emitted after each fold."""

    name = "budgets"

    def __init__(
        self,
        store: BudgetStore,
        routes: Routes,
        payers: Mapping[str, Payers],
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """`payers`: the accounts that runs of each executor use, by its name. `opened` is called when something that was shut is
        open."""
        super().__init__()
        self._store = store
        self._routes = routes
        self._payers = payers
        self._opened = opened
        self._budgets: tuple[Budget, ...] = ()
        self._asked_at = float("-inf")  # monotonic: what was asked before that is older than what is known
        self._spent: dict[str, SpentQueue] = {}
        self._look_at: float | None = None  # monotonic
        self._event = asyncio.Event()
        self._added = asyncio.Event()  # all usage of this worker's is added, as far as a fold can
        self._blind = False  # no fold succeeds: what is known is too old
        self._used_again = False  # since the fold under way was sent
        self._again = Backoff(0.02, AGAIN_CAP)
        self.folded: Signal[Fold] = Signal()

    # ── what other parts tell ───────────────────────────────────────────────────────────────────────────────────────

    def used(self) -> None:
        """Results that used something are recorded."""
        if self._budgets:
            self._added.clear()
            self._used_again = True
            self._look_in(0.0)

    def heard(self) -> None:
        """A notification: a person has written a budget, or another worker has closed or opened one."""
        self._look_in(random.uniform(0.0, SPREAD_SECONDS))

    def polled(self, budgets: tuple[Budget, ...], fold: bool, asked_at: float) -> None:
        """What a poll saw, and whether there is something to add. The poll may be older than what is known. It does not count usage of
        the last second as missing: only a fold tells that a budget is not behind any more."""
        if asked_at < self._asked_at:
            return
        behind = {one.name for one in self._budgets if one.behind}
        self._learn(tuple(replace(one, behind=one.behind or one.name in behind) for one in budgets), asked_at)
        if fold:
            self._look_in(random.uniform(0.0, SPREAD_SECONDS))

    # ── what other parts ask ────────────────────────────────────────────────────────────────────────────────────────

    async def up_to_date(self) -> None:
        """Wait until the usage of this worker's results is added to the budgets, for a while. Before the first fold, too."""
        end = time.monotonic() + FIRST_SECONDS
        while not self._added.is_set() and not self._blind:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._added.wait()
                return
            if self._asked_at > float("-inf") or time.monotonic() > end:
                self._set_blind(True)

    def spent(self, queue: str) -> SpentQueue:
        """What budgets keep from being claimed in `queue`."""
        if not self._budgets:
            return NOTHING_SPENT
        known = self._spent.get(queue)
        if known is None:
            known = self._spent[queue] = spent_queue(queue, self._as_known(), self._routes, self._payers)
        return known

    def counts_runs(self, task: Task, account: str | None) -> bool:
        """Whether a budget limits the number of such runs: each of them is to be in the ledger then."""
        return any(one.counts_runs and one.covers(task.queue, task.task_type, account or "") for one in self._budgets)

    async def spent_accounts(self, task: Task) -> frozenset[str]:
        """Accounts that this task may not use now. A claim looks at those of executors whose accounts are all spent."""
        shut = [
            one
            for one in self._as_known()
            if one.account is not None and one.shut and one.covers(task.queue, task.task_type, one.account)
        ]
        return frozenset(one.account for one in await self._of_submitter(task, shut) if one.account is not None)

    async def usd_left(self, task: Task, account: str | None, used: Sequence[Spent] = ()) -> float | None:
        """What a call may use at most, in US dollars: the least that is left of a budget that covers it. None: no limit. `used`: what
        its run has spent, which no budget has yet."""
        limits = [
            one
            for one in self._budgets
            if one.usd_left is not None and one.covers(task.queue, task.task_type, account or "")
        ]
        left = [
            one.usd_left - sum(usd for whose, usd in used if one.account in (None, whose))
            for one in await self._of_submitter(task, limits)
            if one.usd_left is not None
        ]
        return min(left, default=None)

    def _as_known(self) -> Sequence[Budget]:
        """The budgets. While no fold succeeds, each is behind: what it covers is shut."""
        return [replace(one, behind=True) for one in self._budgets] if self._blind else self._budgets

    async def _of_submitter(self, task: Task, budgets: list[Budget]) -> list[Budget]:
        """Those of `budgets` that are for everybody, or for whoever submitted the task."""
        if all(one.submitted_by is None for one in budgets):
            return budgets
        try:
            submitter = await self._store.submitter(task.task_id)
        except db.DATABASE_ERRORS:
            submitter = None
        return [one for one in budgets if one.submitted_by in (None, submitter)]

    # ── folds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        outage = db.outage(log, "cannot add up budgets", "adding up budgets again")
        self._look_in(0.0)
        self.started.set()
        while True:
            await self._wait()
            try:
                await self.once()
            except errors.LockNotAvailable:
                self._look_in(self._again.next())  # another worker is adding
            except db.DATABASE_ERRORS as error:
                self._look_in(outage.failed(error))
                if not db.is_transient(error):  # a missing privilege: what no budget covers goes on
                    self._set_blind(True)
                    self._added.set()
            except Exception:
                log.exception("a defect: cannot add up budgets; trying again in %d s", DEFECT_SECONDS)
                self._look_in(DEFECT_SECONDS)
            else:
                outage.over()

    async def once(self) -> None:
        """Fold until nothing is left that can be added. Raises `db.DATABASE_ERRORS`."""
        more = True
        while more:
            self._look_at, self._used_again = None, False
            fold = await self._store.fold()
            more = fold.more
            self._learn(fold.budgets, fold.asked_at)
            self.folded.emit(fold)
        self._set_blind(False)
        if not self._used_again:
            self._added.set()
        if any(one.behind for one in self._budgets):
            self._look_in(self._again.next())
        else:
            self._again.reset()

    def _learn(self, budgets: tuple[Budget, ...], asked_at: float) -> None:
        was = {one.name: one for one in self._budgets}
        self._budgets, self._asked_at = budgets, asked_at
        self._spent.clear()
        for one in budgets:
            before = was.get(one.name)
            if one.closed and not (before is not None and before.closed):
                log.warning("budget %s is spent: nothing that it covers is claimed until its period ends", one.name)
            elif before is not None and before.closed and not one.closed:
                log.info("budget %s is open again", one.name)
        shut = {one.name for one in budgets if one.shut}
        if any(one.shut and one.name not in shut for one in was.values()) or _scopes(was.values()) - _scopes(budgets):
            self._opened()
        ends = [one.ends_in for one in budgets if one.closed and one.ends_in is not None]
        if ends:
            spread = LATE_SECONDS + random.uniform(0.0, SPREAD_SECONDS)
            self._look_in(min(max(0.0, min(ends)), LONGEST_TIMER) + spread, since=asked_at)

    def _set_blind(self, blind: bool) -> None:
        if blind != self._blind:
            self._blind = blind
            self._spent.clear()
            if not blind:
                self._opened()

    # ── the timer ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _look_in(self, seconds: float, *, since: float | None = None) -> None:
        at = (time.monotonic() if since is None else since) + seconds
        if self._look_at is None or at < self._look_at:
            self._look_at = at
            self._event.set()

    async def _wait(self) -> None:
        while True:
            self._event.clear()
            left = None if self._look_at is None else self._look_at - time.monotonic()
            if left is not None and left <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._event.wait()


def _scopes(budgets: Iterable[Budget]) -> set[tuple[str | None, ...]]:
    """Of those that are shut: what each covers."""
    return {(b.name, b.account, b.queue, b.task_type, b.submitted_by) for b in budgets if b.shut}
