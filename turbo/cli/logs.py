"""`turbo logs`: what a task's program says, from any host.

The full log is a file in the state directory of the worker that ran it; there it is shown, and followed. Elsewhere the
database has the last line of a running task (agent_progress). Which of the two it is stands on standard error; what
the program said, and nothing else, on standard output.
"""

import codecs
import os
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli.options import Dsn, Json, TaskId

if TYPE_CHECKING:
    from turbo.client import Client, RunView

ASK_SECONDS = 1.0
"""Between two questions to the database: it has a new line once a second at most."""

READ_SECONDS = 0.2
CHUNK_BYTES = 256 * 1024


def logs(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is finished.")] = False,
    state_dir: Annotated[
        Path | None, typer.Option(help="The worker's state_dir; else that of TURBO_CONFIG, else the default one.")
    ] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show what a task's program says.

    Its log on the host that runs it, elsewhere its last line.

    \b
    Examples:
      turbo logs my_task_1
      turbo logs t_9f3 -f
    """
    from turbo.client import Client
    from turbo.statedir import logs_of

    if follow and as_json:
        raise typer.BadParameter("--json shows what is there now; leave out --follow")
    with Client(dsn or "") as client:
        run = client.run(client.resolve(task_id))
        here = logs_of(_state_dir(state_dir), run.task_id)
        if follow:
            _follow(client, run, here)
        elif as_json:
            _print_json(run, here)
        else:
            _show(run, here)


def _state_dir(given: Path | None) -> Path:
    from turbo.config import WorkerSection, load_worker_config

    if given is not None:
        return given.expanduser()
    config = os.environ.get("TURBO_CONFIG")
    section = load_worker_config(Path(config)).worker if config else WorkerSection()
    return Path(section.state_dir).expanduser()


def _file(run: "RunView", here: Path) -> Path | None:
    """The log of the task's latest run on this host: that of its token; of a task that waits or has ended elsewhere,
    the latest there is."""
    files = sorted(here.glob("*.log"), key=lambda path: path.stat().st_mtime)
    mine = [path for path in files if path.stem.endswith(f"-{run.fencing_token}")]
    return next(iter(mine or ([] if run.status == "running" else files[-1:])), None)


# ── once ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(run: "RunView", here: Path) -> None:
    file = _file(run, here)
    if file is not None:
        _Log(file).copy()
    elif run.line is not None:
        _say(_only_progress(run))
        typer.echo(_line(run))
    else:
        _say(f"{run.task_id} is {run.status}: {_nothing(run)}")
        raise typer.Exit(1)


def _print_json(run: "RunView", here: Path) -> None:
    import json

    file = _file(run, here)
    source = "log" if file is not None else "progress" if run.line is not None else None
    text = file.read_text("utf-8", "replace") if file is not None else run.line
    shown = {"source": source, "file": None if file is None else str(file), "text": text}
    typer.echo(json.dumps({**asdict(run), **shown}, ensure_ascii=False))


# ── following ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _follow(client: "Client", run: "RunView", here: Path) -> None:
    """Until the task is finished. A further try is followed too, wherever it runs."""
    log: _Log | None = None
    told = line = ""
    while True:
        found = _file(run, here)
        if found is not None and (log is None or log.path != found):
            if log is not None:
                log.copy()
            log = _Log(found)
        if log is None or (run.status == "running" and found is None):
            news = _only_progress(run) if run.line is not None else f"{run.task_id} is {run.status}: {_nothing(run)}"
            if news != told:
                _say(news)
                told = news
            if run.line is not None and _line(run, clock=False) != line:
                line = _line(run, clock=False)
                typer.echo(_line(run))
        until = time.monotonic() + ASK_SECONDS
        while True:
            if log is not None:
                log.copy()
            if run.finished or time.monotonic() >= until:
                break
            time.sleep(READ_SECONDS)
        if run.finished:
            _say(f"{run.task_id} is {run.status}{f': {run.error_message}' if run.error_message else ''}")
            return
        run = client.run(run.task_id)


class _Log:
    """A log file that may still grow. Its heading is said when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        _say(f"the full log of attempt {path.stem.partition('-')[0]}, on this host: {path}")

    def copy(self) -> None:
        """What has come since: as it is into a pipe; to a person without what could steer the terminal."""
        while chunk := self._file.read(CHUNK_BYTES):
            if sys.stdout.isatty():
                sys.stdout.write(_visible(self._decode(chunk)))
            else:
                sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _only_progress(run: "RunView") -> str:
    return (
        f"progress from the database, the last line once a second at most; the full log is on host {run.host}, in the "
        f"state directory of worker {run.worker_id}"
    )


def _nothing(run: "RunView") -> str:
    if run.status == "running":
        return f"worker {run.worker_id} on host {run.host} runs it, it has said nothing yet"
    if not run.finished:
        return "it has no log on this host, and waits to run"
    if run.log is not None:
        return f"no log of it on this host; worker {run.worker_id} wrote {run.log}"
    return "it left no log"


def _line(run: "RunView", *, clock: bool = True) -> str:
    tokens = f"  ({run.input_tokens:,} tokens in, {run.output_tokens:,} out)" if run.input_tokens else ""
    now = f"{datetime.now():%H:%M:%S}  " if clock else ""
    return f"{now}{_visible(run.line or '')}{tokens}"


def _say(text: str) -> None:
    typer.echo(_visible(text), err=True)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
