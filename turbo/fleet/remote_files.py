"""Files that a fleet file points to: a worker.yaml's drain, an env file's mode.

The files are on the hosts. Here they are read as far as this machine has them; `install` checks each one on its host.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from turbo.config.loader import ConfigError, read
from turbo.config.worker import WorkerConfig
from turbo.domain.finding import Finding, fail
from turbo.fleet.instance import ASSUMED_DRAIN_SECONDS, WorkerInstance


def worker_drain_seconds(config: Path) -> float | None:
    """worker.drain_seconds of a worker.yaml on this machine; None if it cannot be read or is a ${VARIABLE}."""
    try:
        return drain_seconds_in(read(config, WorkerConfig)[0])
    except ConfigError:
        return None


def drain_seconds_in(tree: object) -> float | None:
    """worker.drain_seconds of a parsed worker.yaml, or its default; None for a ${VARIABLE}."""
    section = tree.get("worker") if isinstance(tree, dict) else None
    seconds = section.get("drain_seconds") if isinstance(section, dict) else None
    if seconds is None:
        return ASSUMED_DRAIN_SECONDS
    return float(seconds) if isinstance(seconds, int | float) else None


def too_little_time(instance: WorkerInstance, configured: float) -> str:
    """The message about a worker that would be killed in mid-drain."""
    return (
        f"{instance.name} would be killed in mid-drain: {instance.drain_seconds:g} here, but {instance.config} has "
        f"worker.drain_seconds {configured:g}; write the same in both, or leave it out here"
    )


def env_file_problem(where: str, path: str | None) -> Iterator[Finding]:
    """An env file on this machine that other users can read."""
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a string that may be another machine's path
    except OSError:
        return  # `install` checks it on its host
    if stat.S_IMODE(mode) & 0o077:
        what = f"{path}: mode {stat.S_IMODE(mode):04o} lets other users read its secrets: run chmod 600 {path}"
        yield fail(what, subject=where)
