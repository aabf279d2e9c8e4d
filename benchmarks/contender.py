"""A contender: what the measures need to know of it, and its worker as a process.

Its file in contenders/ is also its program: `python -m benchmarks.contenders.X setup|work|fill N`, with BENCH_DSN,
BENCH_SLOTS, BENCH_VARIANT and BENCH_JOBS in the environment. Jobs are given and counted by SQL, through one psycopg
session of the runner's, the same for all.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil
import psycopg

ROOT = Path(__file__).resolve().parent.parent


class Silent(Exception):
    """A worker did not do what it should in time; the message has the end of its stderr."""


@dataclass(frozen=True)
class Contender:
    name: str
    module: str  # of contenders/
    packages: tuple[str, ...]  # whose versions are printed; the first one has to be installed
    insert: str  # SQL: one job, runnable now
    pending: str  # SQL: true while a job is not recorded as done
    settings: Callable[[int], str]  # slots → how it is tuned, as its documentation says
    fill: str | None = None  # SQL: %(n)s jobs; None: its program does it (`fill N`)
    variant: str = ""
    jobs: int = 20_000  # of a throughput round: about two seconds' work
    program: tuple[str, ...] = ()  # instead of `python -m`
    version_of: Callable[[], str] | None = None
    missing: Callable[[], str | None] = field(default=lambda: None)
    throughput_only: bool = False
    pickup_only: bool = False

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        for package in self.packages[:1]:
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError:
                return f"the package {package} is not installed here (make .venv-bench)"
        return self.missing()

    def version(self) -> str:
        if self.version_of is not None:
            return self.version_of()
        return ", ".join(f"{p} {metadata.version(p)}" for p in self.packages) or "–"

    def _argv(self, *arguments: str) -> list[str]:
        return [*(self.program or (sys.executable, "-m", f"benchmarks.contenders.{self.module}")), *arguments]

    def _environment(self, dsn: str, slots: int, jobs: int) -> dict[str, str]:
        ours = {"BENCH_DSN": dsn, "BENCH_SLOTS": str(slots), "BENCH_JOBS": str(jobs), "BENCH_VARIANT": self.variant}
        return {**os.environ, **ours, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def setup(self, dsn: str, slots: int) -> None:
        """Install its schema. Raises CalledProcessError."""
        self._call(dsn, slots, "setup")

    def fill_with(self, dsn: str, slots: int, jobs: int) -> None:
        """Put so many no-op jobs into its queue, then let the database come to rest."""
        if self.fill is None:
            self._call(dsn, slots, "fill", str(jobs))
        else:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(self.fill, {"n": jobs})
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("vacuum (analyze)")
            connection.execute("checkpoint")

    def _call(self, dsn: str, slots: int, *arguments: str) -> None:
        done = subprocess.run(
            self._argv(*arguments), env=self._environment(dsn, slots, 0), cwd=ROOT, capture_output=True, timeout=120
        )
        if done.returncode:
            raise Silent(f"{self.name}: {arguments[0]} failed: {done.stderr.decode()[-2000:]}")

    @contextlib.contextmanager
    def work(self, dsn: str, slots: int, jobs: int = 0) -> Iterator["WorkerProcess"]:
        """Its worker, until the block ends. `jobs`: only the first and so-many-th run is told."""
        with WorkerProcess(self._argv("work"), self._environment(dsn, slots, jobs), self.name) as process:
            yield process


class WorkerProcess:
    """A worker in a session of its own; what its handlers say is queued with the moment they ran."""

    def __init__(self, argv: list[str], environment: dict[str, str], name: str) -> None:
        self._name = name
        self.started_ns = time.monotonic_ns()
        self._process = subprocess.Popen(
            argv,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._runs: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._said = b""
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._read_runs, self._read_words)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if "graphile" not in self._name else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
        with contextlib.suppress(ProcessLookupError):  # what is left of its session
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for thread in self._threads:
            thread.join()

    def _read_runs(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            if word == b"ran":
                self._runs.put((int(numbers[0]), int(numbers[1])))

    def _read_words(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = (self._said + line)[-4000:]

    def next_run(self, seconds: float = 20.0) -> tuple[int, int]:
        """(how many ran so far, the moment in monotonic nanoseconds). Raises Silent."""
        try:
            return self._runs.get(timeout=seconds)
        except queue.Empty:
            raise Silent(f"{self._name}: no run within {seconds:g} s; stderr: {self._said.decode()}") from None

    def forget_runs(self) -> None:
        while not self._runs.empty():
            self._runs.get()

    def _family(self) -> list[psutil.Process]:
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def memory(self) -> int:
        """Resident bytes, its children's included."""
        return sum(p.memory_info().rss for p in self._family())

    def cpu_seconds(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in self._family())
