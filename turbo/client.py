"""The user's side of the queue: submit, look, wait, cancel, retry, pause.

Everything here could be typed into psql: `agent_tasks` is the API, and cancel and retry are the documented hand edits.
The client adds types, the waiting, and messages. Synchronous; one connection, the caller's own if it brings one (a submit
inside the caller's transaction is then part of it).

Waiting is polling by key: a finish does not notify (that would cost every finish of the fleet a lock). The pause between
two looks is a tenth of the time waited so far, so the answer is never late by more than a tenth, nor by more than 2 s.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from turbo import db, fleet_status
from turbo.db import Backoff
from turbo.moments import read_any_moment
from turbo.rows import (
    PREFIXES_SHOWN,
    Action,
    AmbiguousTask,
    Changed,
    RunView,
    Standing,
    Submitted,
    TaskFilter,
    TaskLine,
    TaskRow,
    UnknownTask,
)
from turbo.sql import statement
from turbo.submission import BadField, NewTask

__all__ = [
    "Action",
    "AmbiguousTask",
    "BadField",
    "Changed",
    "Client",
    "NewTask",
    "RunView",
    "Standing",
    "Submitted",
    "TaskFilter",
    "TaskLine",
    "TaskRow",
    "UnknownTask",
]

WAIT_FIRST_SECONDS = 0.05
WAIT_LAST_SECONDS = 2.0
WAIT_SHARE = 0.1
FOLLOW_AT_ONCE = 5000


class Client:
    """`with Client(dsn) as client: …`. An empty DSN means libpq's PG* variables. Raises psycopg.Error."""

    def __init__(self, dsn: str = "", connection: psycopg.Connection[Any] | None = None) -> None:
        self._dsn = dsn
        self._owns = connection is None
        self._connection = connection or self._connect()
        set_json_loads(_readable, self._connection)

    def _connect(self) -> psycopg.Connection[Any]:
        arguments = db.connect_arguments(self._dsn, "turbo client")
        return psycopg.connect(**arguments, autocommit=True)  # type: ignore[arg-type]

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
    ) -> tuple[str, bool]:
        """Insert a task. Returns its id, and False when the idempotency key had one already.

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
        submitted = self.submit_many([task])[0]
        return submitted.task_id, submitted.created

    def submit_many(self, tasks: Sequence[NewTask]) -> list[Submitted]:
        """Insert tasks in one statement, all or none; the answers are in their order. Raises psycopg.Error."""
        if not tasks:
            return []
        rows = self._rows("submit", _columns(tasks))
        # Rows of an INSERT … SELECT … ORDER BY come back in that order, those with a key are found by it.
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
                answers += self.submit_many([task])  # it was committed after our snapshot: look again
        return answers

    def refused(self, tasks: Sequence[NewTask]) -> tuple[int, psycopg.Error] | None:
        """Which of these the database refuses first, and why. Inserts nothing: each is tried, all are rolled back."""
        with self._connection.transaction(force_rollback=True):
            for number, task in enumerate(tasks):
                try:
                    with self._connection.transaction():
                        self._rows("submit", _columns([task]))
                except psycopg.Error as error:
                    if self._connection.broken:
                        raise
                    return number, error
        return None

    def get(self, task_id: str) -> TaskRow:
        """One task, whole. Raises UnknownTask."""
        return TaskRow(**self._one("task", task_id))

    def run(self, task_id: str) -> RunView:
        """The task's latest run, and what it said last. Raises UnknownTask."""
        return RunView(**self._one("run_view", task_id))

    def trail(self, task_id: str) -> list[Action]:
        """What happened to the task, oldest first."""
        return [Action(**row) for row in self._rows("trail", {"task_id": task_id})]

    def resolve(self, prefix: str) -> str:
        """The id that this is, or that alone begins with it. Raises UnknownTask, AmbiguousTask."""
        rows = self._rows("task_prefix", {"task_id": prefix, "pattern": _like(prefix), "limit": PREFIXES_SHOWN + 1})
        found = [row["task_id"] for row in rows]
        if prefix in found:
            return prefix
        if not found or not prefix:
            raise UnknownTask(f"no task {prefix!r}")
        if len(found) > 1:
            raise AmbiguousTask(prefix, found)
        return str(found[0])

    def newest_ids(self, prefix: str, limit: int = 50) -> list[str]:
        """Ids that begin so, of the newest tasks first: what a shell completes."""
        return [row["task_id"] for row in self._rows("task_ids", {"pattern": _like(prefix), "limit": limit})]

    def tasks(
        self,
        wanted: TaskFilter | None = None,
        *,
        status: str | None = None,
        queue: str | None = None,
        limit: int | None = 50,
    ) -> list[TaskLine]:
        """The newest tasks that fit. `limit` None: all of them."""
        chosen = wanted or TaskFilter(statuses=(status,) if status else None, queue=queue)
        parameters = asdict(chosen) | {"statuses": chosen.statuses and list(chosen.statuses), "limit": limit}
        return [TaskLine(**row) for row in self._rows("tasks", parameters)]

    def cancel(self, task_ids: Sequence[str]) -> list[Changed]:
        """Cancel what is not finished. Unknown and finished ids are not in the answer."""
        return [Changed(**row) for row in self._rows("cancel", {"task_id": list(task_ids)})]

    def retry(self, task_ids: Sequence[str]) -> list[Changed]:
        """Run finished tasks again. Unknown and unfinished ids are not in the answer."""
        return [Changed(**row) for row in self._rows("retry", {"task_id": list(task_ids)})]

    def wait(self, task_id: str, timeout: float | None = None) -> TaskRow:
        """Poll by key until the task is finished. Raises TimeoutError after `timeout` seconds, UnknownTask."""
        for _ in self.follow([task_id], timeout):
            pass
        return self.get(task_id)

    def follow(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,
        away: Callable[[BaseException | None], None] | None = None,
    ) -> Iterator[list[Standing]]:
        """Look until all are finished; yields where those are that were not at the last look.

        A database that is away is waited for (unless the connection is the caller's): `away(error)` is told, and
        `away(None)` when it is back. Raises TimeoutError after `timeout` seconds, UnknownTask for a task that is gone.
        """
        began = time.monotonic()
        waiting = list(dict.fromkeys(task_ids))
        while True:
            found = self._standings(waiting, away)
            if missing := set(waiting) - {one.task_id for one in found}:
                raise UnknownTask(f"no task {sorted(missing)[0]!r}")
            yield found
            left = [one for one in found if not one.finished]
            if not left:
                return
            waiting = [one.task_id for one in left]
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                what = f"task {waiting[0]} is" if len(waiting) == 1 else f"{len(waiting)} tasks are"
                raise TimeoutError(f"{what} still {left[0].status} after {timeout:g} s")
            pause = min(WAIT_LAST_SECONDS, max(WAIT_FIRST_SECONDS, waited * WAIT_SHARE))
            time.sleep(pause if timeout is None else min(pause, max(0.01, timeout - waited)))

    def _standings(self, task_ids: list[str], away: Callable[[BaseException | None], None] | None) -> list[Standing]:
        backoff = Backoff()
        while True:
            try:
                if self._connection.closed and self._owns:
                    self._connection = self._connect()
                    set_json_loads(_readable, self._connection)
                found: list[Standing] = []
                for start in range(0, len(task_ids), FOLLOW_AT_ONCE):
                    rows = self._rows("follow", {"task_id": task_ids[start : start + FOLLOW_AT_ONCE]})
                    found += [Standing(**row) for row in rows]
            except psycopg.DataError:  # an id that the column's type cannot be
                return []
            except psycopg.Error as error:
                if not self._owns or not db.is_transient(error):
                    raise
                if away is not None and backoff.failures == 0:
                    away(error)
                self._connection.close()
                time.sleep(backoff.next())
            else:
                if away is not None and backoff.failures:
                    away(None)
                return found

    def served(self, queue: str) -> tuple[bool, bool]:
        """Whether a live worker serves `queue`, and whether it is paused."""
        row = self._rows("served", {"queue": queue})[0]
        return row["served"], row["paused"]

    # ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause_queue(self, queue: str, reason: str | None = None) -> bool:
        """Nothing of `queue` is claimed from now on; what runs goes on. Right to call twice. False: it was paused."""
        return self._execute("pause_queue", {"queue": queue, "reason": reason}) > 0

    def resume_queue(self, queue: str) -> bool:
        """False: it was not paused."""
        return self._execute("resume_queue", {"queue": queue}) > 0

    # ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause_account(self, account: str, reason: str | None = None) -> None:
        """No task that needs the account is claimed on any host, until somebody resumes it."""
        self._execute("account_pause", {"account": account, "why": reason})

    def resume_account(self, account: str) -> bool:
        """Open on every host, whatever paused it. False: it was open."""
        return self._execute("account_resume", {"account": account}) > 0

    def account_used(self, account: str) -> bool:
        """Whether a live worker runs on it."""
        return bool(self._rows("account_used", {"account": account})[0]["used"])

    def fleet(self) -> fleet_status.FleetStatus:
        """Workers, queues, accounts and the last hour, now."""
        return fleet_status.read(self._connection)

    def read(self, query: LiteralString, parameters: Sequence[object]) -> tuple[Any, ...]:
        """One row of a read-only query: for what a command asks the database itself, such as how it reads a moment."""
        row = self._connection.execute(query, parameters).fetchone()
        return row if row is not None else ()

    def _one(self, name: str, task_id: str) -> dict[str, Any]:
        try:
            rows = self._rows(name, {"task_id": task_id})
        except psycopg.DataError:  # an id that the column's type cannot be
            rows = []
        if not rows:
            raise UnknownTask(f"no task {task_id!r}")
        return rows[0]

    def _rows(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            read_any_moment(cursor)
            return cursor.execute(statement(name), parameters).fetchall()

    def _execute(self, name: str, parameters: Mapping[str, object]) -> int:
        """How many rows it changed."""
        return self._connection.execute(statement(name), parameters).rowcount


def _columns(tasks: Sequence[NewTask]) -> dict[str, list[Any]]:
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
    }


def _like(prefix: str) -> str:
    return "".join(f"\\{c}" if c in "\\%_" else c for c in prefix) + "%"


def _readable(raw: str | bytes) -> Any:
    """Parsed JSON; the text itself where Python cannot parse it (nested too deep, a number too long)."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw if isinstance(raw, str) else raw.decode()
