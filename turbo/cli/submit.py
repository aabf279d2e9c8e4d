"""`turbo submit`: one task from the command line, or many from a file."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbo.cli import output, timestamps
from turbo.cli.options import (
    LOCK_SECONDS,
    ContinuesOption,
    Dsn,
    Json,
    NeedsOption,
    ParentOption,
    RequiresOption,
    connect,
)
from turbo.client.rejection import why_rejected
from turbo.client.timestamps import TimestampReader
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Client, NewTask

BATCH = 500


def submit(
    text: Annotated[
        str | None, typer.Argument(help="What the agent should do; - reads standard input.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read the text from a file. A .jsonl or .csv file holds many tasks, one per line; - is stdin.",
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="text, jsonl or csv. [default: by the file's suffix]")
    ] = None,
    task_type: Annotated[
        str | None,
        typer.Option("--type", "-t", help="Task type; the worker's routes map it to an executor. [default: default]"),
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The queue. [default: default]")] = None,
    priority: Annotated[int | None, typer.Option("--priority", "-p", help="Higher runs first. [default: 5]")] = None,
    after: Annotated[
        str | None, typer.Option(help="Run no earlier than: 10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="Task id. [default: generated]")] = None,
    input_data: Annotated[str | None, typer.Option("--input", help="input_data, as JSON.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds that one run may take. [default: 300]")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Retries after the first attempt. [default: 3]")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Submitting the same key twice creates one task.")] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(help="At most one task per key runs at a time (turbo limit).")
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Hold the task until a person releases it: turbo approve ID.")
    ] = False,
    needs: NeedsOption = None,
    on_needs_failed: Annotated[
        str | None,
        typer.Option(help="If one of them does not complete: cancel this task, run it, or wait. [default: cancel]"),
    ] = None,
    continues: ContinuesOption = None,
    parent: ParentOption = None,
    requires: RequiresOption = None,
    traceparent: Annotated[
        str | None,
        typer.Option(
            help="The trace that the task belongs to, in the W3C form. [default: TRACEPARENT]", show_default=False
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait for the task to end and print its result; exit 1 unless it completed. Questions are shown.",
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="For many tasks: tasks per transaction.")] = BATCH,
    from_line: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="For many tasks: skip the lines before this one.")
    ] = 1,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Insert a task and print its id, or many tasks from a file.

    \b
    Examples:
      turbo submit "Review src/auth.py" --type review --priority 8 --wait
      git diff | turbo submit - --after 10m
      turbo submit --file tasks.jsonl --queue night
      turbo submit "Deploy release 7" --hold
      turbo submit "Review it" --needs plan,build
      turbo submit "Sign the app" --requires os=macos,xcode=16

    Each line of a JSONL file is an object with the columns of agent_tasks (task_description, task_type, input_data, …) or
    their short names (text, type, input, …). A line may also be a string: the text alone. The first line of a CSV file
    names the columns; input.path sets a key of input_data. With hold: true, a task waits for its release. needs is a list of
    ids, of tasks in earlier lines too; in CSV they are comma-separated. requires is an object of labels; in CSV it is
    written as in --requires. Options fill in what a line leaves out. Every line
    is checked before the first task is inserted.
    """
    from turbo.client.client import BadField
    from turbo.client.new_task import required

    try:
        labels = None if requires is None else required([word for part in requires for word in part.split(",")])
    except BadField as error:
        raise typer.BadParameter(f"--{error}") from None
    defaults: dict[str, Any] = {
        "task_type": task_type,
        "queue": queue,
        "task_priority": priority,
        "run_after": after,
        "input_data": parsed(input_data),
        "timeout_seconds": timeout,
        "max_retries": max_retries,
        "idempotency_key": idempotency_key,
        "concurrency_key": concurrency_key,
        "hold": hold or None,
        "task_id": task_id,
        "needs": _ids(needs),
        "on_needs_failed": on_needs_failed,
        "continues": continues,
        "parent_task_id": parent,
        "requires": labels,
        "traceparent": _traceparent(traceparent),
    }
    if (text is None) == (file is None):
        raise typer.BadParameter("give either the text or --file FILE")
    form = _form(form, file)
    if form == "text":
        if on_needs_failed is not None and needs is None:
            raise typer.BadParameter("--on-needs-failed is for a task with --needs")
        if from_line != 1:
            raise typer.BadParameter("--from-line needs a .jsonl or .csv file")
        try:
            _submit_one(read_text(text, file), defaults, wait, as_json, dsn)
        except BadField as error:
            raise typer.BadParameter(str(error)) from None
    else:
        from turbo.cli.submit_many import submit_many

        for name, value in (("--id", task_id), ("--idempotency-key", idempotency_key)):
            if value is not None:
                raise typer.BadParameter(f"{name} would be the same for every line: put it in the file")
        submit_many(file, form, defaults, batch=batch, from_line=from_line, wait=wait, as_json=as_json, dsn=dsn)


