"""One account's breaker as one worker process sees it. No I/O here.

    open ──a run was "not logged in"──▶ suspect ──probe good──▶ open
      ▲                                    └──probe bad──▶ paused(auth) ──backoff──▶ half open ──probe bad──▶ paused
      └─────────────────────────────────probe good────────────────────────────────────┘
    open ──usage limit──▶ paused(usage_limit) ──its reset──▶ half open;   open ◀──by hand──▶ paused(manual)
    open ──its service wants a payment──▶ paused(credits) ──by hand──▶ open
    open ──a run found its service away──▶ suspect ──probe bad──▶ paused(unavailable) ──a short backoff──▶ half open

An account is a login and the service behind it. Repositories and their remotes (turbo.domain.dependency) have breakers too:
they can only be unavailable, on one host.

Two rows of `agent_accounts` make up one breaker: the row of this host (logins) and the row of every host, '*' (usage
limits, manual pauses). It is closed while either is.

What this process has seen counts before the database knows it: `suspect` and `limited` close the breaker at once. A poll
that was sent before their write was answered may not open it again. Times are monotonic seconds.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from turbo.db.account_store import AccountRow
from turbo.domain.states import AccountState, PauseReason

EVERY_HOST = "*"


@dataclass(frozen=True, slots=True)
class AccountTimings:
    """In seconds. `limit_*` clamp the reset that a service reports. `probe_lease` must be longer than a probe. A run that
    has waited `verdict` seconds for a probe goes back without a verdict. `outage_*`: backoff and spread for what is away, which
    is probed more often than a login: it comes back by itself, and all work waits for it."""

    backoff_first: float = 30.0
    backoff_last: float = 1800.0
    limit_shortest: float = 60.0
    limit_longest: float = 8 * 86_400.0
    limit_unknown: float = 900.0
    limit_jitter: float = 30.0
    resume_spread: float = 60.0
    outage_first: float = 5.0
    outage_last: float = 60.0
    outage_spread: float = 5.0
    probe_lease: float = 120.0
    verdict: float = 150.0
    fresh: float = 60.0
    """How long a good probe proves that the CLI starts: such failures are not probed more often. Logins always are."""


@dataclass(slots=True)
class BreakerRow:
    """What is known of one row. `probe_at`: when it may be probed; None for never."""

    state: AccountState = AccountState.OPEN
    reason: PauseReason | None = None
    probe_at: float | None = None

    @property
    def paused(self) -> bool:
        return self.state in (AccountState.PAUSED, AccountState.HALF_OPEN)

    @property
    def waits_for_a_person(self) -> bool:
        return self.reason is not None and self.reason.by_a_person


@dataclass(slots=True)
class Breaker:
    account: str
    timings: AccountTimings = AccountTimings()
    uniform: Callable[[float, float], float] = random.uniform
    here: BreakerRow = field(default_factory=BreakerRow)
    everywhere: BreakerRow = field(default_factory=BreakerRow)
    resume_at: float = 0.0
    probes: bool = False  # this process is its prober, and may resume at once when the account opens
    _unwritten: int = 0
    _ignore_until: float = 0.0

    # ── what it means ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed_by_row(self) -> bool:
        return self.here.state is not AccountState.OPEN or self.everywhere.state is not AccountState.OPEN

    def closed(self, now: float) -> bool:
        return self.closed_by_row or now < self.resume_at

    @property
    def reasons(self) -> set[PauseReason]:
        """Why it is paused on this host; empty while it is open, or only suspect."""
        return {row.reason for row in (self.here, self.everywhere) if row.paused and row.reason is not None}

    def due(self, now: float) -> str | None:
        """Which row may be probed now. 'here' comes first: a host without a login cannot judge a limit. An account that a
        person paused is not probed."""
        if self.everywhere.waits_for_a_person:
            return None
        if self.here.state is not AccountState.OPEN:
            return "here" if _past(self.here, now) else None
        return "everywhere" if self.everywhere.state is not AccountState.OPEN and _past(self.everywhere, now) else None

    def wakes_at(self, now: float) -> float | None:
        """When the breaker changes by time alone; None: never."""
        first = self.here if self.here.state is not AccountState.OPEN else self.everywhere
        manual = self.everywhere.waits_for_a_person
        times = (
            [first.probe_at]
            if first.state is not AccountState.OPEN and first.probe_at is not None and not manual
            else []
        )
        times += [self.resume_at] if self.resume_at > now else []
        return min(times, default=None)

    # ── what this process has seen ──────────────────────────────────────────────────────────────────────────────────

    def suspect(self) -> None:
        """A run was refused: from here on nothing more is claimed. `written` must follow."""
        self._unwritten += 1
        if self.here.state is AccountState.OPEN:
            self.here = BreakerRow(AccountState.SUSPECT)

    def limited(self, now: float, *, everywhere: bool) -> None:
        """A run hit a usage limit. The database decides until when. `written` must follow."""
        self._unwritten += 1
        row = BreakerRow(AccountState.PAUSED, PauseReason.USAGE_LIMIT, now + self.timings.limit_shortest)
        if not everywhere:
            self.here = row
        elif not self.everywhere.waits_for_a_person:
            self.everywhere = row

    def written(self, now: float, *, accepted: bool) -> None:
        """The database took the write, or refused it for good. Then what this process saw counts for one backoff."""
        self._unwritten -= 1
        self._ignore_until = max(self._ignore_until, now if accepted else now + self.timings.backoff_first)
        if not accepted:
            for row in (self.here, self.everywhere):
                if row.state is AccountState.SUSPECT:
                    row.probe_at = self._ignore_until

    def snooze(self, now: float, seconds: float) -> None:
        """Do not probe again for `seconds`: no verdict is known yet."""
        for row in (self.here, self.everywhere):
            if _past(row, now):
                row.probe_at = now + seconds

    # ── what the database has ──────────────────────────────────────────────────────────────────────────────────────

    def update(self, rows: Iterable[AccountRow], asked_at: float, now: float) -> bool:
        """The rows of a poll that was sent at `asked_at`. False: it is older than what this process wrote."""
        if self._unwritten or asked_at < self._ignore_until:
            return False
        mine = [row for row in rows if row.account == self.account]
        paused = self.here.paused or self.everywhere.paused
        outage = self.reasons == {PauseReason.UNAVAILABLE}
        self.here = _row([row for row in mine if row.host != EVERY_HOST], now)
        self.everywhere = _row([row for row in mine if row.host == EVERY_HOST], now)
        if not self.closed_by_row:
            # A login that works again, or a new usage window, must not get every task of the fleet at once. A person's
            # resume takes effect at once.
            if paused and not self.probes and any(row.probed for row in mine):
                spread = self.timings.outage_spread if outage else self.timings.resume_spread
                self.resume_at = now + self.uniform(0.0, spread)
            elif paused:
                self.resume_at = now
            self.probes = False
        return True


def _past(row: BreakerRow, now: float) -> bool:
    return row.state is not AccountState.OPEN and row.probe_at is not None and row.probe_at <= now


def _row(rows: list[AccountRow], now: float) -> BreakerRow:
    for row in rows:
        return BreakerRow(row.state, row.reason, None if row.seconds is None else now + row.seconds)
    return BreakerRow()
