"""`turbo logs`: what a task's agent says and does, or what its program prints, from any host.

    the executor keeps transcripts ──▶ the conversation, from the database, on every host (agent_transcripts)
    it keeps none, or --local      ──▶ the full log: a file in the state directory of the worker that ran the task
    neither is here                ──▶ the last line of a running task, from the database (agent_progress)

Standard error names the source; standard output has what the agent or the program said, and nothing else. During an outage of the
database the log continues.
"""

import codecs
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, run_log
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.cli.transcript_view import TranscriptView
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Client, RunView
    from turbo.client.transcript import TranscriptBell

ASK_SECONDS = 1.0
"""Between two queries: the database has a new line once a second at most."""

READ_SECONDS = 0.2
GRACE_SECONDS = 1.0
LAST_SECONDS = 3.0


def logs(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the task is finished.")] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="The worker's state directory. [default: as in TURBO_CONFIG, else ~/.local/state/turbo]"),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The lines of the transcript as they are stored.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="The full log of this host, not the transcript in the database.")
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show what a task's agent or program says.

    From any host this is the conversation, where the executor keeps transcripts. Otherwise it is the full log on the host that ran
    the task, and the last line of a running task on other hosts.

    \b
    Examples:
      turbo logs my_task_1
      turbo logs t_9f3 -f
      turbo logs t_9f3 --raw | jq .
    """
    from turbo.host.state_dir import files_of, logs_of

    if follow and as_json:
        raise typer.BadParameter("--json prints what there is now: remove --follow")
    if raw and (local or as_json):
        raise typer.BadParameter(f"--raw prints the transcript: remove {'--local' if local else '--json'}")
    root = run_log.state_dir(state_dir)
    with connect(dsn) as client:
        run = client.run(client.resolve(task_id))
        here = logs_of(files_of(root, client.database_id()), run.task_id)
        view = None if local else TranscriptView(client, run.task_id, raw=raw)
        if follow:
            with client.transcript_bell(run.task_id) as bell:
                _follow(client, run, here, view, bell)
        elif as_json:
            _print_json(run, here)
        elif view is not None and view.more():
            _notice(run_log.from_database(run))
        elif raw and view is not None:
            _notice(f"{run.task_id} has no transcript{f': {view.refused}' if view.refused else ''}")
            raise typer.Exit(1)
        else:
            _show(run, here)


# ── once ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(run: "RunView", here: Path) -> None:
    file = run_log.log_file(run, here)
    if file is not None:
        _Log(file, here).copy()
    elif run.line is not None:
        _notice(run_log.only_progress(run))
        output.echo(run_log.progress_line(run))
    else:
        _notice(f"{run.task_id} is {run.status}: {run_log.nothing(run)}")
        raise typer.Exit(1)


def _print_json(run: "RunView", here: Path) -> None:
    file = run_log.log_file(run, here)
    source = "log" if file is not None else "progress" if run.line is not None else None
    text = run.line
    if file is not None:
        with run_log.open_log(file, here) as opened:
            reader = run_log.LogReader(opened)
            text = b"".join(iter(reader.more, b"")).decode("utf-8", "replace")
    output.print_json({**asdict(run), "source": source, "file": None if file is None else str(file), "text": text})


# ── following ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _follow(client: "Client", run: "RunView", here: Path, view: TranscriptView | None, bell: "TranscriptBell") -> None:
    """Until the task is finished. Later attempts are followed too, wherever they run.

    A run that keeps a transcript is followed there; one that does not, in its file. A file is there first: it is only opened when no
    transcript has begun within GRACE_SECONDS."""
    log: _Log | None = None
    began: dict[int | None, float] = {}
    last_notice = last_line = ""
    last_asked: datetime | None = None
    asks = _Asks(client)
    while True:
        _told(view, run)
        path = run_log.log_file(run, here)
        waits = False
        if view is not None and view.refused is None and path is not None:
            since = began.setdefault(run.fencing_token, time.monotonic())
            begun = view.has_run(run.fencing_token) or (view.begun and run.finished)
            waits = not begun and not run.finished and time.monotonic() - since < GRACE_SECONDS
            if begun or waits:
                path = None
        if path is not None and (log is None or log.path != path):
            if log is not None:
                log.copy()
            log = _Log(path, here)
        shown = waits or (view is not None and view.begun)
        if not shown and (log is None or (run.status == TaskState.RUNNING and path is None)):
            notice = (
                run_log.only_progress(run)
                if run.line is not None
                else f"{run.task_id} is {run.status}: {run_log.nothing(run)}"
            )
            if notice != last_notice:
                _notice(notice)
                last_notice = notice
            if run.line is not None and run_log.progress_line(run, clock=False) != last_line:
                last_line = run_log.progress_line(run, clock=False)
                output.echo(run_log.progress_line(run))
        if run.asked_at is not None and run.asked_at != last_asked:
            last_asked = run.asked_at
            if log is not None:
                log.copy()
                _notice(f"{run.task_id} {run_log.asks(run)}")
        until = time.monotonic() + (READ_SECONDS if waits else ASK_SECONDS)
        while True:
            if log is not None:
                log.copy()
            if run.finished or time.monotonic() >= until:
                break
            if bell.deaf:
                time.sleep(READ_SECONDS)
            elif bell.wait(READ_SECONDS if log is not None else until - time.monotonic()):
                break
        if run.finished:
            _last_lines(view, run)
            _notice(run_log.ending(run))
            return
        run = asks.again(run)


def _told(view: TranscriptView | None, run: "RunView") -> None:
    """Print what is new in the transcript; while the database is away, there is nothing new."""
    import psycopg

    from turbo import db

    if view is None or view.refused is not None:
        return
    begun = view.begun
    try:
        view.more()
    except psycopg.Error as error:
        if not db.is_transient(error):
            raise
    if view.begun and not begun:
        _notice(run_log.from_database(run))


def _last_lines(view: TranscriptView | None, run: "RunView") -> None:
    """The last lines of a run come a moment after its result."""
    if view is None or not view.begun:
        return
    until = time.monotonic() + LAST_SECONDS
    while not view.ended and time.monotonic() < until:
        time.sleep(READ_SECONDS)
        _told(view, run)


class _Asks:
    """The state of the run; while the database is away, the last known state."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._away = False

    def again(self, run: "RunView") -> "RunView":
        import psycopg

        from turbo import db
        from turbo.observability.log import scrub

        try:
            run = self._client.run(run.task_id)
        except psycopg.Error as error:
            if not db.is_transient(error):
                raise
            if not self._away:
                _notice(f"the database is away, waiting: {scrub(db.why_unreachable(error))}")
            self._away = True
            self._client.close()  # the next query opens another connection
        else:
            if self._away:
                _notice("the database is back")
            self._away = False
        return run


class _Log:
    """A log file that may still grow. Prints its heading when opened."""

    def __init__(self, path: Path, here: Path) -> None:
        self.path = path
        self._reader = run_log.LogReader(run_log.open_log(path, here))
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        _notice(run_log.full_log(path))

    def copy(self) -> None:
        """Print what was added since, MOST_BYTES of it all. A terminal gets it without control characters, a pipe gets it
        unchanged, but for holes."""
        while chunk := self._reader.more():
            if sys.stdout.isatty():
                sys.stdout.write(run_log.without_runs_of_nul(self._decode(chunk)))
            else:
                sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


def _notice(text: str) -> None:
    output.echo_lines(output.indented(text, 4), err=True)
