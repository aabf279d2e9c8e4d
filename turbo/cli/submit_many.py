"""`turbo submit --file tasks.jsonl`: checked as a whole, then inserted in batches, one transaction each.

every line checked ──one is bad──▶ nothing inserted, the bad lines named, exit 2
      └──all good──▶ batch, batch, … ──the database rejects a row──▶ its batch is rolled back, the line named, exit 1;
                                                                      the message shows which lines are in
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from turbo.cli import output
from turbo.cli.options import connect
from turbo.cli.task_file import BadTaskFileLine, TaskFile, TaskFileLine
from turbo.client.timestamps import BadTimestamp, TimestampReader
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Client

BAD_LINES_SHOWN = 10


@dataclass(slots=True)
class Sent:
    """What is in the database so far. `next_line`: the first line of the batch in progress."""

    next_line: int = 0
    last_line: int = 0
    created: int = 0
    task_ids: list[str] = field(default_factory=list)


def submit_many(
    file: Path | None,
    form: str,
    defaults: Mapping[str, Any],
    *,
    batch: int,
    from_line: int,
    wait: bool,
    as_json: bool,
    dsn: str | None,
) -> None:
    """Insert the tasks of a file. Prints their ids, one per line, into a pipe; a summary at a terminal."""
    path = file or Path("-")
    try:
        source = TaskFile(path, form, defaults)
    except OSError as error:
        raise typer.BadParameter(f"--file {path}: {error.strerror}") from None
    with source, connect(dsn) as client:
        reader = TimestampReader(client)
        total = _judge(source, reader, from_line)
        sent = Sent()
        with _bar(total) as advance:
            for lines in _batches(source, reader, from_line, batch):
                _insert(client, lines, sent, path)
                if not as_json and not output.at_terminal():
                    output.print_ids(sent.task_ids[-len(lines) :])
                advance(len(lines))
        existing = len(sent.task_ids) - sent.created
        if as_json and not wait:
            output.print_json({"created": sent.created, "existing": existing, "task_ids": sent.task_ids})
        elif not as_json:
            output.notice(
                f"{output.many(sent.created, 'task')} inserted"
                + (f"; {existing} already existed (same idempotency key)" if existing else "")
            )
        if wait and sent.task_ids:
            _wait(client, sent, existing, as_json)


def _judge(source: TaskFile, reader: TimestampReader, from_line: int) -> int:
    """The number of tasks. Exits 2 if a line is bad, after naming the first bad lines; nothing is inserted then."""
    good, bad = 0, 0
    for line in _lines(source, reader, from_line):
        if isinstance(line, TaskFileLine):
            good += 1
            continue
        bad += 1
        if bad <= BAD_LINES_SHOWN:
            output.notice(str(line))
    if bad:
        more = f" ({bad - BAD_LINES_SHOWN} more are not shown)" if bad > BAD_LINES_SHOWN else ""
        output.notice(f"turbo submit: {bad} bad line{'s' if bad > 1 else ''}{more}; nothing was inserted")
        raise typer.Exit(2)
    if not good:
        output.notice("turbo submit: the file has no tasks; nothing was inserted")
        raise typer.Exit(2)
    return good


def _lines(source: TaskFile, reader: TimestampReader, from_line: int) -> Iterator[TaskFileLine | BadTaskFileLine]:
    for line in source.lines(from_line):
        if isinstance(line, TaskFileLine) and isinstance(line.task.run_after, str):
            try:
                yield TaskFileLine(line.number, replace(line.task, run_after=reader.after(line.task.run_after)))
            except BadTimestamp as error:
                yield BadTaskFileLine(
                    line.number, f"column run_after: {str(error)!r} {error.why}: write 10m or 2026-12-01T09:00"
                )
        else:
            yield line


def _batches(source: TaskFile, reader: TimestampReader, from_line: int, size: int) -> Iterator[list[TaskFileLine]]:
    good = (line for line in _lines(source, reader, from_line) if isinstance(line, TaskFileLine))
    while some := list(islice(good, size)):
        yield some


def _insert(client: "Client", lines: list[TaskFileLine], sent: Sent, path: Path) -> None:
    """Insert one batch in one transaction. On failure, print which lines are in and exit 1."""
    import psycopg

    from turbo import db
    from turbo.client.rejection import why_rejected
    from turbo.observability.log import scrub

    sent.next_line = lines[0].number
    try:
        submitted = client.submit_many([line.task for line in lines])
    except KeyboardInterrupt:
        _stopped("interrupted", sent, lines, path, doubt=True)
    except psycopg.OperationalError as error:
        _stopped(f"the database is away: {scrub(db.why_unreachable(error))}", sent, lines, path, doubt=True)
    except psycopg.Error as error:
        culprit = client.refused([line.task for line in lines])
        number, error = culprit or (None, error)
        where = f"line {lines[number].number}" if number is not None else f"lines {_span(lines)}"
        _stopped(f"{where}: the database rejected it: {why_rejected(error)}", sent, lines, path, doubt=False)
    sent.task_ids += [task.task_id for task in submitted]
    sent.created += sum(task.created for task in submitted)
    sent.last_line = lines[-1].number


def _stopped(why: str, sent: Sent, lines: list[TaskFileLine], path: Path, *, doubt: bool) -> NoReturn:
    output.notice(f"turbo submit: {why}")
    inserted = (
        f"{output.many(len(sent.task_ids), 'task')}, up to line {sent.last_line}, inserted"
        if sent.task_ids
        else "nothing was inserted"
    )
    rest = (
        f"it is not known whether lines {_span(lines)} were inserted"
        if doubt
        else f"nothing from line {sent.next_line} on"
    )
    again = "" if str(path) == "-" else f" --file {path}"
    output.notice(
        f"{inserted}; {rest}. To continue: turbo submit{again} --from-line {sent.next_line}"
        if sent.task_ids or doubt
        else inserted
    )
    raise typer.Exit(130 if why == "interrupted" else 1)


def _span(lines: list[TaskFileLine]) -> str:
    first, last = lines[0].number, lines[-1].number
    return str(first) if first == last else f"{first} to {last}"


def _wait(client: "Client", sent: Sent, existing: int, as_json: bool) -> None:
    from turbo.cli.follow import follow

    ended = follow(client, sent.task_ids)
    if as_json:
        ends = {state: ended[state] for state in sorted(ended)}
        output.print_json({"created": sent.created, "existing": existing, "ended": ends, "task_ids": sent.task_ids})
    else:
        output.notice(", ".join(f"{count} {state}" for state, count in sorted(ended.items())))
    if set(ended) != {TaskState.COMPLETED}:
        raise typer.Exit(1)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("inserting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        bar = progress.add_task("inserting", total=total)
        yield lambda count: progress.advance(bar, count)
