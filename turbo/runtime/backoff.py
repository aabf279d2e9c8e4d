"""Delays between attempts that grow, and differ from process to process."""

import random


class Backoff:
    """Delays in seconds with jitter: uniform in [c/10, c], where c is min(cap, base * 2^failures).

    Never shorter than a tenth of the ceiling: an attempt that fails at once must not become a busy loop.
    """

    def __init__(self, base: float = 0.05, cap: float = 1.0) -> None:
        self.base, self.cap, self.failures = base, cap, 0

    def next(self) -> float:
        """The next delay; counts as one failure more."""
        ceiling = min(self.cap, self.base * 2 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(ceiling / 10, ceiling)

    def reset(self) -> None:
        """After a success."""
        self.failures = 0
