"""Where the output of a task's program can be read from this host, and how to describe it.

The full log is a file in the state directory of the worker that ran the task. On other hosts there is the last line of a
running task, from the database.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from turbo.cli import asked, output
from turbo.domain.states import TaskState
from turbo.host.regular_file import open_regular

if TYPE_CHECKING:
    from turbo.client.client import RunView
    from turbo.config.worker import WorkerConfig


def configuration(given: Path | None = None) -> "WorkerConfig | None":
    """The worker's configuration: as given, else as in TURBO_CONFIG, else none. Raises ConfigError."""
    from turbo.config.worker import load_worker_config

    named = os.environ.get("TURBO_CONFIG")
    path = given or (Path(named) if named else None)
    return load_worker_config(path) if path is not None else None


def state_dir(given: Path | None, config: Path | None = None) -> Path:
    """The worker's state directory: as given, else as in its `configuration`, else the default. Raises ConfigError."""
    from turbo.config.worker import WorkerSection

    if given is not None:
        return given.expanduser()
    found = configuration(config)
    return Path((found.worker if found is not None else WorkerSection()).state_dir).expanduser()


def log_file(run: "RunView", here: Path) -> Path | None:
    """The log of the task's latest run on this host: the one with its fencing token. For a task that is waiting or ended on
    another host, the latest log here. `here`: turbo.host.state_dir.logs_of."""
    files = sorted(here.glob("*.log"), key=lambda path: path.lstat().st_mtime)
    mine = [path for path in files if path.stem.endswith(f"-{run.fencing_token}")]
    return next(iter(mine or ([] if run.status == TaskState.RUNNING else files[-1:])), None)


def open_log(path: Path, here: Path) -> BinaryIO:
    """A log of the directory `here`. Raises OSError for a link, a FIFO, and a file of another user's than the state directory's.

    An agent may have put it there, and the person who reads it may be root.
    """
    return os.fdopen(open_regular(path, below=here.parent.parent), "rb")


def full_log(path: Path) -> str:
    return f"the full log of attempt {path.stem.partition('-')[0]}, on this host: {path}"


def only_progress(run: "RunView") -> str:
    return (
        f"last line from the database, at most once a second; the full log is on host {run.host}, in the "
        f"state directory of worker {run.worker_id}"
    )


def nothing(run: "RunView") -> str:
    """Why there is nothing to show."""
    if run.status == TaskState.RUNNING:
        return f"worker {run.worker_id} on host {run.host} runs it; no output yet"
    if run.question is not None:
        return f"no log on this host; it {asks(run)}"
    if not run.finished:
        return "no log on this host; it waits to run"
    if run.log is not None:
        return (
            f"no log in this state directory; worker {run.worker_id} wrote {run.log} on host {run.host}: "
            "run turbo logs there, with its --state-dir"
        )
    return "it has no log"


def asks(run: "RunView") -> str:
    """For a task that waits for a person."""
    return f"waits for a person: {output.one_line(run.question)} ({asked.command(run.task_id, run.kind)})"


def progress_line(run: "RunView", *, clock: bool = True) -> str:
    tokens = f"  ({run.input_tokens:,} tokens in, {run.output_tokens:,} out)" if run.input_tokens else ""
    now = f"{datetime.now():%H:%M:%S}  " if clock else ""
    return f"{now}{output.visible(run.line or '')}{tokens}"


def ending(run: "RunView") -> str:
    if run.question is not None:
        return f"{run.task_id} {asks(run)}"
    return f"{run.task_id} is {run.status}{f': {run.error_message}' if run.error_message else ''}"
