"""What is wrong with this worker now, for people who look at the fleet from elsewhere.

    problems.report(ProblemKind.EXECUTOR, "claude", "executor claude: claude is not on PATH", "install it on this host")
    problems.clear(ProblemKind.EXECUTOR, "claude")

A log line tells who reads that host's log, once. A problem stays until it is cleared: the heartbeat writes the list to
`agent_workers.problems`, so `turbo status`, `turbo doctor` and the metric `turbo_problems{kind}` show it from anywhere.
"""

import threading
from collections import Counter

from turbo.domain.problem import Problem, ProblemKind

MOST_PROBLEMS = 20
"""How many are written to the worker's row: a thousand refused rows are one illness, not a thousand."""

LONGEST_TEXT = 500
"""Characters of a problem's text."""


class Problems:
    """Reported on the worker's event loop and by its watch's thread; read by the heartbeat's thread and the endpoint's."""

    def __init__(self) -> None:
        self._known: dict[tuple[ProblemKind, str], Problem] = {}
        self._changing = threading.Lock()

    def report(self, kind: ProblemKind, key: str, what: str, do: str = "", *, first: bool = False) -> None:
        """`key` distinguishes problems of one kind; a second report with it replaces the first. `what`: the observation;
        `do`: the remedy. Both are for people, and hold no secret. `first`: before all others of its kind."""
        problem = {(kind, key): Problem(kind, what[:LONGEST_TEXT], do[:LONGEST_TEXT])}
        with self._changing:
            self._known = problem | self._known | problem if first else self._known | problem

    def clear(self, kind: ProblemKind, key: str) -> None:
        """It is over; does nothing if it was not reported."""
        if (kind, key) in self._known:
            with self._changing:
                self._known = {k: problem for k, problem in self._known.items() if k != (kind, key)}

    @property
    def current(self) -> tuple[Problem, ...]:
        """At most MOST_PROBLEMS, of each kind the oldest first; what is left out is counted in one more."""
        known = sorted(self._known.values(), key=lambda problem: list(ProblemKind).index(problem.kind))
        if len(known) <= MOST_PROBLEMS:
            return tuple(known)
        shown, left_out = known[: MOST_PROBLEMS - 1], len(known) - MOST_PROBLEMS + 1
        return (*shown, Problem(known[-1].kind, f"and {left_out} more problems", "see this worker's log"))

    def count(self) -> Counter[ProblemKind]:
        """How many there are of each kind."""
        return Counter(kind for kind, _ in self._known)
