"""What a fleet file points to, where it can be read: a worker.yaml's drain, an env file's mode.

The files are the hosts' own. Here they are looked at as far as this machine has them; `install` looks at each where it is.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from turbo.config.loader import ConfigError, read
from turbo.config.worker import WorkerConfig
from turbo.domain.finding import Finding, fail
from turbo.fleet.instance import ASSUMED_DRAIN_SECONDS, Instance


def worker_drain_seconds(config: Path) -> float | None:
    """worker.drain_seconds of a worker.yaml on this machine; None when it cannot be read, or is a ${VARIABLE}."""
    try:
        return drain_seconds_in(read(config, WorkerConfig)[0])
    except ConfigError:
        return None


def drain_seconds_in(tree: object) -> float | None:
    """worker.drain_seconds of a worker.yaml's tree as written, its default where it says nothing; None for a ${VARIABLE}."""
    section = tree.get("worker") if isinstance(tree, dict) else None
    seconds = section.get("drain_seconds") if isinstance(section, dict) else None
    if seconds is None:
        return ASSUMED_DRAIN_SECONDS
    return float(seconds) if isinstance(seconds, int | float) else None


def too_little_time(instance: Instance, configured: float) -> str:
    """A worker that would be killed in mid-drain."""
    return (
        f"{instance.name} would be killed in mid-drain: {instance.drain_seconds:g} here, but {instance.config} has "
        f"worker.drain_seconds {configured:g}; write the same in both, or leave it out here"
    )


def env_file_problem(where: str, path: str | None) -> Iterator[Finding]:
    """An env file that is on this machine too, and that others may read."""
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a string that may be another machine's path
    except OSError:
        return  # it is looked at again where it is, at install
    if stat.S_IMODE(mode) & 0o077:
        what = f"{path}: mode {stat.S_IMODE(mode):04o} lets other users read its secrets: run chmod 600 {path}"
        yield fail(what, subject=where)
