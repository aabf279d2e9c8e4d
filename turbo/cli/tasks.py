"""`turbo tasks`: list tasks."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, timestamps
from turbo.cli.options import (
    Dsn,
    Json,
    KindOption,
    QueueOption,
    SinceOption,
    Status,
    TextOption,
    TypeOption,
    WorkerOption,
    connect,
)
from turbo.cli.output import Column
from turbo.domain.placement import label_list
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Client, TaskLine

COLUMNS = (
    Column("TASK"),
    Column("STATUS"),
    Column("WHEN", drop=2),
    Column("QUEUE", drop=4),
    Column("TYPE", drop=5),
    Column("ATTEMPT", drop=6),
    Column("WORKER", drop=3, flexible=True),
    Column("DESCRIPTION", drop=1, flexible=True),
)

EXPLAINED = 1000
"""Blocked tasks in one list for which the database is asked what they wait for."""


def tasks(
    status: Status = None,
    queue: QueueOption = None,
    task_type: TypeOption = None,
    worker: WorkerOption = None,
    since: SinceOption = None,
    failure_kind: KindOption = None,
    text: TextOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000_000, help="Show at most this many.")] = 50,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List tasks, newest first.

    \b
    Examples:
      turbo tasks --status failed --since 1h
      turbo tasks --worker alpha --status running
      turbo tasks --status waiting              # for a person: turbo questions
      turbo tasks --status blocked              # and for which tasks they wait
      turbo tasks --text auth.py --json | jq -r '.[].task_id'
    """
    from turbo.cli.selection import task_filter

    with connect(dsn) as client:
        criteria = task_filter(client, status, queue, task_type, worker, failure_kind, since, text)
        matches = client.tasks(criteria, limit=limit)
        why = {} if as_json else _why_blocked(client, matches)
        now = client.read("select now()", ())[0]
    if as_json:
        output.print_json([output.columns(t) for t in matches])
        return
    if not matches:
        output.notice("no tasks" if criteria == type(criteria)() else "no matching tasks")
        return
    output.table(COLUMNS, [_row(task, now, why) for task in matches])
    if len(matches) == limit:
        output.notice(f"showing the newest {limit}; use --limit for more")


def _why_blocked(client: "Client", matches: "list[TaskLine]") -> dict[str, str]:
    """For what the first blocked tasks wait, on one line each. A role that may not see it is told nothing."""
    import psycopg

    blocked = [task.task_id for task in matches if task.status == TaskState.BLOCKED][:EXPLAINED]
    try:
        return {one.task_id: one.why for one in client.blocked(blocked)}
    except psycopg.errors.InsufficientPrivilege:
        return {}


def _row(task: "TaskLine", now: datetime, why: Mapping[str, str]) -> tuple[object, ...]:
    about = task.task_description
    if task.question is not None:
        about = f"asks: {first_line(task.question)}"
    elif task.status == TaskState.PENDING and task.requires:
        about = f"requires {label_list(task.requires)}: {about}"
    elif task.task_id in why:
        about = f"{why[task.task_id]}: {about}"
    attempt = (task.retry_count or 0) + 1
    return (
        task.task_id,
        "cancelling" if task.cancel_requested_at and task.cancel_to == TaskState.CANCELLED else task.status,
        when(task, now),
        task.queue,
        task.task_type,
        f"{attempt}/{(task.max_retries or 0) + 1}" if task.retry_count else "",
        task.assigned_worker_id,
        about,
    )


def first_line(text: str) -> str:
    return next((line for line in map(str.strip, text.splitlines()) if line), "")


def when(task: "TaskLine", now: datetime) -> str:
    """How long it has had its status: 'for 3m10s', '2h05m ago', 'in 10m00s'."""
    if task.completed_at is not None:
        return f"{timestamps.duration(_since(task.completed_at, now))} ago"
    if task.status == TaskState.RUNNING:
        return f"for {timestamps.duration(_since(task.started_at, now))}"
    if task.status == TaskState.WAITING and task.asked_at is not None:
        return f"for {timestamps.duration(_since(task.asked_at, now))}"
    if task.status == TaskState.BLOCKED:
        return f"for {timestamps.duration(_since(task.created_at, now))}"
    waited = timestamps.seconds_between(task.run_after, now) or 0.0
    return f"in {timestamps.duration(-waited)}" if waited < 0 else f"for {timestamps.duration(waited)}"


def _since(moment: datetime | None, now: datetime) -> float | None:
    """Seconds, at least 0: a person, or a host whose clock is ahead, may have written a moment that is still to come."""
    seconds = timestamps.seconds_between(moment, now)
    return None if seconds is None else max(0.0, seconds)
