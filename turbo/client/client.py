"""The user's side of the queue, blocking: submit, look, wait, cancel, retry, pause. `AsyncClient` is its twin.

Everything here could be typed into psql: `agent_tasks` is the API, and cancel and retry are the documented hand edits.
The client adds types, the waiting, and messages. What it asks is in turbo.client.operations; here is one connection, its own or
the caller's (a submit inside the caller's transaction is then part of it).
"""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from turbo import db
from turbo.client import operations
from turbo.client.fleet_status import FleetStatus
from turbo.client.models import (
    Action,
    AmbiguousTask,
    Changed,
    RunView,
    Submitted,
    TaskFilter,
    TaskLine,
    TaskRow,
    TaskStatus,
    UnknownTask,
)
from turbo.client.new_task import BadField, NewTask
from turbo.client.operations import (
    Away,
    Disconnect,
    Operation,
    Query,
    QueryResult,
    Request,
    Sleep,
    Steps,
    Stream,
    T,
)
from turbo.sql import statement

__all__ = [
    "Action",
    "AmbiguousTask",
    "BadField",
    "Changed",
    "Client",
    "NewTask",
    "RunView",
    "Submitted",
    "TaskFilter",
    "TaskLine",
    "TaskRow",
    "TaskStatus",
    "UnknownTask",
]


