"""Where what a task's program says can be read from this host, and how that is put into words.

The full log is a file in the state directory of the worker that ran it; elsewhere there is the last line of a running
task, from the database.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from turbo.cli import output

if TYPE_CHECKING:
    from turbo.client.client import RunView


def state_dir(given: Path | None) -> Path:
    """The worker's: as given, else that of TURBO_CONFIG, else the default one. Raises ConfigError."""
    from turbo.config.worker import WorkerSection, load_worker_config

    if given is not None:
        return given.expanduser()
    config = os.environ.get("TURBO_CONFIG")
    section = load_worker_config(Path(config)).worker if config else WorkerSection()
    return Path(section.state_dir).expanduser()


def log_file(run: "RunView", here: Path) -> Path | None:
    """The log of the task's latest run on this host: that of its token; of a task that waits or has ended elsewhere,
    the latest there is. `here`: turbo.host.state_dir.logs_of."""
    files = sorted(here.glob("*.log"), key=lambda path: path.stat().st_mtime)
    mine = [path for path in files if path.stem.endswith(f"-{run.fencing_token}")]
    return next(iter(mine or ([] if run.status == "running" else files[-1:])), None)


def full_log(path: Path) -> str:
    return f"the full log of attempt {path.stem.partition('-')[0]}, on this host: {path}"


def only_progress(run: "RunView") -> str:
    return (
        f"progress from the database, the last line once a second at most; the full log is on host {run.host}, in the "
        f"state directory of worker {run.worker_id}"
    )


def nothing(run: "RunView") -> str:
    """Why there is nothing to show."""
    if run.status == "running":
        return f"worker {run.worker_id} on host {run.host} runs it, it has said nothing yet"
    if not run.finished:
        return "it has no log on this host, and waits to run"
    if run.log is not None:
        return f"no log of it on this host; worker {run.worker_id} wrote {run.log}"
    return "it left no log"


def progress_line(run: "RunView", *, clock: bool = True) -> str:
    tokens = f"  ({run.input_tokens:,} tokens in, {run.output_tokens:,} out)" if run.input_tokens else ""
    now = f"{datetime.now():%H:%M:%S}  " if clock else ""
    return f"{now}{output.visible(run.line or '', lines=True)}{tokens}"


def ending(run: "RunView") -> str:
    return f"{run.task_id} is {run.status}{f': {run.error_message}' if run.error_message else ''}"
