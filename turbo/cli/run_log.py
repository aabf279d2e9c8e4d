"""Where the output of a task's program can be read from this host, and how to describe it.

The full log is a file in the state directory of the worker that ran the task. On other hosts there is the last line of a
running task, from the database.
"""

import errno
import os
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from turbo.cli import asked, output
from turbo.domain.states import TaskState
from turbo.host.regular_file import open_regular

if TYPE_CHECKING:
    from turbo.client.client import RunView
    from turbo.config.worker import WorkerConfig

_OF_A_CHECK = re.compile(r"\.check\d+$")
"""See turbo.executors.checks.loop."""

_NULS = re.compile("\0{9,}")


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
    """The log of the task's latest run on this host: the one with its fencing token; that of its latest check, where it began with
    one. For a task that is waiting or ended on another host, the latest log here. `here`: turbo.host.state_dir.logs_of."""
    files = sorted(here.glob("*.log"), key=lambda path: path.lstat().st_mtime)
    runs = [path for path in files if not _OF_A_CHECK.search(path.stem)]
    mine = [path for path in runs if path.stem.endswith(f"-{run.fencing_token}")]
    checks = [path for path in files if f"-{run.fencing_token}.check" in path.stem]
    return next(iter(mine or checks[-1:] or ([] if run.status == TaskState.RUNNING else runs[-1:])), None)


def open_log(path: Path, here: Path) -> BinaryIO:
    """A log of the directory `here`. Raises OSError for a link, a FIFO, and a file of another user's than the state directory's.

    An agent may have put it there, and the person who reads it may be root.
    """
    return os.fdopen(open_regular(path, below=here.parent.parent), "rb")


MOST_BYTES = 64 * 1024 * 1024
"""More than a worker writes into a log (turbo.process.attempt_log). A program may have made a file of any size of it."""

HOLE_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024


class LogReader:
    """Reads a log that may still grow, in pieces. In place of a hole, and of what is beyond MOST_BYTES, it gives a note."""

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        """`start`: in bytes."""
        self._file = file
        self._at = start
        self._left = MOST_BYTES

    def more(self) -> bytes:
        """The next piece, at most CHUNK_BYTES and a note; nothing at the end, for now. Raises OSError."""
        if self._left <= 0:
            return b""
        descriptor = self._file.fileno()
        note = b""
        data = _next_data(descriptor, self._at)
        if data - self._at >= HOLE_BYTES:
            note = b"\n[turbo] %d bytes without content are left out here\n" % (data - self._at)
            self._at = data
        chunk = os.pread(descriptor, min(_extent(descriptor, self._at), CHUNK_BYTES, self._left), self._at)
        self._at += len(chunk)
        self._left -= len(chunk) + len(note)
        if self._left <= 0:
            chunk += b"\n[turbo] the file is larger than a log of turbo's: the rest is not shown\n"
        return note + chunk


def _next_data(descriptor: int, start: int) -> int:
    """Where a hole that begins at `start` ends; `start` itself if there is none, or the file system cannot tell."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        size = os.fstat(descriptor).st_size
        return max(start, size) if error.errno == errno.ENXIO else start


def _extent(descriptor: int, start: int) -> int:
    """Bytes from `start` to the next hole; CHUNK_BYTES if there is none, or nobody can tell."""
    try:
        return os.lseek(descriptor, start, os.SEEK_HOLE) - start or CHUNK_BYTES
    except OSError:
        return CHUNK_BYTES


def without_runs_of_nul(text: str) -> str:
    """For a terminal, where each of them takes four characters."""
    return _NULS.sub(lambda run: f"[turbo: {len(run[0])} NUL characters]", text)


def full_log(path: Path) -> str:
    return f"the full log of attempt {path.stem.partition('-')[0]}, on this host: {path}"


def from_database(run: "RunView") -> str:
    return f"the conversation of {run.task_id}, from the database; --raw shows all of it, --local the log of this host"


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
