"""Accounts that protect themselves: a dead login or a usage limit never uses up a task's retries.

    a run fails to log in ──▶ account suspect, its types closed ──probe──▶ good: the task failed, the account is open
                                                                    └────▶ bad: the task goes back, the account is paused

When a run reports that its login was refused, or that its CLI does not start, the account is suspect. This process claims
nothing more for it, from that moment on and before it gives the task back: else ten slots would claim the same tasks again
and again. The task waits for a probe (turbo.accounts.prober), because one task must not pause a fleet. If the login is
good, the task's content was at fault. A usage limit needs no probe. turbo.accounts.breaker draws what closes and opens an
account.

What is away (the service of an account, a repository, a remote) is handled in the same way. If a probe finds that it is there
after all, the outage may have been shorter than the run: the first BLIPS times no attempt is counted, then it is the task's
failure. So a task that alone makes a service fail cannot go on for ever.

While an account is closed, claims leave out the task types that need it (turbo.worker.claim_gate). Changes by other
workers arrive by NOTIFY (turbo_ctl: accounts) and with every poll.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from turbo import db
from turbo.accounts.breaker import EVERY_HOST, AccountTimings, Breaker
from turbo.accounts.prober import NamedProbe, Prober, suspect
from turbo.db.account_store import AccountRow, AccountStore
from turbo.domain.budget import Payers
from turbo.domain.dependency import account_behind, described, family, of_model
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.run import Running
from turbo.domain.states import AccountState, PauseReason
from turbo.domain.type_filter import Routes, TypeFilter, served_types
from turbo.executors.pool import AccountPool, PoolMember, each_member
from turbo.executors.protocol import Depends, Executor, NeedsAccounts, Probes, UsesModel
from turbo.observability.metrics import Metrics
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
"""How long a result waits for its limit to be written. The limit holds in this process at once, and an outage of the
database must not keep the result from the spool."""

BLIPS = 3
"""How often a task may meet an outage that no probe confirms, without an attempt being counted. They are counted with the
infrastructure failures, whose limit makes a task poison: rescues must still fit in."""

CHANGE_SECONDS = 1.0
RETRY_SECONDS = 5.0


def account_of(executor: Executor) -> str | None:
    """The account whose breaker protects it: the configured one; for an executor that can be probed, else its name."""
    return executor.account or (executor.name if isinstance(executor, Probes) else None)


def model_of(executor: Executor) -> str | None:
    """The breaker of its model, which its account may limit by itself; None: it has no known one."""
    account = account_of(executor)
    limited = family(executor.model) if isinstance(executor, UsesModel) else None
    return of_model(account, limited) if account is not None and limited is not None else None


def needs_of(executor: Executor) -> frozenset[str]:
    """What an executor needs, by the names of the breakers: its account, those of its reviewers, and its dependencies. Of the
    accounts of a pool it needs any one (`AccountManager.open_members`)."""
    needs = {name for name in (account_of(executor), model_of(executor)) if name is not None}
    if isinstance(executor, NeedsAccounts):
        needs |= set(executor.needs_accounts)
    return frozenset(needs | set(executor.dependencies()) if isinstance(executor, Depends) else needs)


def accounts_of(executors: Mapping[str, Executor]) -> tuple[str, ...]:
    """The names of all accounts and dependencies, sorted."""
    return tuple(sorted({name for executor in each_member(executors) for name in needs_of(executor)}))


def payers(executors: Mapping[str, Executor]) -> dict[str, Payers]:
    """By executor, the accounts that its runs use: its own or one of its pool, and those of its reviewers."""
    return {
        name: Payers(
            frozenset(account for account in _own_accounts(e) if account is not None),
            frozenset(e.needs_accounts) if isinstance(e, NeedsAccounts) else frozenset(),
        )
        for name, e in executors.items()
    }


def _own_accounts(executor: Executor) -> Iterable[str | None]:
    return [one.account for one in executor.members] if isinstance(executor, AccountPool) else [executor.account]


def _probes(executors: Mapping[str, Executor], name: str) -> list[NamedProbe]:
    """Every way to probe an account or a dependency."""
    some = []
    for executor in each_member(executors):
        if name in (account_of(executor), model_of(executor)) and isinstance(executor, Probes):
            some.append(NamedProbe(executor.name, executor.probe))
        if isinstance(executor, Depends) and (probe := executor.dependencies().get(name)) is not None:
            return [NamedProbe(executor.name, probe)]  # whoever asks, it is the same repository
    return some


class AccountManager(LoopService):
    name = "accounts"

    def __init__(
        self,
        store: AccountStore,
        host: str,
        executors: Mapping[str, Executor],
        routes: Routes,
        metrics: Metrics,
        changed: Callable[[TypeFilter], None],
        *,
        shared: Collection[str] = (),
        timings: AccountTimings | None = None,
    ) -> None:
        """`changed(types)` is called, synchronously, with the task types that may be claimed from now on. `shared`: the
        accounts that the configuration names; see Prober. `names`: of all breakers."""
        super().__init__()
        self._store = store
        self._host = host
        self._routes = routes
        self._metrics = metrics
        self._types_changed = changed
        self._timings = timings or AccountTimings()
        self._account_of = {name: account for name, e in executors.items() if (account := account_of(e)) is not None}
        self._needs = {name: needs_of(e) for name, e in executors.items()}
        self._pools = {name: e for name, e in executors.items() if isinstance(e, AccountPool)}
        self.names = accounts_of(executors)
        probes = {name: _probes(executors, name) for name in self.names}
        self._prober = Prober(store, host, probes, shared, metrics, self._timings)
        self._breakers = {name: Breaker(name, self._timings) for name in self.names}
        self._shown = {name for name in self.names if account_behind(name) == name}  # models: once they were closed
        self._changes = asyncio.Event()
        self._types = TypeFilter()
        self._probe_outage = db.outage(log, "cannot probe an account", "accounts are probed again")
        self._probing: dict[tuple[str, str], asyncio.Task[bool]] = {}
        for name in sorted({account for e in each_member(executors) if (account := account_of(e)) is not None}):
            metrics.auth_failures.labels(name)
            metrics.usage_limit_pauses.labels(name)
        self._export()

    # ── what a run reports ─────────────────────────────────────────────────────────────────────────────────────────────

    async def review(self, run: Running, outcome: Outcome) -> Outcome:
        """See runner.Reviewer: an outcome may become a plain failure of the task, or not count for it at all."""
        breaker = self._breakers.get(self._whose(run, outcome))
        if outcome.kind is OutcomeKind.AUTH_FAILED:
            if breaker is None:  # there is nothing to pause, and the task would come back at once, for ever
                return _task_failure(outcome, FailureKind.AUTH)
            self._metrics.auth_failures.labels(breaker.account).inc()
            good = await self._suspect(run, breaker, outcome)
            return _task_failure(outcome, FailureKind.AUTH) if good else outcome
        if outcome.kind is OutcomeKind.USAGE_LIMITED:
            if breaker is None:
                return _task_failure(outcome, FailureKind.USAGE_LIMIT)
            model = of_model(breaker.account, outcome.limited_model) if outcome.limited_model else ""
            await self._limit(self._breakers.get(model, breaker), outcome)
            return outcome
        if outcome.rest_seconds is not None:
            return await self._rests(run, outcome)
        if outcome.kind is OutcomeKind.UNAVAILABLE:
            return await self._away(run, outcome)
        if outcome.kind is OutcomeKind.INFRASTRUCTURE and breaker is not None and self._prober.able(breaker.account):
            # A host whose CLI is broken must pause, not turn every task into poison.
            good = await self._suspect(run, breaker, outcome, fresh=self._timings.fresh)
            return outcome if good else replace(outcome, uncounted=True)
        return outcome

    async def _rests(self, run: Running, outcome: Outcome) -> Outcome:
        """Of a task that rests, only the account that it names is looked at. If that is paused, the pause decides when it goes on."""
        breaker = self._breakers.get(outcome.account or "")
        if breaker is None or not self._prober.able(breaker.account):
            return outcome
        doubt = replace(outcome, kind=OutcomeKind.INFRASTRUCTURE)
        good = await self._suspect(run, breaker, doubt, fresh=self._timings.fresh)
        return outcome if good else replace(outcome, uncounted=False, rest_seconds=None)

    def _whose(self, run: Running, outcome: Outcome) -> str:
        """The account that an outcome is about; '' for none."""
        chosen = run.account if run.executor in self._pools else self._account_of.get(run.executor)
        return outcome.account or chosen or ""

    async def _away(self, run: Running, outcome: Outcome) -> Outcome:
        breaker = self._breakers.get(outcome.away or self._whose(run, outcome))
        if breaker is None or await self._suspect(run, breaker, outcome):
            blip = run.task.infra_count < BLIPS
            return replace(outcome, kind=OutcomeKind.INFRASTRUCTURE if blip else OutcomeKind.FAILED)
        return outcome

    async def _suspect(self, run: Running, breaker: Breaker, outcome: Outcome, *, fresh: float = 0.0) -> bool | None:
        """Whether the account is good, although this run failed. None: no probe decided in time."""
        deadline = time.monotonic() + self._timings.verdict
        if not breaker.closed_by_row:
            log.warning("%s may not work on this host: %s", described(breaker.account), outcome.error)
        while time.monotonic() < deadline and not run.stop.is_set():
            breaker.suspect()
            self._publish()  # from here on, this process claims nothing more for it
            job = self.jobs.start(
                self._write(
                    breaker,
                    lambda: suspect(self._store, breaker.account, outcome, self._timings, fresh=fresh),
                ),
                "suspicion of an account",
            )
            await _first(job, run, deadline)
            since = job.result() if job.done() and not job.cancelled() else None
            if not isinstance(since, datetime):
                return None
            good = await self._verdict(run, breaker, since, deadline, certain=fresh == 0.0)
            if good is not None:
                return good
        return None

    async def _verdict(
        self, run: Running, breaker: Breaker, since: datetime, deadline: float, *, certain: bool
    ) -> bool | None:
        """What a probe decides. True: one that began after `since` was good. False: the account is closed. None: it was
        opened in another way, or the time is up. `certain`: an older good probe does not count."""
        while time.monotonic() < deadline and not run.stop.is_set():
            try:
                rows = await self._refresh(breaker, since)
            except db.DATABASE_ERRORS:
                await self._await_change(run, deadline)
                continue
            if any(row.state in (AccountState.PAUSED, AccountState.HALF_OPEN) for row in rows):
                return False
            here = next((row for row in rows if row.host != EVERY_HOST), None)
            opened = here is None or here.state is AccountState.OPEN
            if here is not None and (here.cleared or (opened and here.probed and not certain)):
                log.info("%s is fine: the run itself failed", described(breaker.account))
                return True  # a later run may have made it suspect again
            if opened:
                return None
            probing = self._probe(breaker, self._host)
            await _first(probing, run, deadline)
            if not (probing.done() and not probing.cancelled() and probing.result()):  # another worker's probe
                await self._await_change(run, deadline)
        return None

    async def _await_change(self, run: Running, deadline: float) -> None:
        changed = asyncio.ensure_future(self._changes.wait())
        await _first(changed, run, min(deadline, time.monotonic() + CHANGE_SECONDS))
        changed.cancel()

    async def _limit(self, breaker: Breaker, outcome: Outcome) -> None:
        everywhere = self._prober.limits(breaker.account) == EVERY_HOST
        breaker.limited(time.monotonic(), everywhere=everywhere)
        self._publish()
        writing = self._write(breaker, lambda: self._prober.limit(breaker.account, outcome))
        job = self.jobs.start(writing, "limit of an account")
        await asyncio.wait({job}, timeout=WRITE_SECONDS)

    async def _write(self, breaker: Breaker, write: Callable[[], Awaitable[object]]) -> object:
        """Write what this process has seen, through an outage of the database. Then read the rows again."""
        outage = db.outage(log, f"cannot write account {breaker.account}", f"account {breaker.account} is written")
        while True:
            try:
                value = await write()
                break
            except db.DATABASE_ERRORS as error:
                pause = outage.failed(error)
                if not db.is_transient(error):
                    breaker.written(time.monotonic(), accepted=False)
                    self._publish()
                    return None
                await asyncio.sleep(pause)
        outage.over()
        breaker.written(time.monotonic(), accepted=True)
        with contextlib.suppress(*db.DATABASE_ERRORS):
            await self._refresh(breaker)
        return value

    # ── what the database has ──────────────────────────────────────────────────────────────────────────────────────

    def polled(self, rows: tuple[AccountRow, ...], asked_at: float) -> None:
        """The rows that a poll read, and when it was sent (monotonic seconds)."""
        for breaker in self._breakers.values():
            self._update(breaker, rows, asked_at)
        self._publish()

    async def learn(self) -> None:
        """Read what is closed, before the first claim: a restarted worker must not try a dead login with every slot again.

        Raises `db.DATABASE_ERRORS`."""
        for breaker in self._breakers.values():
            await self._refresh(breaker)

    async def _refresh(self, breaker: Breaker, since: datetime | None = None) -> tuple[AccountRow, ...]:
        asked_at = time.monotonic()
        rows = await self._store.rows(breaker.account, since)
        self._update(breaker, rows, asked_at)
        self._publish()
        return rows

    def _update(self, breaker: Breaker, rows: tuple[AccountRow, ...], asked_at: float) -> None:
        now = time.monotonic()
        was = breaker.closed_by_row
        if breaker.update(rows, asked_at, now) and was and not breaker.closed_by_row:
            wait = max(0.0, breaker.resume_at - now)
            log.info("%s is open again; this worker resumes in %.0f s", described(breaker.account), wait)

    def _publish(self) -> None:
        """Make the current state known in this process: to claims, metrics and waiting runs."""
        self._export()
        types = self.types()
        if types != self._types:
            self._types = types
            self._types_changed(types)
        self._changes.set()
        self._changes = asyncio.Event()

    def _export(self) -> None:
        for breaker in self._breakers.values():
            if breaker.reasons:
                self._shown.add(breaker.account)
            if breaker.account not in self._shown:
                continue
            for reason in PauseReason:
                self._metrics.account_paused.labels(breaker.account, reason).set(float(reason in breaker.reasons))

    def types(self) -> TypeFilter:
        """The task types that may be claimed now."""
        closed = self._closed()

        def able(executor: str) -> bool:
            if closed & self._needs.get(executor, frozenset()):
                return False
            pool = self._pools.get(executor)
            return pool is None or any(_usable(pool, one, closed) for one in pool.members)

        return served_types(self._routes, able)

    def _closed(self) -> set[str]:
        now = time.monotonic()
        return {name for name, breaker in self._breakers.items() if breaker.closed(now)}

    def open_members(self, pool: AccountPool) -> list[PoolMember]:
        """What of a pool a run may take now, in the order of the configuration."""
        closed = self._closed()
        return [one for one in pool.members if _usable(pool, one, closed)]

    def usable_changed(self) -> None:
        """An account of a pool has become unusable on this host (`AccountPool.unusable`), or usable."""
        self._publish()

    # ── half open ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Wakes when a pause or a lease ends, to probe; and when this worker's delay after a pause ends, to claim."""
        self.started.set()
        while True:
            now, changes = time.monotonic(), self._changes
            for breaker in self._breakers.values():
                due = breaker.due(now)
                if due is not None:
                    breaker.snooze(now, RETRY_SECONDS)  # until this worker knows more
                    self._probe(breaker, self._host if due == "here" else EVERY_HOST)
            timers = [at for b in self._breakers.values() if (at := b.wakes_at(now)) is not None]
            try:
                async with asyncio.timeout(max(0.01, min(timers) - now) if timers else None):
                    await changes.wait()
            except TimeoutError:
                self._publish()

    def _probe(self, breaker: Breaker, host: str) -> asyncio.Task[bool]:
        """Probe in the background. A second call during a probe returns the same one."""
        key = (breaker.account, host)
        job = self._probing.get(key)
        if job is None or job.done():
            job = self._probing[key] = self.jobs.start(self._probe_once(breaker, host), "probe of an account")
        return job

    async def _probe_once(self, breaker: Breaker, host: str) -> bool:
        try:
            mine = await self._prober.probe(breaker, host)
            await self._refresh(breaker)
        except db.DATABASE_ERRORS as error:
            self._probe_outage.failed(error)
            return False
        self._probe_outage.over()
        return mine


def _usable(pool: AccountPool, member: PoolMember, closed: set[str]) -> bool:
    return not {member.account, model_of(member.executor)} & closed and member.account not in pool.unusable


async def _first(job: "asyncio.Future[Any]", run: Running, deadline: float) -> None:
    """Wait for a job, until the run is asked to end or the time is up. The job goes on."""
    stop = asyncio.ensure_future(run.stop.wait())
    await asyncio.wait({job, stop}, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()


def _task_failure(outcome: Outcome, kind: FailureKind) -> Outcome:
    return replace(outcome, kind=OutcomeKind.FAILED, failure_kind=outcome.failure_kind or kind)
