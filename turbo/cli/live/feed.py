"""The live data of `turbo top`: what is queried how often, and the rates computed from it.

    every refresh      the tasks of the chosen view                                                    1 statement
    every 2nd refresh  workers, queues, accounts, stranded and unplaceable tasks, tasks ended lately     6 statements
                       (first time: 10 min); while any task is blocked, what nobody lets go             1

At one refresh a second that is four statements a second at most. Each uses an index and is bounded: its cost does not grow with
the number of waiting or ended tasks (sql/top/). Rates are kept here, in spans of ten seconds of the database's clock.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psycopg

from turbo import db
from turbo.client import placement, snapshot
from turbo.client.async_client import AsyncClient
from turbo.client.fleet_status import (
    ACCOUNTS_LISTED,
    COUNTED,
    QUEUES_LISTED,
    WORKERS_LISTED,
    FleetStatus,
    QueueLine,
    StrandedLine,
    account_lines,
    left_out,
    worker_lines,
)
from turbo.client.operations import Disconnect, Query, Steps

SHOWN = 500
WAITING_EACH = 100
BUCKET_SECONDS = 10
HISTORY_SECONDS = 600
RATED = 10_000
STATEMENT_SECONDS = 10.0
"""A statement that takes longer loses its connection: a frozen server would hold it forever."""


class View(StrEnum):
    """Which tasks are listed."""

    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class LiveTask:
    """A task in the list. `seconds`: how long it has run, has waited (negative: due in), or how long ago it ended.

    `line`: its last output, or the error that ended it; '' if there is none.
    """

    task_id: str
    status: str
    queue: str
    task_type: str | None
    worker_id: str | None
    seconds: float | None
    line: str
    description: str
    input_tokens: int
    output_tokens: int
    retry_count: int | None
    max_retries: int | None
    stopping: bool

    def has(self, text: str) -> bool:
        """Whether a shown field contains the filter's text, ignoring case."""
        shown = (self.task_id, self.status, self.queue, self.task_type, self.worker_id, self.line, self.description)
        return any(text.lower() in part.lower() for part in shown if part)


