"""A disk that takes nothing more: results are recorded all the same, claims stop, and all of it mends by itself.

A real full disk where the tests run as root (a small tmpfs), else a limit on the size of the worker's files.
"""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

LIMIT = 60_000
"""Bytes: room for a journal entry and for what the worker says, not for a result of 100 kB."""


@contextlib.contextmanager
def small_disk(bench: Bench) -> Iterator[Path]:
    disk = bench.path / "disk"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        bench.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)


class Disk:
    """How the disk of a worker is filled and freed."""

    def __init__(self, path: Path, worker: WorkerProcess) -> None:
        self.path, self.worker = path, worker

    def fill(self) -> None:
        fill(self.path / "filler")

    def free(self) -> None:
        (self.path / "filler").unlink()


class Limit(Disk):
    def fill(self) -> None:
        resource.prlimit(self.worker.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))

    def free(self) -> None:
        resource.prlimit(self.worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as filler:
        for _ in range(10_000):
            try:
                filler.write(b"x" * 4096)
            except OSError:
                return
    raise AssertionError("the disk did not fill")


def a_run_that_ends_on_a_full_disk(bench: Bench, disk: Disk) -> None:
    bench.insert("t", {"seconds": 2, "raw": "'x' * 100000"})
    until(lambda: bench.runs()["t"])
    disk.fill()


KINDS = [
    pytest.param(Disk, marks=pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")),
    pytest.param(Limit, marks=pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_stops_claims_not_results_and_recovers(bench, kind):
    with small_disk(bench) if kind is Disk else contextlib.nullcontext(bench.path / "state") as path:
        worker = bench.start(state_dir=str(path)).listening()
        disk = kind(path, worker)
        a_run_that_ends_on_a_full_disk(bench, disk)
        bench.wait("t")
        assert worker.log.count("spool is not writable") == 1
        bench.insert("later")
        time.sleep(1)
        assert bench.row("later")["status"] == "pending", "claims stop"
        disk.free()
        worker.said("spool is writable again")
        bench.wait("later")
        assert bench.runs() == {"t": 1, "later": 1}
        assert worker.log.count("spool is not writable") == 1
        worker.stop()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")
def test_without_its_guard_a_full_disk_loses_the_result(bench):
    """The control."""
    worker = bench.start(without=["full_disk"]).listening()
    a_run_that_ends_on_a_full_disk(bench, Limit(bench.path, worker))
    worker.said("spool is not writable")
    bench.insert("later")
    until(lambda: bench.row("later")["status"] == "running" or bench.runs()["later"])
    assert bench.row("t")["status"] == "running", "nobody will ever record it"
