"""One account's breaker, as one worker process sees it: what is known, since when, and what follows. No database here.

    open ──a run says "not logged in"──▶ suspect ──probe good──▶ open
      ▲                                     └──probe bad──▶ paused(auth) ──backoff──▶ half open ──probe bad──▶ paused
      └──────────────────────────────────probe good────────────────────────────────────┘
    open ──usage limit──▶ paused(usage_limit) ──its reset──▶ half open;   open ◀──by hand──▶ paused(manual)

Two rows of `agent_accounts` make up one breaker: this host's own (logins) and '*' (usage limits, manual pauses). It is
closed while either is. What this process has seen for itself holds before the database knows: `trip` closes at once, and
no sweep that was sent before the write was answered may open it again (`deaf`). Times are monotonic seconds.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from turbo.db.claim_store import AccountRow

EVERY_HOST = "*"
REASONS = ("auth", "usage_limit", "manual")


@dataclass(frozen=True, slots=True)
class AccountTimings:
    """Seconds. `limit_*` clamp what a service reports as its reset. A prober's lease must be longer than its probes; a
    run that waits for the verdict longer than `verdict` goes back without one."""

    backoff_first: float = 30.0
    backoff_last: float = 1800.0
    limit_shortest: float = 60.0
    limit_longest: float = 8 * 86_400.0
    limit_unknown: float = 900.0
    limit_jitter: float = 30.0
    resume_spread: float = 60.0
    probe_lease: float = 120.0
    verdict: float = 150.0
    fresh: float = 60.0
    """How long a good probe speaks for the CLI: failures to start it are not probed more often. Logins always are."""


@dataclass(slots=True)
class BreakerRow:
    """What is known of one row. `look_at`: when somebody may probe it; None for never."""

    state: str = "open"
    reason: str | None = None
    look_at: float | None = None

    @property
    def resting(self) -> bool:
        return self.state in ("paused", "half_open")


@dataclass(slots=True)
class Breaker:
    account: str
    timings: AccountTimings = AccountTimings()
    uniform: Callable[[float, float], float] = random.uniform
    here: BreakerRow = field(default_factory=BreakerRow)
    everywhere: BreakerRow = field(default_factory=BreakerRow)
    resume_at: float = 0.0
    probes: bool = False  # this process is its prober: it need not wait its turn when it opens
    _unwritten: int = 0
    _deaf_until: float = 0.0

    # ── what it means ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed_by_row(self) -> bool:
        return self.here.state != "open" or self.everywhere.state != "open"

    def closed(self, now: float) -> bool:
        return self.closed_by_row or now < self.resume_at

    @property
    def reasons(self) -> set[str]:
        """Why it is paused on this host; empty while it is open, or only suspect."""
        return {row.reason for row in (self.here, self.everywhere) if row.resting and row.reason is not None}

    def due(self, now: float) -> str | None:
        """Which row may be probed now: 'here' first, for a host without a login cannot judge a limit. Paused by hand, the
        account is left alone."""
        if self.everywhere.reason == "manual":
            return None
        if self.here.state != "open":
            return "here" if _past(self.here, now) else None
        return "everywhere" if self.everywhere.state != "open" and _past(self.everywhere, now) else None

    def wakes_at(self, now: float) -> float | None:
        """When something changes without anybody saying so."""
        first = self.here if self.here.state != "open" else self.everywhere
        manual = self.everywhere.reason == "manual"
        times = [first.look_at] if first.state != "open" and first.look_at is not None and not manual else []
        times += [self.resume_at] if self.resume_at > now else []
        return min(times, default=None)

    # ── what this process has seen ──────────────────────────────────────────────────────────────────────────────────

    def suspect(self) -> None:
        """A run was refused: nothing more is claimed, from this line on. `settled` must follow."""
        self._unwritten += 1
        if self.here.state == "open":
            self.here = BreakerRow("suspect")

    def limited(self, now: float, *, everywhere: bool) -> None:
        """A run hit a usage limit. The database will say until when. `settled` must follow."""
        self._unwritten += 1
        row = BreakerRow("paused", "usage_limit", now + self.timings.limit_shortest)
        if not everywhere:
            self.here = row
        elif self.everywhere.reason != "manual":
            self.everywhere = row

    def settled(self, now: float, *, written: bool) -> None:
        """The database took the write, or refused it for good: then what was seen holds for one backoff."""
        self._unwritten -= 1
        self._deaf_until = max(self._deaf_until, now if written else now + self.timings.backoff_first)
        if not written:
            for row in (self.here, self.everywhere):
                if row.state == "suspect":
                    row.look_at = self._deaf_until

    def put_off(self, now: float, seconds: float) -> None:
        """Nobody could be asked or told: look again later."""
        for row in (self.here, self.everywhere):
            if _past(row, now):
                row.look_at = now + seconds

    # ── what the database says ──────────────────────────────────────────────────────────────────────────────────────

    def heard(self, rows: Iterable[AccountRow], asked_at: float, now: float) -> bool:
        """The rows of a sweep that was sent at `asked_at`. False when it was older than what this process wrote."""
        if self._unwritten or asked_at < self._deaf_until:
            return False
        mine = [row for row in rows if row.account == self.account]
        rested = self.here.resting or self.everywhere.resting
        self.here = _row([row for row in mine if row.host != EVERY_HOST], now)
        self.everywhere = _row([row for row in mine if row.host == EVERY_HOST], now)
        if not self.closed_by_row:
            # A login that has come back, or a window that has, is not stormed. A person who says resume means now.
            if rested and not self.probes and any(row.probed for row in mine):
                self.resume_at = now + self.uniform(0.0, self.timings.resume_spread)
            elif rested:
                self.resume_at = now
            self.probes = False
        return True


def _past(row: BreakerRow, now: float) -> bool:
    return row.state != "open" and row.look_at is not None and row.look_at <= now


def _row(rows: list[AccountRow], now: float) -> BreakerRow:
    for row in rows:
        return BreakerRow(row.state, row.reason, None if row.seconds is None else now + row.seconds)
    return BreakerRow()
