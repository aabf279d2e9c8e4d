"""Accounts that protect themselves: a dead login or a usage limit costs no task a try.

One breaker per (account, host); a row for host '*' holds for every host (usage limits, manual pauses).

    open ──an agent says "not logged in"──▶ suspect ──probe good──▶ open      (the task itself failed, and counts)
      ▲                                        └──probe bad──▶ paused(auth) ──backoff 30 s … 30 min──▶ half open
      └───────────────probe good──────────────────────────────────────────────────────────────────────────┘
    open ──usage limit──▶ paused(usage_limit) ──its reset──▶ half open;   open ◀──by hand──▶ paused(manual)

A suspect account takes no further task from the moment this process knows, before the failed task is given back: else ten
slots would go round and round. The task's fate waits for the probe, because one task must not pause a fleet: where the
login turns out good, the task's own content was at fault. Exactly one prober (a row lock decides); the others wait for
its word. While an account is closed, the claims leave out the task types that need it (`Claimer.types`).

Signals come by NOTIFY (turbo_ctl: accounts) and, as a twin, with every sweep.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import psycopg

from turbo import db
from turbo.claimer import TaskTypes
from turbo.db import Backoff
from turbo.executors.base import Executor
from turbo.loop import Loop
from turbo.metrics import Metrics
from turbo.outcome import FailureKind, Outcome, OutcomeKind
from turbo.queue import AccountRow, Queue
from turbo.slots import Running

log = logging.getLogger(__name__)

EVERY_HOST = "*"
BACKOFF_FIRST_SECONDS = 30.0
BACKOFF_LAST_SECONDS = 1800.0
LIMIT_SHORTEST_SECONDS = 60.0
LIMIT_LONGEST_SECONDS = 8 * 86_400.0
LIMIT_UNKNOWN_SECONDS = 900.0
LIMIT_JITTER_SECONDS = 30.0
RESUME_SPREAD_SECONDS = 60.0
VERDICT_SECONDS = 150.0
REASONS = ("auth", "usage_limit", "manual")


@runtime_checkable
class Probes(Protocol):
    """An executor whose account can be tried out."""

    async def probe(self) -> Outcome:
        """One minimal real call: succeeded, auth_failed, usage_limited, or anything else for "cannot tell"."""
        ...


@dataclass(slots=True)
class Breaker:
    """What this process believes of one account. Times are monotonic seconds."""

    state: str = "open"
    reason: str | None = None
    until: float | None = None
    resume_at: float = 0.0
    verdict: "asyncio.Future[bool | None] | None" = None  # a probe under way here: good, bad, or cannot tell

    def closed(self, now: float) -> bool:
        return self.state != "open" or now < self.resume_at


class Accounts(Loop):
    name = "accounts"

    def __init__(
        self,
        queue: Queue,
        host: str,
        executors: Mapping[str, Executor],
        routes: Mapping[str, str],
        metrics: Metrics,
        changed: Callable[[TaskTypes], None],
    ) -> None:
        """`changed(types)` is told, synchronously, which task types may be claimed from now on."""
        super().__init__()
        self._queue = queue
        self._host = host
        self._executors = executors
        self._routes = routes
        self._metrics = metrics
        self._changed = changed
        self.names = tuple(sorted({e.account for e in executors.values() if e.account}))
        self._breakers = {name: Breaker() for name in self.names}
        self._event = asyncio.Event()
        self._types = TaskTypes()
        self._probing: set[asyncio.Task[None]] = set()
        for name in self.names:
            for reason in REASONS:
                metrics.account_paused.labels(name, reason).set(0)
            metrics.auth_failures.labels(name)
            metrics.usage_limit_pauses.labels(name)

    # ── what a run says ─────────────────────────────────────────────────────────────────────────────────────────────

    async def after_run(self, run: Running, outcome: Outcome) -> Outcome:
        """Look at an outcome before it is written; it may become a plain failure of the task itself."""
        breaker = self._breakers.get(run.account or "")
        if breaker is None or run.account is None:
            return outcome
        if outcome.kind is OutcomeKind.AUTH_FAILED:
            self._metrics.auth_failures.labels(run.account).inc()
            return await self._after_auth_failure(run.account, breaker, outcome)
        if outcome.kind is OutcomeKind.USAGE_LIMITED:
            await self._limit(run.account, breaker, outcome)
        return outcome

    async def _after_auth_failure(self, account: str, breaker: Breaker, outcome: Outcome) -> Outcome:
        if breaker.state == "open":
            breaker.state = "suspect"
            self._publish()  # this process claims nothing more for it, from this line on
            log.warning("account %s may be logged out: %s; probing", account, outcome.error)
        await self._insist("account_suspect", account=account, host=self._host, why=outcome.error)
        if await self._verdict(account, breaker):
            log.info("account %s is fine: the task itself failed", account)
            return replace(outcome, kind=OutcomeKind.FAILED, failure_kind=outcome.failure_kind or FailureKind.AUTH)
        return outcome

    async def _verdict(self, account: str, breaker: Breaker) -> bool | None:
        """The probe's word, from whoever probes: this process (all its runs wait for one probe) or another of the host."""
        if breaker.verdict is None:
            breaker.verdict = asyncio.get_running_loop().create_future()
            job = asyncio.create_task(self._decide(account, breaker))
            self._probing.add(job)
            job.add_done_callback(self._probing.discard)
        return await asyncio.shield(breaker.verdict)

    async def _decide(self, account: str, breaker: Breaker) -> None:
        good: bool | None = None
        try:
            good = await self._probe_or_wait(account)
        except (psycopg.Error, OSError) as error:
            log.warning("account %s: no verdict: %s", account, db.reason(error))
        finally:
            waiting, breaker.verdict = breaker.verdict, None
            if waiting is not None and not waiting.done():
                waiting.set_result(good)
            self._event.set()

    async def _probe_or_wait(self, account: str) -> bool | None:
        deadline = time.monotonic() + VERDICT_SECONDS
        while time.monotonic() < deadline:
            trips = await self._queue.probe_account(account, self._host)
            if trips is not None:
                return await self._probe(account, self._host, trips)
            state = await self._queue.account_state(account, self._host)
            if state in (None, "open"):
                return True
            if state == "paused":
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._event.wait()
            self._event.clear()
        return None

    async def _probe(self, account: str, host: str, trips: int) -> bool | None:
        """This worker is the prober. Writes the verdict into the row."""
        executor = next((e for e in self._executors.values() if e.account == account and isinstance(e, Probes)), None)
        if executor is None:  # a login nobody can try out: what the run said has to do
            outcome = Outcome(OutcomeKind.AUTH_FAILED, error="this executor's account cannot be probed")
        else:
            assert isinstance(executor, Probes)
            outcome = await executor.probe()
        if outcome.kind is OutcomeKind.SUCCEEDED:
            await self._queue.account("account_open", account=account, host=host)
            log.info("account %s: probe good, open", account)
            self._note(account, "open", None, None, spread=False)
            return True
        if outcome.kind is OutcomeKind.USAGE_LIMITED:
            await self._limit(account, self._breakers[account], outcome)
            await self._queue.account("account_open", account=account, host=host)
            return False
        auth = outcome.kind is OutcomeKind.AUTH_FAILED
        pause = min(BACKOFF_LAST_SECONDS, BACKOFF_FIRST_SECONDS * 2**trips) * random.uniform(0.8, 1.0)
        why = outcome.error or outcome.kind.value
        await self._queue.account("account_pause", account=account, host=host, reason="auth", seconds=pause, why=why)
        log.warning(
            "account %s is paused on this host (%s); next probe in %.0f s. Log it in: %s", account, why, pause, ADVICE
        )
        self._note(account, "paused", "auth", pause)
        return False if auth else None

    async def _limit(self, account: str, breaker: Breaker, outcome: Outcome) -> None:
        """Every host rests until the reset, clamped (a wrong clock must not pause a fleet for a year) and jittered."""
        reported = LIMIT_UNKNOWN_SECONDS if outcome.resets_at is None else outcome.resets_at - time.time()
        pause = min(max(reported, LIMIT_SHORTEST_SECONDS), LIMIT_LONGEST_SECONDS) + random.uniform(
            0, LIMIT_JITTER_SECONDS
        )
        if breaker.reason != "usage_limit":
            self._metrics.usage_limit_pauses.labels(account).inc()
            log.warning(
                "account %s hit its usage limit; paused on every host for %.0f s: %s", account, pause, outcome.error
            )
        self._note(account, "paused", "usage_limit", pause)
        await self._insist(
            "account_pause", account=account, host=EVERY_HOST, reason="usage_limit", seconds=pause, why=outcome.error
        )

    async def _insist(self, name: str, **parameters: object) -> None:
        """Write a breaker; an outage of the database delays the task's result anyway, so wait for it."""
        backoff = Backoff()
        while True:
            try:
                await self._queue.account(name, **parameters)
                return
            except (psycopg.Error, OSError) as error:
                if not db.is_transient(error):
                    log.error("cannot write account %s: %s", parameters.get("account"), db.reason(error))
                    return
                await asyncio.sleep(backoff.next())

    # ── what the database says ──────────────────────────────────────────────────────────────────────────────────────

    def seen(self, rows: tuple[AccountRow, ...]) -> None:
        """The rows of a sweep: this host's and every host's, the more closed one holds."""
        for account in self.names:
            mine = [r for r in rows if r.account == account and r.state != "open"]
            worst = max(mine, key=lambda r: (r.reason == "manual", r.seconds or 0.0), default=None)
            if worst is None:
                if self._breakers[account].state != "suspect":  # its own suspicion may not be written yet
                    self._note(account, "open", None, None)
            else:
                self._note(account, worst.state, worst.reason, worst.seconds)
        self._event.set()

    def _note(
        self, account: str, state: str, reason: str | None, seconds: float | None, *, spread: bool = True
    ) -> None:
        breaker = self._breakers[account]
        now = time.monotonic()
        if state == "open" and breaker.state in ("paused", "half_open") and spread:
            breaker.resume_at = now + random.uniform(0.0, RESUME_SPREAD_SECONDS)
            log.info("account %s is open again; this worker resumes in %.0f s", account, breaker.resume_at - now)
        breaker.state, breaker.reason = state, reason
        breaker.until = None if seconds is None else now + seconds
        for known in REASONS:
            self._metrics.account_paused.labels(account, known).set(float(state != "open" and reason == known))
        self._publish()

    def _publish(self) -> None:
        types = self.types()
        if types != self._types:
            self._types = types
            self._changed(types)

    def types(self) -> TaskTypes:
        """Which task types may be claimed now."""
        now = time.monotonic()
        closed = {name for name, breaker in self._breakers.items() if breaker.closed(now)}

        def able(executor: str) -> bool:
            known = self._executors.get(executor)
            return known is None or known.account not in closed

        shut = tuple(sorted(t for t, e in self._routes.items() if not able(e)))
        if not shut:
            return TaskTypes()
        if "default" in shut:
            return TaskTypes(only=tuple(sorted(t for t, e in self._routes.items() if able(e))))
        return TaskTypes(skip=shut)

    # ── half open ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Wakes when a pause ends, to probe; and when a resume's spread is over, to claim."""
        while True:
            now = time.monotonic()
            timers = [b.until for b in self._breakers.values() if b.until is not None and b.state != "open"]
            timers += [b.resume_at for b in self._breakers.values() if b.resume_at > now]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, min(timers) - now) if timers else None):
                    await self._event.wait()
            self._event.clear()
            self._publish()
            for account, breaker in self._breakers.items():
                if (
                    breaker.state in ("paused", "half_open")
                    and breaker.until is not None
                    and breaker.until <= time.monotonic()
                ):
                    await self._reopen(account, breaker)

    async def _reopen(self, account: str, breaker: Breaker) -> None:
        breaker.until = time.monotonic() + BACKOFF_FIRST_SECONDS  # look again then, whoever probes now
        try:
            for host in (EVERY_HOST, self._host):
                trips = await self._queue.probe_account(account, host)
                if trips is not None:
                    log.info("account %s is half open: probing", account)
                    await self._probe(account, host, trips)
        except (psycopg.Error, OSError) as error:
            log.warning("account %s: cannot probe: %s", account, db.reason(error))


ADVICE = "claude setup-token, and CLAUDE_CODE_OAUTH_TOKEN in the account's env_file"
