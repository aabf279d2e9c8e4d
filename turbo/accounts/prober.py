"""The prober: makes one real call with an account, as the only worker that does, and writes the verdict to its row.

    suspect, or its pause has ended ──row lock, lease──▶ mine ──a minimal real call──▶ good: open
                                          └── another worker's: wait           ├── limit: paused until its reset
                                                                               ├── bad: paused, backoff
                                                                               └── away: paused, a shorter backoff

A probe may cost money and takes seconds, so exactly one worker makes it. If that worker is killed, its lease runs out.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from turbo import db
from turbo.accounts.breaker import EVERY_HOST, AccountTimings, Breaker
from turbo.db.account_store import AccountStore, ProbeClaim
from turbo.domain.dependency import account_behind, described
from turbo.domain.outcome import Outcome, OutcomeKind, Probe
from turbo.domain.states import AccountState
from turbo.observability.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

CERTAIN = (OutcomeKind.SUCCEEDED, OutcomeKind.AUTH_FAILED, OutcomeKind.USAGE_LIMITED, OutcomeKind.UNAVAILABLE)
"""What decides about an account, whichever of its executors made the probe."""

ADVICE = "if its login is gone: log its agent in on this host, or put a key or token into the account's env_file"


@dataclass(frozen=True, slots=True)
class NamedProbe:
    """A probe, and the executor that makes it."""

    executor: str
    call: Probe


class Prober:
    """`probes`: by account or dependency; one without any cannot be probed. `shared`: the accounts that worker.yaml names.
    Each is one login on every host, so its limits apply everywhere. An executor's unnamed account belongs to this host
    alone."""

    def __init__(
        self,
        store: AccountStore,
        host: str,
        probes: Mapping[str, Sequence[NamedProbe]],
        shared: Collection[str],
        metrics: Metrics,
        timings: AccountTimings,
    ) -> None:
        self._store = store
        self._host = host
        self._probes = probes
        self._shared = frozenset(shared)
        self._metrics = metrics
        self._timings = timings

    def able(self, account: str) -> bool:
        """Whether any executor can probe the account."""
        return bool(self._probes.get(account))

    def limits(self, account: str) -> str:
        """The host whose row a usage limit of this account closes; '*' for every host."""
        return EVERY_HOST if account_behind(account) in self._shared else self._host

    async def limit(self, account: str, outcome: Outcome) -> None:
        """Close an account until its reset, or, if it needs credits, until a person opens it. Raises `db.DATABASE_ERRORS`."""
        timings = self._timings
        where = "every host" if self.limits(account) == EVERY_HOST else "this host"
        if outcome.needs_credits:
            if await self._store.no_credits(account, self.limits(account), why=outcome.error):
                self._metrics.usage_limit_pauses.labels(account_behind(account)).inc()
                log.warning(
                    "%s needs credits; paused on %s until a person acts: %s", described(account), where, outcome.error
                )
            return
        closed = await self._store.limit(
            account,
            self.limits(account),
            resets_at=outcome.resets_at,
            shortest=timings.limit_shortest,
            longest=timings.limit_longest,
            unknown=timings.limit_unknown,
            jitter=random.uniform(0.0, timings.limit_jitter),
            why=outcome.error,
        )
        if closed:
            self._metrics.usage_limit_pauses.labels(account_behind(account)).inc()
            log.warning("%s hit its usage limit; paused on %s: %s", described(account), where, outcome.error)

    async def probe(self, breaker: Breaker, host: str) -> bool:
        """Probe the account, if this worker may. False: another worker does, or no probe is due.

        Raises `db.DATABASE_ERRORS`."""
        account, store = breaker.account, self._store
        lease = self._timings.probe_lease * max(1, len(self._probes.get(account, ())))
        mine = await store.become_prober(account, host, lease=lease)
        if mine is None:
            return False
        ends = time.monotonic() + lease
        breaker.probes = True
        log.info("%s is %s: probing", described(account), mine.state.replace("_", " "))
        outcome = await self._call(account, mine)
        if outcome.kind is OutcomeKind.SUCCEEDED:
            if await self._write(ends, lambda: store.good(account, host, forget=self.able(account))):
                log.info("%s: probe good, open", described(account))
            return True
        breaker.probes = False
        if outcome.kind is OutcomeKind.USAGE_LIMITED:
            await self.limit(account, outcome)
            if self.limits(account) != host:  # the login is fine
                await self._write(ends, lambda: store.good(account, host, forget=True))
        elif outcome.kind is OutcomeKind.AUTH_FAILED and host == EVERY_HOST:
            # This host's login is dead, but those of other hosts may work: a worker of another host has to probe.
            await self._write(ends, lambda: store.hand_back(account, EVERY_HOST))
            await suspect(store, account, outcome, self._timings)
            if await store.become_prober(account, self._host, lease=lease) is not None:
                await self._bad(account, self._host, outcome, ends)
        else:
            await self._bad(account, host, outcome, ends)
        return True

    async def _call(self, account: str, mine: ProbeClaim) -> Outcome:
        """The account is good if one of its executors works: another's wrong model or flags are not its fault."""
        first: Outcome | None = None
        for probe in self._probes.get(account, ()):
            outcome = await probe.call()
            if outcome.limited_model is not None and account_behind(account) == account:
                return Outcome.succeeded()  # the login is good, and its other models are
            if outcome.kind in CERTAIN:
                return outcome
            log.warning("%s: executor %s cannot tell: %s", described(account), probe.executor, outcome.error)
            first = first or outcome
        if first is not None:
            return first
        # No executor can probe this login, so the run's own report decides. After the backoff the next task is the probe.
        if mine.state is AccountState.HALF_OPEN:
            return Outcome.succeeded()
        if mine.unavailable:
            return Outcome.unavailable("a run found its service away, and this account's executors cannot be probed")
        return Outcome(
            OutcomeKind.AUTH_FAILED, error="a run was refused, and this account's executors cannot be probed"
        )

    async def _bad(self, account: str, host: str, outcome: Outcome, ends: float) -> None:
        why = outcome.error or outcome.kind.value
        timings = self._timings
        # A service that does not answer within the probe's time is away.
        away = outcome.kind in (OutcomeKind.UNAVAILABLE, OutcomeKind.TIMED_OUT)
        seconds = await self._write(
            ends,
            lambda: self._store.bad(
                account,
                host,
                unavailable=away,
                first=timings.outage_first if away else timings.backoff_first,
                last=timings.outage_last if away else timings.backoff_last,
                jitter=random.uniform(0.8, 1.0),
                why=why,
            ),
        )
        if seconds is not None:
            where = "every host" if host == EVERY_HOST else "this host"
            advice = "" if away else f" ({ADVICE})"
            log.warning(
                "%s is paused on %s; next probe in %.0f s: %s%s", described(account), where, seconds, why, advice
            )

    async def _write(self, ends: float, write: Callable[[], Awaitable[T]]) -> T:
        """Write the verdict, through an outage of the database, as long as the lease lasts (monotonic `ends`)."""
        outage = db.outage(log, "cannot write a probe's verdict", "the probe's verdict is written", level=logging.DEBUG)
        while True:
            try:
                return await write()
            except db.DATABASE_ERRORS as error:
                if not db.is_transient(error) or time.monotonic() > ends:
                    raise
                await outage.wait(error)


async def suspect(
    store: AccountStore, account: str, outcome: Outcome, timings: AccountTimings, *, fresh: float = 0.0
) -> datetime:
    """Write a suspicion. Returns its time by the database's clock, for `AccountStore.rows(since=…)`."""
    away = outcome.kind is OutcomeKind.UNAVAILABLE
    return await store.suspect(account, why=outcome.error, unavailable=away, fresh=fresh, last=timings.backoff_last)
