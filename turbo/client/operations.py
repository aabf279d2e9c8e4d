"""The clients' queries and the handling of their answers, without a connection. `Client` and `AsyncClient` drive it.

    operation (a generator) ──Query · Sleep · Listen · Disconnect──▶ driver (blocking or async)
           ▲     └─▶ result                                                  │
           └───────────────────────answer or error───────────────────────────┘

An operation yields requests, receives the answer to each (or its error), and returns its result. A stream also yields values
in between. So every statement, retry and wait is written once, and each driver is a loop of a few lines.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.pq import Format, TransactionStatus

from turbo import db
from turbo.client.models import (
    PREFIXES_SHOWN,
    Action,
    AmbiguousTask,
    Changed,
    RunView,
    Submitted,
    TaskFilter,
    TaskLine,
    TaskRow,
    UnknownTask,
)
from turbo.client.new_task import NewTask
from turbo.db.values import read_bounded
from turbo.sql import Variant


@dataclass(frozen=True, slots=True)
class Query:
    """Run `turbo/sql/<name>.sql`. If the client's own connection was lost, reopen it first."""

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    variant: Variant | None = None


@dataclass(frozen=True, slots=True)
class Ear:
    """A session that hears. `session` changes when another takes its place, `heard` counts what has arrived, `channel` is the name that
    turbo_wait takes."""

    session: int
    heard: int
    channel: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Hear notifications until the operation ends. The answer has an ear, or none: nothing can be heard here."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """With `ear`: not longer than until it has heard more."""

    seconds: float
    ear: Ear | None = None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Discard the connection on which the last statement failed, if it is the client's own."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to a Query: its rows, and how many it returned or changed. Empty for the other requests."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    ear: Ear | None = None


T = TypeVar("T")
Request = Query | Sleep | Disconnect | Listen
Steps = Generator[Request, QueryResult, T]
Stream = Generator[Request | T, QueryResult, None]
Away = Callable[[BaseException | None], None]
"""Called with the error when an outage starts, and with None when it ends."""


class Operation(Generic[T]):
    """A running operation or stream. A driver performs `request` until `done`; a stream's `request` may also be a value."""

    def __init__(self, steps: Generator[Any, QueryResult, Any]) -> None:
        self._steps = steps
        self.request: Any = None
        self.result: Any = None
        self.done = False
        self._on(partial(next, steps))

    def answer(self, answer: QueryResult = QueryResult()) -> None:
        self._on(partial(self._steps.send, answer))

    def fail(self, error: Exception) -> None:
        """The request raised this error. Raises it again unless the operation handles it."""
        self._on(partial(self._steps.throw, error))

    def _on(self, resume: Callable[[], Any]) -> None:
        try:
            self.request = resume()
        except StopIteration as done:
            self.done, self.request, self.result = True, None, done.value


def prepare(cursor: "psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]") -> None:
    """Let a cursor read every timestamp and every JSON value. The connection is not changed: it may be the caller's."""
    if not (cursor.connection.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        cursor.format = Format.BINARY  # as text, psycopg reads timestamps in ISO style only
    read_bounded(cursor)


def may_send_again(error: psycopg.Error, status: TransactionStatus) -> bool:
    """Whether a statement that failed may succeed on a new session: the schema has changed under this one, or it is with a
    server that takes no writes, and another one may by now. Nothing was done, and no transaction is open."""
    renewable = db.is_outdated(error) or isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
    return renewable and status == TransactionStatus.IDLE


def check_may_wait(owns: bool, autocommit: bool, status: TransactionStatus) -> None:
    """Raises RuntimeError if waiting would keep a transaction open, and perhaps wait for its own commit."""
    if not owns and (not autocommit or status != TransactionStatus.IDLE):
        raise RuntimeError(
            "cannot wait inside a transaction: a task is claimed only after its commit. Commit first, then wait with a separate"
            " Client(dsn), or on a connection in autocommit mode"
        )


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def submit_many(tasks: Sequence[NewTask]) -> Steps[list[Submitted]]:
    if not tasks:
        return []
    rows = (yield Query("client/submit", columns(tasks), _variant(tasks))).rows
    # The rows of INSERT … SELECT … ORDER BY return in that order; rows with a key are matched by it.
    unnamed = iter([r["task_id"] for r in rows if r["created"] and not r["named"] and r["idempotency_key"] is None])
    created = {r["idempotency_key"]: r["task_id"] for r in rows if r["created"]}
    taken = {r["idempotency_key"]: r["task_id"] for r in rows if not r["created"]}
    answers: list[Submitted] = []
    for task in tasks:
        key = task.idempotency_key
        if key is None:
            answers.append(Submitted(task.task_id if task.task_id is not None else next(unnamed), True))
        elif key in created:
            answers.append(Submitted(created[key], True))
            taken[key] = created.pop(key)
        elif key in taken:
            answers.append(Submitted(taken[key], False))
        else:
            answers += yield from submit_many([task])  # it was committed after our snapshot: try again
    return answers


def _variant(tasks: Sequence[NewTask]) -> Variant | None:
    if any(task.waits for task in tasks):
        return "work"
    return "held" if any(task.hold for task in tasks) else None


def submit(task: NewTask) -> Steps[Submitted]:
    return (yield from submit_many([task]))[0]


def columns(tasks: Sequence[NewTask]) -> dict[str, list[Any]]:
    """The parameters of submit.sql."""
    return {
        "task_id": [t.task_id for t in tasks],
        "task_type": [t.task_type for t in tasks],
        "text": [t.task_description for t in tasks],
        "priority": [t.task_priority for t in tasks],
        "input": [t.input_json() for t in tasks],
        "queue": [t.queue for t in tasks],
        "run_after": [None if t.run_after is None else str(t.run_after) for t in tasks],
        "timeout": [t.timeout_seconds for t in tasks],
        "max_retries": [t.max_retries for t in tasks],
        "idempotency_key": [t.idempotency_key for t in tasks],
        "concurrency_key": [t.concurrency_key for t in tasks],
        "hold": [t.hold for t in tasks],
        "needs": [t.needs_array() for t in tasks],
        "on_needs_failed": [t.on_needs_failed for t in tasks],
        "continues": [t.continues for t in tasks],
        "parent_task_id": [t.parent_task_id for t in tasks],
        "requires": [t.requires_json() for t in tasks],
        "traceparent": [t.traceparent for t in tasks],
    }


def get(task_id: str) -> Steps[TaskRow]:
    return TaskRow(**(yield from _row("client/task", task_id)))


def database_id() -> Steps[str | None]:
    """The identity of the database (turbo.db.identity); None where its schema is from before."""
    try:
        answer = yield Query("client/database_id")
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege):
        return None
    return answer.rows[0]["database_id"] if answer.rows else None