class Client:
    """`with Client(dsn) as client: …`, or `Client(connection=…)` on a psycopg connection of yours.

    Without a DSN: TURBO_DSN, else libpq's PG* variables. A connection of its own that was lost is opened again by the next call. Yours
    is used as it is: not closed, not reconnected, not configured, and every call is part of the transaction it is in.
    One client is for one thread at a time. Raises psycopg.Error.
    """

    def __init__(self, dsn: str = "", connection: psycopg.Connection[Any] | None = None) -> None:
        self._dsn = dsn or os.environ.get("TURBO_DSN", "")
        self._owns = connection is None
        self._connection = connection or self._connect()

    def _connect(self) -> psycopg.Connection[Any]:
        arguments = db.connect_arguments(self._dsn, "turbo client")
        return psycopg.connect(**arguments, autocommit=True)  # type: ignore[arg-type]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Its own connection; yours stays open."""
        if self._owns:
            self._connection.close()

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        text: str,
        *,
        task_id: str | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | str | None = None,
        input_data: object = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
    ) -> Submitted:
        """Insert a task. `created` is False when the idempotency key had one already.

        `run_after` is a moment, or text that PostgreSQL reads as one ('tomorrow 06:00'). Raises BadField for a value that
        no task can have, psycopg.errors.CheckViolation for a row the database refuses; its hint says what to write.
        """
        task = NewTask(
            text,
            task_id=task_id,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            run_after=run_after,
            input_data=input_data,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
        )
        return self._run(operations.submit(task))

    def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted]:
        """Insert tasks in one statement, all or none; the answers are in their order. Raises psycopg.Error."""
        return self._run(operations.submit_many(tasks))

    def get(self, task_id: str) -> TaskRow:
        """One task, whole. Raises UnknownTask."""
        return self._run(operations.get(task_id))

    def run(self, task_id: str) -> RunView:
        """The task's latest run, and what it said last. Raises UnknownTask."""
        return self._run(operations.run(task_id))

    def trail(self, task_id: str) -> list[Action]:
        """What happened to the task, oldest first."""
        return self._run(operations.trail(task_id))

    def resolve(self, prefix: str) -> str:
        """The id that this is, or that alone begins with it. Raises UnknownTask, AmbiguousTask."""
        return self._run(operations.resolve(prefix))

    def newest_ids(self, prefix: str, limit: int = 50) -> list[str]:
        """Ids that begin so, of the newest tasks first: what a shell completes."""
        return self._run(operations.newest_ids(prefix, limit))

    def tasks(
        self,
        criteria: TaskFilter | None = None,
        *,
        status: str | None = None,
        queue: str | None = None,
        limit: int | None = 50,
    ) -> list[TaskLine]:
        """The newest tasks that fit. `limit` None: all of them."""
        chosen = criteria or TaskFilter(statuses=(status,) if status else None, queue=queue)
        return self._run(operations.tasks(chosen, limit))

    def cancel(self, task_ids: str | Sequence[str]) -> list[Changed]:
        """Cancel what is not finished. Unknown and finished ids are not in the answer."""
        return self._run(operations.change("cancel", task_ids))

    def retry(self, task_ids: str | Sequence[str]) -> list[Changed]:
        """Run finished tasks again. Unknown and unfinished ids are not in the answer."""
        return self._run(operations.change("retry", task_ids))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskRow:
        """The task, once it is finished, however it ended. Raises TimeoutError after `timeout` seconds, UnknownTask.

        A database that is away is waited for. On a connection of yours: it must be in autocommit mode, outside a
        transaction (a task is claimed only after its commit); else RuntimeError.
        """
        for _ in self.follow(task_id, timeout):
            pass
        return self.get(task_id)

    def follow(
        self, task_ids: str | Sequence[str], timeout: float | None = None, away: Away | None = None
    ) -> Iterator[list[TaskStatus]]:
        """Look until all are finished; yields where those are that were not at the last look.

        A database that is away is waited for (unless the connection is the caller's): `away(error)` is told, and
        `away(None)` when it is back. Raises TimeoutError after `timeout` seconds, UnknownTask for a task that is gone,
        RuntimeError as `wait`.
        """
        self._check_may_wait()
        return self._stream(operations.follow(task_ids, timeout, patient=self._owns, away=away))

    def progress(self, task_id: str, timeout: float | None = None, away: Away | None = None) -> Iterator[RunView]:
        """The task's run, whenever it has something new (status, last line, tokens): at most once a second.

        Ends with the task; a further try is followed too. `away`, and what it raises: as `follow`.
        """
        self._check_may_wait()
        return self._stream(operations.progress(task_id, timeout, patient=self._owns, away=away))

    def refused(self, tasks: Sequence[NewTask]) -> tuple[int, psycopg.Error] | None:
        """Which of these the database refuses first, and why. Inserts nothing: each is tried, all are rolled back."""
        with self._connection.transaction(force_rollback=True):
            for number, task in enumerate(tasks):
                try:
                    with self._connection.transaction():
                        self.submit_many([task])
                except psycopg.Error as error:
                    if self._connection.broken:
                        raise
                    return number, error
        return None

    # ── queues, accounts, the fleet ─────────────────────────────────────────────────────────────────────────────────

    def served(self, queue: str) -> tuple[bool, bool]:
        """Whether a live worker serves `queue`, and whether it is paused."""
        return self._run(operations.served(queue))

    def pause_queue(self, queue: str, reason: str | None = None) -> bool:
        """Nothing of `queue` is claimed from now on; what runs goes on. Right to call twice. False: it was paused."""
        return self._run(operations.pause_queue(queue, reason))

    def resume_queue(self, queue: str) -> bool:
        """False: it was not paused."""
        return self._run(operations.resume_queue(queue))

    def pause_account(self, account: str, reason: str | None = None) -> None:
        """No task that needs the account is claimed on any host, until somebody resumes it."""
        self._run(operations.pause_account(account, reason))

    def resume_account(self, account: str) -> bool:
        """Open on every host, whatever paused it. False: it was open."""
        return self._run(operations.resume_account(account))

    def account_used(self, account: str) -> bool:
        """Whether a live worker runs on it."""
        return self._run(operations.account_used(account))

    def fleet(self) -> FleetStatus:
        """Workers, queues, accounts and the last hour, now."""
        return self._run(operations.fleet())

    def read(self, query: LiteralString, parameters: Sequence[object]) -> tuple[Any, ...]:
        """One row of a read-only query: for what a command asks the database itself, such as how it reads a moment."""
        row = self._connection.execute(query, parameters).fetchone()
        return row if row is not None else ()

    # ── the driver ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, steps: Steps[T]) -> T:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            self._advance(operation)
        result: T = operation.result
        return result

    def _stream(self, steps: Stream[T]) -> Iterator[T]:
        operation: Operation[T] = Operation(steps)
        while not operation.done:
            if isinstance(operation.request, Query | Sleep | Disconnect):
                self._advance(operation)
            else:
                yield operation.request
                operation.answer()

    def _advance(self, operation: Operation[T]) -> None:
        try:
            answer = self._perform(operation.request)
        except Exception as error:
            operation.fail(error)
        else:
            operation.answer(answer)

    def _perform(self, step: Request) -> QueryResult:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return QueryResult()
        if isinstance(step, Disconnect):
            if self._owns:
                self._connection.close()
            return QueryResult()
        if self._owns and self._connection.closed:
            self._connection = self._connect()
        # A plain cursor: the caller's connection may make others, which read parameters in another way.
        with psycopg.Cursor(self._connection, row_factory=dict_row) as cursor:
            operations.prepare(cursor)
            cursor.execute(statement(step.name), step.parameters)
            return QueryResult(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def _check_may_wait(self) -> None:
        operations.check_may_wait(self._owns, self._connection.autocommit, self._connection.info.transaction_status)
