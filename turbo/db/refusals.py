"""What the database refused to let one worker write: counted, logged once for each row and reason, and kept among its problems.

refused alone ──▶ counted, an ERROR line ──tried again──▶ a reminder every five minutes
                    └── a problem, until the row is taken, gone, or failed as poison
"""

import logging
import time
from dataclasses import dataclass

import psycopg

from turbo.db.errors import why_refused
from turbo.domain.problem import ProblemKind
from turbo.domain.states import RowStatement
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems

log = logging.getLogger(__name__)

REMIND_SECONDS = 300.0
LINES = 20
"""Log lines of one statement within REMIND_SECONDS: a thousand refused rows have one cause."""

MOST_REMEMBERED = 1000

_DOING = {
    RowStatement.CLAIM: "be claimed",
    RowStatement.PROMOTION: "become pending",
    RowStatement.RELEASE: "be given back",
    RowStatement.RESCUE: "be taken back from its dead worker",
    RowStatement.RECONCILE: "be given back",
    RowStatement.REASSERT: "be taken back after an outage",
    RowStatement.PROGRESS: "show its progress",
    RowStatement.RETENTION: "be deleted",
    RowStatement.SETTLE: "wait, or be let go",
}
REMEDY = "correct the row, or change the constraint, index or trigger that refuses it"


@dataclass(frozen=True, slots=True)
class RefusalTimings:
    """Seconds. A refused row is tried again after `first`, then after twice as long, up to `longest`. It is failed once it
    has been refused for `patience`: the owner may be in the middle of a deployment. `most_aside`: how many rows of one statement
    are tried again one by one."""

    first: float = 1.0
    longest: float = 300.0
    patience: float = 15.0
    most_aside: int = 1000


class Refusals:
    """What one worker was refused, by statement; says it once in the log, and keeps it in the worker's problems."""

    def __init__(self, problems: Problems, metrics: Metrics, timings: RefusalTimings = RefusalTimings()) -> None:
        self.timings = timings
        self._problems = problems
        self._metrics = metrics
        self._logged: dict[tuple[RowStatement, str, str], float] = {}
        self._windows: dict[RowStatement, tuple[float, int]] = {}
        self._exhausted = False

    def refused(self, statement: RowStatement, task_id: str, error: psycopg.Error) -> None:
        """Count a row that was refused alone, and log it, unless that was done within five minutes."""
        self._metrics.refused_rows.labels(statement).inc()
        self.remind(statement, task_id, error)

    def remind(self, statement: RowStatement, task_id: str, error: psycopg.Error) -> None:
        """Log a refusal, unless that was done within five minutes."""
        now = time.monotonic()
        key = (statement, task_id, str(error.sqlstate))
        if now - self._logged.get(key, -REMIND_SECONDS) < REMIND_SECONDS:
            return
        if len(self._logged) > MOST_REMEMBERED:
            self._logged = {k: at for k, at in self._logged.items() if now - at < REMIND_SECONDS}
        self._logged[key] = now
        since, lines = self._windows.get(statement, (now, 0))
        if now - since >= REMIND_SECONDS:
            since, lines = now, 0
        self._windows[statement] = since, lines + 1
        if lines < LINES:
            more = "; more rows are refused, turbo status counts them" if lines == LINES - 1 else ""
            log.error(
                "the database refuses this row, it cannot %s: %s; %s%s", _DOING[statement], why_refused(error), REMEDY, more,
                extra={"task": shown(task_id)},
            )  # fmt: skip

    def report(self, statement: RowStatement, task_id: str, error: psycopg.Error) -> None:
        what = f"task {shown(task_id)} cannot {_DOING[statement]}: the database refuses its row: {why_refused(error)}"
        self._problems.report(ProblemKind.REFUSED_ROW, task_id, what, f"{REMEDY}; it is tried again")

    def forget(self, task_id: str) -> None:
        self._problems.clear(ProblemKind.REFUSED_ROW, task_id)

    def failed(self, statement: RowStatement, task_id: str, error: psycopg.Error) -> None:
        """The task was failed as poison."""
        self._metrics.poisoned.inc()
        log.error(
            "failed as poison: it cannot %s, the database refuses its row: %s", _DOING[statement], why_refused(error),
            extra={"task": shown(task_id)},
        )  # fmt: skip

    def exhausted(self, statement: RowStatement, error: psycopg.Error) -> None:
        """A sequence has handed out its last number."""
        self.remind(statement, "", error)
        self._exhausted = True
        self._problems.report(
            ProblemKind.REFUSED_ROW,
            "",
            f"no task can {_DOING[statement]}: {why_refused(error)}",
            "give the column of this sequence the type bigint, and the sequence, too; turbo doctor shows the statements",
        )

    def crowded(
        self, statement: RowStatement, queue: str | None, most: int, error: psycopg.Error, goes_on: bool
    ) -> None:
        """More than `most` rows of a queue, or of all, are refused. `goes_on`: the statement gets past them."""
        of_queue = "" if queue is None else f" of queue {shown(queue)}"
        what = f"more than {most:,} tasks{of_queue} cannot {_DOING[statement]}: the database refuses their rows: {why_refused(error)}"
        do = "; the others go on, those that came before later" if goes_on else "; the others wait until then"
        self._problems.report(ProblemKind.REFUSED_ROW, _crowd(statement, queue), what, REMEDY + do, first=True)

    def dispersed(self, statement: RowStatement, queue: str | None) -> None:
        """There are fewer again."""
        self._problems.clear(ProblemKind.REFUSED_ROW, _crowd(statement, queue))

    def took(self) -> None:
        """A statement wrote rows."""
        if self._exhausted:
            self._exhausted = False
            self._problems.clear(ProblemKind.REFUSED_ROW, "")


def _crowd(statement: RowStatement, queue: str | None) -> str:
    return f"\0{statement}\0{queue}"  # no task's id has a NUL


def shown(task_id: str | None) -> str:
    """A task's id as people can read it: an id may have thousands of characters. None: a row past the triggers named nothing."""
    if task_id is None:
        return "null"
    return task_id if len(task_id) <= 60 else f"{task_id[:60]}…"
