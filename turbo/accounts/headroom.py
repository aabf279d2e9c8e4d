"""What this worker knows of the windows of accounts: what its own agents report, and what other workers have written."""

import time
from collections.abc import Callable, Iterable

from turbo.domain.headroom import MOST_WINDOWS, UsageWindow, fullest


class Headroom:
    """By account. `clock`: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._windows: dict[str, dict[tuple[str, str], UsageWindow]] = {}

    def observe(self, account: str, windows: Iterable[UsageWindow]) -> tuple[UsageWindow, ...]:
        """An agent's report. Returns what of it is kept, within bounds."""
        known = self._windows.setdefault(account, {})
        kept = []
        for window in windows:
            bounded = window.bounded(self._clock())
            key = (bounded.time_window, bounded.model)
            if key in known or len(known) < MOST_WINDOWS:
                known[key] = bounded
                kept.append(bounded)
        return tuple(kept)

    def utilization(self, account: str) -> float | None:
        """Of its fullest window now, from 0 to 1. None: not measured."""
        return fullest(self._windows.get(account, {}).values(), self._clock())

    def windows(self, account: str) -> tuple[UsageWindow, ...]:
        """All that is known of an account."""
        return tuple(self._windows.get(account, {}).values())
