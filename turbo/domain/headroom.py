"""Which account of a pool a run takes: what is known of each account, and the choice. No I/O.

    the one that has the conversation ──▶ never used yet, one run at a time ──▶ most headroom ──▶ not measured ──▶ over `leave_at`
                                                  └── the same once more for `last_resort` accounts, if no other is open

The headroom of an account is what its fullest window has left. An agent reports its windows only with its answers, so each run that is
under way counts as RUN_SHARE of a window until then.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

RUN_SHARE = 0.01
"""Of a window: the steps in which subscriptions are reported."""

LONGEST_WINDOW = 8 * 86_400.0
"""In seconds. No subscription has a longer window, so a later reset is a mistake."""

UNKNOWN_RESET = 3600.0
"""How long a report counts that does not say when its window resets, in seconds."""

WINDOW_CHARACTERS = 60
"""Of a window's name. It is a label of the metrics."""

MOST_WINDOWS = 20
"""Of one account."""


@dataclass(frozen=True, slots=True)
class UsageWindow:
    """One window of an account, as an agent reported it: 'five_hour', 'seven_day', … `model`: '' for all of them.

    `utilization`: from 0 to 1; None: not reported. `resets_at`: Unix seconds; None: not known. `status`: the service's word for it.
    `observed_at`: Unix seconds of this host."""

    time_window: str
    model: str = ""
    utilization: float | None = None
    resets_at: float | None = None
    status: str = ""
    observed_at: float = 0.0

    def bounded(self, now: float) -> "UsageWindow":
        """The same within bounds: an agent's report may hold any number."""
        used, resets_at = self.utilization, self.resets_at
        used = None if used is None or not math.isfinite(used) else min(max(used, 0.0), 1.0)
        if resets_at is not None:
            usable = math.isfinite(resets_at) and resets_at > now
            resets_at = min(resets_at, now + LONGEST_WINDOW) if usable else None
        return replace(
            self,
            time_window=self.time_window[:WINDOW_CHARACTERS],
            model=self.model[:WINDOW_CHARACTERS],
            utilization=used,
            resets_at=resets_at,
            status=self.status[:WINDOW_CHARACTERS],
            observed_at=now,
        )

    def used(self, now: float) -> float | None:
        """Its utilization now: nothing once it is reset; None: not known."""
        if self.utilization is None:
            return None
        if self.resets_at is not None:
            return self.utilization if now < self.resets_at else 0.0
        return self.utilization if now < self.observed_at + UNKNOWN_RESET else None


def fullest(windows: Iterable[UsageWindow], now: float) -> float | None:
    """The utilization of an account: that of its fullest window that counts for all models. None: not measured."""
    return max((used for one in windows if not one.model and (used := one.used(now)) is not None), default=None)


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """An account that a run may take now.

    `utilization`: of its fullest window, from 0 to 1; None: not measured. `running`: its runs in this process. `tried`: a run of this
    process has ended with it, so an account that is not measured reports nothing. `began`: when its last run began, in any unit."""

    account: str
    utilization: float | None = None
    running: int = 0
    tried: bool = False
    began: float = 0.0
    leave_at: float = 1.0
    last_resort: bool = False

    @property
    def rank(self) -> tuple[float, ...]:
        """The lowest is chosen."""
        if self.utilization is None:
            first = not self.tried and not self.running and not self.last_resort
            return (self.last_resort, 0 if first else 2, 0.0, self.running, self.began)
        full = self.utilization >= self.leave_at
        return (
            self.last_resort,
            3 if full else 1,
            self.utilization + RUN_SHARE * self.running,
            self.running,
            self.began,
        )


def choose(accounts: Sequence[OpenAccount], keeps: str | None = None) -> str | None:
    """The account of the next run; None: none is open. `keeps`: the one that has its conversation. It is kept also over `leave_at`,
    but not as a last resort. Among equals the first one listed counts."""
    if not accounts:
        return None
    best = min(accounts, key=lambda one: one.rank)
    kept = next((one for one in accounts if one.account == keeps), None)
    return kept.account if kept is not None and kept.last_resort <= best.last_resort else best.account
