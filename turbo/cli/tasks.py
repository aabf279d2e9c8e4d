"""The commands about tasks: submit, tasks, show, cancel, retry, pause, resume. Plain text, or JSON with --json."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbo.cli.options import Dsn, Json

if TYPE_CHECKING:
    from turbo.client import Changed, Client, TaskRow


def _client(dsn: str | None) -> "Client":
    from turbo.client import Client

    return Client(dsn or "")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, default=str, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def submit(
    text: Annotated[str, typer.Argument(help="What the agent is to do; - reads it from standard input.")],
    task_type: Annotated[
        str | None, typer.Option("--type", "-t", help="Routed to an executor by the worker's configuration.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    priority: Annotated[int | None, typer.Option("--priority", "-p", help="Higher goes first; 5 unless said.")] = None,
    after: Annotated[
        str | None, typer.Option(help="Not before: a moment PostgreSQL reads, as 'tomorrow 06:00' or '+2 hours'.")
    ] = None,
    input_data: Annotated[str | None, typer.Option("--input", help="input_data, as JSON.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds one run may take.")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Tries after the first.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Submitted twice, it is one task.")] = None,
    concurrency_key: Annotated[str | None, typer.Option(help="At most one running task per key.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit 1 unless it completed.")] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Insert a task and print its id.

    Example: turbo submit "Review src/auth.py" --type review --priority 8 --wait
    """
    import psycopg

    body = sys.stdin.read() if text == "-" else text
    if "\0" in body:
        raise typer.BadParameter("the text holds a NUL character, which PostgreSQL cannot store: remove it")
    data = None
    if input_data is not None:
        try:
            data = json.loads(input_data)
        except ValueError as error:
            raise typer.BadParameter(f"--input is not JSON: {error}") from None
    with _client(dsn) as client:
        try:
            task_id, created = client.submit(
                body,
                task_type=task_type,
                queue=queue,
                priority=priority,
                run_after=_moment(client, after),
                input_data=data,
                timeout_seconds=timeout,
                max_retries=max_retries,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
            )
        except (psycopg.errors.CheckViolation, psycopg.DataError) as error:
            hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
            raise typer.BadParameter(f"{error.diag.message_primary or error}.{hint}") from None
        if not created:
            typer.echo(f"this idempotency key has a task already: {task_id}", err=True)
        if not wait:
            _print_json({"task_id": task_id, "created": created}) if as_json else typer.echo(task_id)
            return
        if not as_json:
            typer.echo(task_id, err=True)
        task = client.wait(task_id)
        if as_json:
            _print_json(asdict(task))
        else:
            _print_result(task)
        if task.status != "completed":
            raise typer.Exit(1)


def _moment(client: "Client", after: str | None) -> datetime | None:
    """'+2 hours' and '2 hours' are from now, anything else a moment; both read by PostgreSQL, on its clock."""
    import psycopg

    if after is None:
        return None
    for reading in ("select now() + %s::interval", "select %s::timestamptz"):
        try:
            row = client.read(reading, [after])
        except psycopg.DataError:
            continue
        if isinstance(row[0], datetime):
            return row[0]
    raise typer.BadParameter(
        f"--after {after!r} is not a moment: write '+30 minutes', 'tomorrow 06:00' or '2026-12-01 09:00'"
    )


def _print_result(task: "TaskRow") -> None:
    output = (task.output_data or {}).get("output") if isinstance(task.output_data, dict) else task.output_data
    if task.status == "completed":
        typer.echo(output if isinstance(output, str) else json.dumps(output, ensure_ascii=False))
    else:
        typer.echo(
            f"{task.status}{f' ({task.failure_kind})' if task.failure_kind else ''}: {task.error_message or ''}",
            err=True,
        )


