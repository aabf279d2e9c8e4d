"""The environment of this host's worker. It differs from the shell's: launchd gives a process almost none.

For a running worker it is read from the process. Values that the worker has concealed are taken from the shell's. Without a
worker, the shell's environment is used, and the finding says so.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from turbo.doctor.session import SessionRow
from turbo.process.concealment import concealed


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """`variables` is the whole environment; `whose` describes where it comes from, for a message."""

    variables: Mapping[str, str]
    whose: str


def of_worker(rows: Iterable[SessionRow], host: str, name: str | None) -> WorkerEnvironment:
    """The environment of a live worker on this host, preferably of this name; else this process's environment."""
    here = [row for row in rows if row["host"] == host]
    for row in sorted(here, key=lambda row: row["name"] != name):
        try:
            process = psutil.Process(int(row["pid"]))
            if "worker" in process.cmdline() and (variables := process.environ()):
                known = {name: os.environ.get(name) if concealed(value) else value for name, value in variables.items()}
                return WorkerEnvironment(
                    {name: value for name, value in known.items() if value is not None},
                    f"in the environment of worker {row['worker_id']}",
                )
        except (psutil.Error, OSError):  # it belongs to another user, or has ended
            continue
    return WorkerEnvironment(dict(os.environ), "in this shell's environment, because no worker runs here")


@contextmanager
def applied(surroundings: WorkerEnvironment) -> Iterator[None]:
    """Run the block with that environment, and with its module path."""
    own, path = dict(os.environ), list(sys.path)
    os.environ.clear()
    os.environ.update(surroundings.variables)
    sys.path += [p for p in surroundings.variables.get("PYTHONPATH", "").split(os.pathsep) if p and p not in path]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)
        sys.path[:] = path
