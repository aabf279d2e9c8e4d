"""The environment of this host's worker, which is not that of the shell: launchd gives a process almost none.

A worker that runs is asked by way of the system (its process's own environment). Where none runs, the shell's has to
do, and the doctor says so.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from turbo.doctor.session import SessionRow


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """`variables` is the whole environment; `whose` says where it was found."""

    variables: Mapping[str, str]
    whose: str


def of_worker(rows: Iterable[SessionRow], host: str, name: str | None) -> WorkerEnvironment:
    """Of a live worker on this host, one of this name if there is one; else this process's own."""
    here = [row for row in rows if row["host"] == host]
    for row in sorted(here, key=lambda row: row["name"] != name):
        try:
            process = psutil.Process(int(row["pid"]))
            if "worker" in process.cmdline() and (variables := process.environ()):
                return WorkerEnvironment(variables, f"as worker {row['worker_id']} has it")
        except (psutil.Error, OSError):  # another user's, or gone
            continue
    return WorkerEnvironment(dict(os.environ), "as this shell has it, for no worker runs here")


@contextmanager
def applied(surroundings: WorkerEnvironment) -> Iterator[None]:
    """This process has that environment while the block runs, and finds the modules that one would find."""
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