def tasks(
    status: Annotated[
        str | None, typer.Option("--status", "-s", help="scheduled, pending, running, completed, failed, cancelled.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 50,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List tasks, the newest first."""
    from turbo.states import TaskState

    if status is not None and status not in {s.value for s in TaskState}:
        raise typer.BadParameter(f"--status {status!r}: one of {', '.join(s.value for s in TaskState)}")
    with _client(dsn) as client:
        found = client.tasks(status=status, queue=queue, limit=limit)
    if as_json:
        _print_json([asdict(t) for t in found])
        return
    rows = [
        (
            t.task_id,
            t.status,
            t.queue,
            t.task_type or "",
            _clock(t.created_at),
            t.assigned_worker_id or "",
            t.task_description,
        )
        for t in found
    ]
    _table(("TASK", "STATUS", "QUEUE", "TYPE", "CREATED", "WORKER", "DESCRIPTION"), rows)
    if not rows:
        typer.echo("no tasks", err=True)


def show(
    task_id: Annotated[str, typer.Argument()],
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show one task whole, with its trail."""
    from turbo.client import UnknownTask

    with _client(dsn) as client:
        try:
            task = client.get(task_id)
        except UnknownTask as error:
            typer.echo(f"turbo show: {error}; `turbo tasks` lists them", err=True)
            raise typer.Exit(1) from None
        trail = client.trail(task_id)
    if as_json:
        _print_json({**asdict(task), "trail": [asdict(a) for a in trail]})
        return
    for name, value in asdict(task).items():
        if value is not None and not (name == "infra_count" and value == 0):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
            typer.echo(f"{name:20}{text}")
    typer.echo("\ntrail")
    for a in trail:
        change = f"{a.from_status} → {a.to_status}" if a.from_status != a.to_status else a.to_status or ""
        detail = json.dumps(a.detail, ensure_ascii=False) if a.detail else ""
        typer.echo(f"  {_clock(a.executed_at)}  {a.action_type:11} {change:24} {a.actor or '':30} {detail}".rstrip())


TaskIds = Annotated[list[str], typer.Argument(help="One or more task ids.")]


def cancel(task_ids: TaskIds, as_json: Json = False, dsn: Dsn = None) -> None:
    """Cancel tasks. A running one is cancelled once its agent has ended."""
    with _client(dsn) as client:
        changed = client.cancel(task_ids)
        said = {c.task_id: "its agent is being stopped" if c.status == "running" else c.status for c in changed}
        _report(client, task_ids, changed, said, "nothing to cancel", as_json)


def retry(task_ids: TaskIds, as_json: Json = False, dsn: Dsn = None) -> None:
    """Run finished tasks again, from their first try."""
    with _client(dsn) as client:
        changed = client.retry(task_ids)
        _report(client, task_ids, changed, {c.task_id: c.status for c in changed}, "not finished", as_json)


def _report(
    client: "Client",
    asked: Sequence[str],
    changed: "Sequence[Changed]",
    said: dict[str, str],
    otherwise: str,
    as_json: bool,
) -> None:
    """A line per id; exit 1 if one of them could not be changed."""
    from turbo.client import UnknownTask

    failed: dict[str, str] = {}
    for task_id in asked:
        if task_id not in said:
            try:
                failed[task_id] = f"it is {client.get(task_id).status}: {otherwise}"
            except UnknownTask:
                failed[task_id] = "no such task"
    if as_json:
        _print_json({"changed": [asdict(c) for c in changed], "refused": failed})
    else:
        for task_id, what in said.items():
            typer.echo(f"{task_id}: {what}")
        for task_id, why in failed.items():
            typer.echo(f"{task_id}: {why}", err=True)
    if failed:
        raise typer.Exit(1)


QueueOption = Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")]
AccountOption = Annotated[str | None, typer.Option("--account", "-a", help="The account, on every host.")]


def _one_of(queue: str | None, account: str | None) -> None:
    if (queue is None) == (account is None):
        raise typer.BadParameter("give either --queue or --account")


def pause(
    queue: QueueOption = None,
    account: AccountOption = None,
    reason: Annotated[str | None, typer.Option(help="Shown to whoever looks.")] = None,
    dsn: Dsn = None,
) -> None:
    """Claim nothing more of a queue, or for an account. What runs goes on."""
    _one_of(queue, account)
    _change(dsn, queue, account, pause=True, reason=reason)


def resume(queue: QueueOption = None, account: AccountOption = None, dsn: Dsn = None) -> None:
    """Claim again."""
    _one_of(queue, account)
    _change(dsn, queue, account, pause=False, reason=None)


def _change(dsn: str | None, queue: str | None, account: str | None, *, pause: bool, reason: str | None) -> None:
    import psycopg

    with _client(dsn) as client:
        try:
            if queue is not None:
                client.pause_queue(queue, reason) if pause else client.resume_queue(queue)
            elif account is not None:
                client.pause_account(account, reason) if pause else client.resume_account(account)
        except psycopg.errors.CheckViolation:
            raise typer.BadParameter(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -") from None
    typer.echo(f"{'paused' if pause else 'resumed'} {f'queue {queue}' if queue else f'account {account}'}")


def _clock(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns of plain text: as wide as they need, cut to the terminal where there is one."""
    import shutil

    if not rows:
        return
    cells = [[" ".join(str(c).split()) for c in row] for row in rows]
    widths = [max(len(h), *(len(row[i]) for row in cells)) for i, h in enumerate(heads)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in (list(heads), *cells):
        line = "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        typer.echo(line if limit is None or len(line) <= limit else line[: limit - 1] + "…")