def _traceparent(given: str | None) -> str | None:
    """That of the option, or of the environment, where another form counts as none. Raises BadParameter."""
    from turbo.domain.trace import parse_traceparent

    if given is not None and parse_traceparent(given) is None:
        raise typer.BadParameter(
            "--traceparent: must be 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, as TRACEPARENT has it"
        )
    return given if given is not None else os.environ.get("TRACEPARENT")


def _ids(given: list[str] | None) -> list[str] | None:
    """The ids in --needs, as they are: an empty one is refused later. An id with a comma needs a JSONL file."""
    return None if given is None else [word.strip() for part in given for word in part.split(",")]


def _form(form: str | None, file: Path | None) -> str:
    if form is None:
        suffix = file.suffix.lower() if file is not None else ""
        return {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}.get(suffix, "text")
    if form not in ("text", "jsonl", "csv"):
        raise typer.BadParameter(f"--format {form!r}: must be text, jsonl or csv")
    if form != "text" and file is None:
        raise typer.BadParameter(f"--format {form} needs --file FILE; --file - reads standard input")
    return form


def parsed(text: str | None) -> object:
    """The value of --input. Raises BadParameter."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--input is not JSON: {error}") from None


def read_text(text: str | None, file: Path | None) -> str:
    """The text of a single task, from an argument, standard input or a file. Raises BadParameter."""
    where = "standard input" if file is None or str(file) == "-" else str(file)
    try:
        if where == "standard input":
            return sys.stdin.buffer.read().decode() if text == "-" or file is not None else str(text)
        return Path(where).read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"--file {where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{where} is not UTF-8 text") from None


def _submit_one(text: str, values: dict[str, Any], wait: bool, as_json: bool, dsn: str | None) -> None:
    from turbo.client.new_task import new_task

    task = new_task({"task_description": text, **values})  # checked before the database is asked
    with connect(dsn) as client:
        if isinstance(task.run_after, str):
            values["run_after"] = timestamps.option(TimestampReader(client), "--after", task.run_after)
            task = new_task({"task_description": text, **values})
        task_id, created = insert(client, task, dsn)
        if created and task.requires and (place := client.place(task_id)) is not None and place.nowhere is not None:
            output.notice(f"{task_id} waits: {place.nowhere}")
        hand_over(client, task_id, created, wait=wait, as_json=as_json)


def hand_over(client: "Client", task_id: str, created: bool, *, wait: bool, as_json: bool) -> None:
    """Print the id of a task that was inserted; or wait for its end and print the result. Exits 1 unless it completed."""
    if not created:
        output.notice(f"this idempotency key already has a task: {task_id}")
    if not wait:
        try:
            output.print_json({"task_id": task_id, "created": created}) if as_json else output.print_ids([task_id])
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:  # a caller that sees exit code 1 must not submit it again
            raise OSError(f"task {task_id} was inserted; its id could not be printed: {error.strerror}") from None
        return
    from turbo.cli.follow import follow

    if not as_json:
        output.notice(task_id)
    follow(client, [task_id])
    result = client.get(task_id)
    output.print_json(output.columns(result)) if as_json else _print_result(result)
    if result.status != TaskState.COMPLETED:
        raise typer.Exit(1)


def insert(client: "Client", task: "NewTask", dsn: str | None) -> tuple[str, bool]:
    """Insert one task. Raises BadParameter if the database rejects it; exits 1 if the id is taken."""
    import psycopg

    from turbo.migrate.blockers import LockWatcher, describe

    watcher = LockWatcher(dsn or "", client.backend_pid, LOCK_SECONDS, lambda _blockers: None)
    try:
        with watcher.watching():
            submitted = client.submit_many([task])[0]
    except psycopg.errors.LockNotAvailable:
        output.notice(
            "turbo submit: another transaction that is not finished has inserted this id or idempotency key; nothing was "
            f"inserted after {LOCK_SECONDS:g} s: {describe(watcher.seen)}"
        )
        raise typer.Exit(1) from None
    except psycopg.errors.UniqueViolation as error:
        output.notice(f"turbo submit: {why_rejected(error)}")
        raise typer.Exit(1) from None
    except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation, psycopg.errors.ObjectNotInPrerequisiteState,
            psycopg.DataError) as error:  # fmt: skip
        raise typer.BadParameter(why_rejected(error)) from None
    finally:
        watcher.close()
    return submitted.task_id, submitted.created


def _print_result(task: Any) -> None:
    data = task.output_data
    result = data.get("output") if isinstance(data, dict) else data
    if task.status == TaskState.COMPLETED:
        if result is None:
            return
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        output.print_unchanged(text)
    else:
        kind = f" ({task.failure_kind})" if task.failure_kind else ""
        output.notice(f"{task.task_id}: {task.status}{kind}{f': {task.error_message}' if task.error_message else ''}")
