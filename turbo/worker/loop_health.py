"""The health of the worker's event loop, as its watch sees it. Written by the watch's thread; read by the endpoint's."""

from collections import deque

LAST_ANSWERS = 15
"""How many answers of the loop `lag` looks back on: one a second, so that a scrape every 15 s misses none."""


class LoopHealth:
    """`standstill`: what holds the loop up now, in one sentence, or None. `waiting`: seconds since the watch asked the loop
    to answer; 0 when it has answered."""

    def __init__(self) -> None:
        self.standstill: str | None = None
        self.waiting = 0.0
        self._answers: deque[float] = deque([0.0], LAST_ANSWERS)

    def answered(self, seconds: float) -> None:
        """The loop answered after so many seconds."""
        self.waiting = 0.0
        self._answers.append(seconds)

    @property
    def lag(self) -> float:
        """The longest that the loop has recently taken to answer, seconds."""
        return max(self.waiting, *list(self._answers))