def run(task_id: str) -> Steps[RunView]:
    return RunView(**(yield from _row("client/run_view", task_id)))


def trail(task_id: str) -> Steps[list[Action]]:
    return [Action(**row) for row in (yield Query("client/actions", {"task_id": task_id})).rows]


def resolve(prefix: str) -> Steps[str]:
    query = Query("client/task_prefix", {"task_id": prefix, "pattern": like(prefix), "limit": PREFIXES_SHOWN + 1})
    task_ids = [str(row["task_id"]) for row in (yield query).rows]
    if prefix in task_ids:
        return prefix
    if not task_ids or not prefix:
        raise UnknownTask(f"no task {prefix!r}")
    if len(task_ids) > 1:
        raise AmbiguousTask(prefix, task_ids)
    return task_ids[0]


def newest_ids(prefix: str, limit: int) -> Steps[list[str]]:
    rows = (yield Query("client/task_ids", {"pattern": like(prefix), "limit": limit})).rows
    return [str(row["task_id"]) for row in rows]


def waiting_ids(prefix: str, kinds: Sequence[str] | None, limit: int) -> Steps[list[str]]:
    parameters = {"pattern": like(prefix), "kinds": kinds and list(kinds), "limit": limit}
    return [str(row["task_id"]) for row in (yield Query("client/waiting_ids", parameters)).rows]


def like(prefix: str) -> str:
    """A LIKE pattern for this prefix."""
    return "".join(f"\\{c}" if c in "\\%_" else c for c in prefix) + "%"


def tasks(criteria: TaskFilter, limit: int | None) -> Steps[list[TaskLine]]:
    parameters = asdict(criteria) | {"statuses": criteria.statuses and list(criteria.statuses), "limit": limit}
    return [TaskLine(**row) for row in (yield Query("client/tasks", parameters)).rows]


def change(verb: str, task_ids: str | Sequence[str]) -> Steps[list[Changed]]:
    """`verb`: cancel, retry or retry_anew."""
    rows = (yield Query(f"client/{verb}", {"task_id": listed(task_ids)})).rows
    return [Changed(**row) for row in rows]


def listed(task_ids: str | Sequence[str]) -> list[str]:
    """One id becomes a list of one, because a string is itself a sequence."""
    return [task_ids] if isinstance(task_ids, str) else list(task_ids)


def _row(name: str, task_id: str) -> Steps[dict[str, Any]]:
    try:
        rows = (yield Query(name, {"task_id": task_id})).rows
    except psycopg.DataError:  # the id is not valid for the column's type
        rows = []
    if not rows:
        raise UnknownTask(f"no task {task_id!r}")
    return rows[0]


# ── queues and accounts ─────────────────────────────────────────────────────────────────────────────────────────────


def served(queue: str) -> Steps[tuple[bool, bool]]:
    row = (yield Query("client/served", {"queue": queue})).rows[0]
    return row["served"], row["paused"]


def pause_queue(queue: str, reason: str | None) -> Steps[bool]:
    return (yield Query("client/pause_queue", {"queue": queue, "reason": reason})).count > 0


def resume_queue(queue: str) -> Steps[bool]:
    return (yield Query("client/resume_queue", {"queue": queue})).count > 0


def pause_account(account: str, reason: str | None) -> Steps[None]:
    yield Query("accounts/pause", {"account": account, "why": reason})


def resume_account(account: str) -> Steps[bool]:
    return (yield Query("accounts/resume", {"account": account})).count > 0


def account_used(account: str) -> Steps[bool]:
    return bool((yield Query("accounts/used", {"account": account})).rows[0]["used"])
