"""What this worker knows of the windows of accounts: what its own agents report, and what other workers have written."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

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

    def learn(self, account: str, window: UsageWindow) -> None:
        """What another worker has seen, by `observed_at` of this host. The latest counts."""
        known = self._windows.setdefault(account, {})
        key = (window.time_window, window.model)
        mine = known.get(key)
        if mine is None and len(known) >= MOST_WINDOWS:
            return
        if mine is None or mine.observed_at < window.observed_at:
            known[key] = replace(
                window.bounded(self._clock()), observed_at=window.observed_at, resets_at=window.resets_at
            )

    def utilization(self, account: str) -> float | None:
        """Of its fullest window now, from 0 to 1. None: not measured."""
        return fullest(self._windows.get(account, {}).values(), self._clock())

    def windows(self, account: str) -> tuple[UsageWindow, ...]:
        """All that is known of an account."""
        return tuple(self._windows.get(account, {}).values())

    def shown(self) -> Iterator[tuple[str, str, float | None, float | None]]:
        """For metrics: account, window (with its model), utilization now, and its next reset in Unix seconds."""
        now = self._clock()
        for account, windows in list(self._windows.items()):
            for window in list(windows.values()):
                name = f"{window.time_window}_{window.model}" if window.model else window.time_window
                resets_at = window.resets_at if window.resets_at is not None and window.resets_at > now else None
                yield account, name, window.used(now), resets_at
