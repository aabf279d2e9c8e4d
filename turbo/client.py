"""The user's side of the queue: submit, look, wait, cancel, retry, pause.

Everything here could be typed into psql: `agent_tasks` is the API, and cancel and retry are the documented hand edits.
The client adds types, the waiting, and messages. Synchronous; one connection, the caller's own if it brings one (a submit
inside the caller's transaction is then part of it).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from turbo import db
from turbo.sql import statement
from turbo.states import FINAL

WAIT_FIRST_SECONDS = 0.05
WAIT_LAST_SECONDS = 2.0


class UnknownTask(LookupError):
    """No such task; the message names it."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as the table has it. Times are the database's; `output_data` and `input_data` are parsed JSON."""

    task_id: str
    task_type: str | None
    task_description: str
    task_priority: int | None
    input_data: Any
    status: str
    queue: str
    output_data: Any
    error_message: str | None
    failure_kind: str | None
    execution_time_ms: int | None
    assigned_worker_id: str | None
    timeout_seconds: int | None
    max_retries: int | None
    retry_count: int | None
    infra_count: int
    created_at: datetime | None
    run_after: datetime
    started_at: datetime | None
    completed_at: datetime | None
    concurrency_key: str | None
    idempotency_key: str | None
    agent_session_id: str | None
    cancel_requested_at: datetime | None
    cancel_to: str | None

    @property
    def finished(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task in a list: `task_description` is cut at 200 characters."""

    task_id: str
    status: str
    queue: str
    task_type: str | None
    task_priority: int | None
    retry_count: int | None
    max_retries: int | None
    assigned_worker_id: str | None
    created_at: datetime | None
    run_after: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failure_kind: str | None
    task_description: str


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the trail. `actor` is a worker id, or the database user of a hand edit."""

    action_type: str
    success: bool | None
    executed_at: datetime
    execution_time_ms: int | None
    actor: str | None
    from_status: str | None
    to_status: str | None
    detail: Any


@dataclass(frozen=True, slots=True)
class Changed:
    """A task that a command changed, and the status it has now (a running one stays running until its agent is gone)."""

    task_id: str
    status: str


class Client:
    """`with Client(dsn) as client: …`. An empty DSN means libpq's PG* variables. Raises psycopg.Error."""

    def __init__(self, dsn: str = "", connection: psycopg.Connection[Any] | None = None) -> None:
        self._owns = connection is None
        self._connection = connection or psycopg.connect(
            **db.connect_arguments(dsn, "turbo client"),  # type: ignore[arg-type]
            autocommit=True,
        )
        set_json_loads(_readable, self._connection)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._owns:
            self._connection.close()

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        text: str,
        *,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | str | None = None,
        input_data: object = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
    ) -> tuple[str, bool]:
        """Insert a task. Returns its id, and False when the idempotency key had one already.

        `run_after` is a moment, or text that PostgreSQL reads as one ('tomorrow 06:00'). Raises
        psycopg.errors.CheckViolation for a row the database refuses; its hint says what to write.
        """
        parameters = {
            "text": text,
            "task_type": task_type,
            "queue": queue,
            "priority": priority,
            "run_after": run_after,
            "input": None if input_data is None else json.dumps(input_data),
            "timeout": timeout_seconds,
            "max_retries": max_retries,
            "idempotency_key": idempotency_key,
            "concurrency_key": concurrency_key,
        }
        while True:
            rows = self._rows("submit", parameters)
            if rows:
                return rows[0]["task_id"], rows[0]["created"]

    def get(self, task_id: str) -> TaskRow:
        """One task, whole. Raises UnknownTask."""
        try:
            rows = self._rows("task", {"task_id": task_id})
        except psycopg.DataError:  # an id that the column's type cannot be
            rows = []
        if not rows:
            raise UnknownTask(f"no task {task_id!r}")
        return TaskRow(**rows[0])

    def trail(self, task_id: str) -> list[Action]:
        """What happened to the task, oldest first."""
        return [Action(**row) for row in self._rows("trail", {"task_id": task_id})]

    def tasks(self, *, status: str | None = None, queue: str | None = None, limit: int = 50) -> list[TaskLine]:
        """The newest tasks."""
        return [TaskLine(**row) for row in self._rows("tasks", {"status": status, "queue": queue, "limit": limit})]

    def cancel(self, task_ids: Sequence[str]) -> list[Changed]:
        """Cancel what is not finished. Unknown and finished ids are not in the answer."""
        return [Changed(**row) for row in self._rows("cancel", {"task_id": list(task_ids)})]

    def retry(self, task_ids: Sequence[str]) -> list[Changed]:
        """Run finished tasks again. Unknown and unfinished ids are not in the answer."""
        return [Changed(**row) for row in self._rows("retry", {"task_id": list(task_ids)})]

    def wait(self, task_id: str, timeout: float | None = None) -> TaskRow:
        """Poll by key until the task is finished. Raises TimeoutError after `timeout` seconds, UnknownTask."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = WAIT_FIRST_SECONDS
        while not (task := self.get(task_id)).finished:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"task {task_id} is still {task.status} after {timeout:g} s")
            time.sleep(pause)
            pause = min(WAIT_LAST_SECONDS, pause * 1.5)
        return task

    # ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause_queue(self, queue: str, reason: str | None = None) -> None:
        """Nothing of `queue` is claimed from now on; what runs goes on. Right to call twice."""
        self._execute("pause_queue", {"queue": queue, "reason": reason})

    def resume_queue(self, queue: str) -> None:
        self._execute("resume_queue", {"queue": queue})

    # ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause_account(self, account: str, reason: str | None = None) -> None:
        """No task that needs the account is claimed on any host, until somebody resumes it."""
        self._execute(
            "account_pause", {"account": account, "host": "*", "reason": "manual", "seconds": None, "why": reason}
        )

    def resume_account(self, account: str) -> None:
        """Open on every host, whatever paused it."""
        self._execute("account_resume", {"account": account})

    def read(self, query: LiteralString, parameters: Sequence[object]) -> tuple[Any, ...]:
        """One row of a read-only query: for what a command asks the database itself, such as how it reads a moment."""
        row = self._connection.execute(query, parameters).fetchone()
        return row if row is not None else ()

    def _rows(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement(name), parameters).fetchall()

    def _execute(self, name: str, parameters: Mapping[str, object]) -> None:
        self._connection.execute(statement(name), parameters)


def _readable(raw: str | bytes) -> Any:
    """Parsed JSON; the text itself where Python cannot parse it (nested too deep, a number too long)."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw if isinstance(raw, str) else raw.decode()