class Rates:
    """Ended tasks by status, and tokens, for each ten-second span of the last ten minutes."""

    def __init__(self) -> None:
        self._ended: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._tokens: Counter[int] = Counter()
        self._spent: dict[str, int] = {}
        self._now = 0.0
        self.counted_all = True

    def ended(self, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Replace the counts of the last `seconds` with the rows of rates.sql."""
        self._now = rows[0]["now"]
        first = int((self._now - seconds) // BUCKET_SECONDS) + 1
        for bucket in [b for b in self._ended if b >= first]:
            del self._ended[bucket]
        for row in rows:
            if row["bucket"] is not None and row["bucket"] >= first:
                self._ended[row["bucket"]][row["status"]] += row["tasks"]
        self.counted_all = sum(row["tasks"] or 0 for row in rows) < RATED
        oldest = self._bucket - HISTORY_SECONDS // BUCKET_SECONDS
        for bucket in [b for b in self._ended if b < oldest]:
            del self._ended[bucket]
        for bucket in [b for b in self._tokens if b < oldest]:
            del self._tokens[bucket]

    def spent(self, tasks: Sequence[LiveTask]) -> None:
        """Add the tokens that the running tasks used since the last call."""
        now = {t.task_id: t.input_tokens + t.output_tokens for t in tasks}
        grown = sum(max(0, n - self._spent[i]) for i, n in now.items() if i in self._spent)
        if grown:
            self._tokens[self._bucket] += grown
        self._spent = now

    @property
    def _bucket(self) -> int:
        """The current span."""
        return int(self._now // BUCKET_SECONDS)

    def series(self, what: str) -> list[int]:
        """`what` (a status, or 'tokens') in each span, oldest first."""
        spans = range(self._bucket - HISTORY_SECONDS // BUCKET_SECONDS + 1, self._bucket + 1)
        return [self._tokens[b] if what == "tokens" else self._ended.get(b, Counter())[what] for b in spans]

    def per_minute(self, what: str) -> float:
        """The rate over the last six spans; the current one counts for the time it has lasted."""
        lasted = 5 * BUCKET_SECONDS + self._now % BUCKET_SECONDS
        return sum(self.series(what)[-6:]) * 60 / lasted


@dataclass(slots=True)
class Frame:
    """A snapshot of the fleet."""

    view: View = View.RUNNING
    tasks: list[LiveTask] = field(default_factory=list)
    status: FleetStatus = field(default_factory=lambda: FleetStatus([], [], [], [], 0.0))
    rates: Rates = field(default_factory=Rates)

    @property
    def waiting(self) -> int:
        return sum(q.pending for q in self.status.queues)

    @property
    def asking(self) -> int:
        """Tasks that wait for a person."""
        return sum(q.waiting for q in self.status.queues)

    @property
    def blocked(self) -> int:
        return sum(q.blocked for q in self.status.queues)

    @property
    def running(self) -> int:
        return sum(q.running for q in self.status.queues)

    @property
    def counted(self) -> bool:
        """Whether every pending task was counted."""
        return all(q.pending <= COUNTED for q in self.status.queues)


class Feed(AsyncClient):
    """The client of one `turbo top`: refreshes, and runs the user's commands, on one connection."""

    _statement_seconds = STATEMENT_SECONDS

    def __init__(self, dsn: str = "") -> None:
        super().__init__(dsn)
        self._refreshes = 0
        self._rated = False
        self.frame = Frame()

    async def refresh(self, view: View, *, all_of_it: bool = False) -> Frame:
        """Bring the frame up to date. Raises psycopg.Error."""
        await self._run(self._refresh(view, fleet=all_of_it or self._refreshes % 2 == 0))
        self._refreshes += 1
        return self.frame

    def _refresh(self, view: View, *, fleet: bool) -> Steps[None]:
        try:
            if fleet:
                yield from self._fleet()
            yield from self._tasks(view)
        except psycopg.Error as error:
            if db.is_transient(error):
                self._rated = False  # tasks that end during the outage are still to be counted
                yield Disconnect()
            raise

    def _fleet(self) -> Steps[None]:
        seconds = 2.0 * BUCKET_SECONDS if self._rated else float(HISTORY_SECONDS)
        workers = (yield Query("status/workers", {"limit": WORKERS_LISTED})).rows
        queues = [
            QueueLine(**row) for row in (yield Query("top/queues", {"most": COUNTED, "limit": QUEUES_LISTED})).rows
        ]
        accounts = (yield Query("status/accounts", {"limit": ACCOUNTS_LISTED})).rows
        asked = {"seconds": seconds, "bucket": BUCKET_SECONDS, "most": RATED}
        self.frame.rates.ended((yield Query("top/rates", asked)).rows, seconds)
        stranded = [StrandedLine(**row) for row in (yield Query("status/stranded", {"most": WAITING_EACH})).rows]
        unsettled = (yield from snapshot.unsettled()) if any(q.blocked for q in queues) else []
        self.frame.status = FleetStatus(
            worker_lines(workers),
            queues,
            account_lines(accounts),
            [],
            0.0,
            stranded=stranded,
            more_workers=left_out(workers),
            more_accounts=left_out(accounts),
            unsettled=unsettled,
            unplaceable=(yield from placement.unplaceable()),
        )
        self._rated = True

    def _tasks(self, view: View) -> Steps[None]:
        parameters: dict[str, object] = {"limit": SHOWN}
        if view is View.WAITING:
            names = [q.queue for q in self.frame.status.queues if q.pending and q.queue is not None]
            parameters |= {
                "queues": names,
                "each": max(WAITING_EACH, SHOWN // (len(names) or 1)),
                "later": [q.queue for q in self.frame.status.queues if q.scheduled and q.queue is not None],
                "limit": WAITING_EACH,
            }
        tasks = [LiveTask(**row) for row in (yield Query(f"top/{view}", parameters)).rows]
        if view is View.RUNNING:
            self.frame.rates.spent(tasks)
        self.frame.view, self.frame.tasks = view, tasks
