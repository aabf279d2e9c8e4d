"""The herd: many idle workers and one task. How many claims does a task cost the database, and how long does it wait?

The idle workers are turbo's own listeners, claimers and statements without executors or metrics endpoints, many to a process, in
benchmarks/herd_worker.py: ninety whole workers would be 5 GB of Python and nothing else. Each counts its claims.
On this machine they share the cores with the database, which a fleet's workers do not. Beside them one worker among sessions that
LISTEN on channels nobody notifies: what the wake-up itself costs, before any worker does a thing.
"""

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg

from benchmarks.bench import Bench, Table, median, percentile, spread
from benchmarks.contender import ROOT, Silent
from benchmarks.contenders.turbo import CONTENDERS

SIZES = ((1, 0), (20, 0), (90, 0), (1, 89))
"""Idle workers, and sessions beside them that hear nothing."""
PROCESSES = 3
INSERTS = 100


class Fleet:
    """So many idle workers in a few processes."""

    def __init__(self, dsn: str, size: int) -> None:
        processes = min(PROCESSES, size)
        self.moments: dict[str, int] = {}
        self.claims = self.looks = 0
        self._heard = threading.Condition()
        self._counted = self._ready = 0
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.herd_worker",
                    dsn,
                    str(number),
                    str(size // processes + (number < size % processes)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
            for number in range(processes)
        ]
        self._threads = [threading.Thread(target=self._read, args=(p,), daemon=True) for p in self._processes]
        for thread in self._threads:
            thread.start()
        self._wait(lambda: self._ready == processes, 60)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            word, *rest = line.split()
            with self._heard:
                if word == "ready":
                    self._ready += 1
                elif word == "ran":
                    self.moments[rest[0]] = int(rest[1])
                elif word == "counted":
                    self.claims += int(rest[0])
                    self.looks += int(rest[1])
                    self._counted += 1
                self._heard.notify_all()

    def _wait(self, what: "object", seconds: float) -> None:
        assert callable(what)
        with self._heard:
            if not self._heard.wait_for(what, seconds):
                raise Silent("the herd does not answer")

    def ran(self, task_id: str, seconds: float = 60) -> int:
        self._wait(lambda: task_id in self.moments, seconds)
        return self.moments[task_id]

    def count(self) -> tuple[int, int]:
        """Claims and looks since the last time it was asked."""
        self.claims = self.looks = self._counted = 0
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("count\n")
            process.stdin.flush()
        self._wait(lambda: self._counted == len(self._processes), 20)
        return self.claims, self.looks

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


@contextlib.contextmanager
def fleet(dsn: str, size: int) -> Iterator[Fleet]:
    one = Fleet(dsn, size)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def strangers(dsn: str, count: int) -> Iterator[None]:
    """So many sessions that LISTEN to what nobody says."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            session = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            session.execute(f'listen "turbo_w_stranger-{number}"')
        yield


def herd(bench: Bench) -> Table:
    (turbo,) = CONTENDERS
    inserts = 10 if bench.quick else INSERTS
    found: dict[tuple[int, int], list[dict[str, float]]] = {}
    for number in range(bench.rounds):
        for size, deaf in SIZES[:2] if bench.quick else SIZES:
            with (
                bench.database(turbo, 10) as dsn,
                strangers(dsn, deaf),
                fleet(dsn, size) as workers,
                psycopg.connect(dsn, autocommit=True) as writer,
            ):
                time.sleep(1.5)  # the first rungs of everybody's ladder
                took = []
                for i in range(inserts + 10):
                    if i == 10:
                        time.sleep(0.7)
                        workers.count()
                    begun = time.monotonic_ns()
                    writer.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"t{i}"])
                    if i >= 10:
                        took.append((workers.ran(f"t{i}") - begun) / 1e6)
                    time.sleep(random.uniform(0.03, 0.06))
                time.sleep(0.7)
                claims, looks = workers.count()
            figures = {"claims a task": claims / inserts, "looks a task": looks / inserts}
            figures |= {f"p{p}": percentile(took, p / 100) for p in (50, 95, 99)}
            found.setdefault((size, deaf), []).append(figures)
            bench.say(
                f"  round {number + 1}, {size} idle, {deaf} deaf: {', '.join(f'{k} {v:.3g}' for k, v in figures.items())}"
            )
    rows = []
    for (size, deaf), rounds in found.items():
        figures = {column: median(r[column] for r in rounds) for column in rounds[0]}
        figures["p50 ÷ one worker's"] = figures["p50"] / median(r["p50"] for r in found[SIZES[0]])
        figures["spread of p50"] = spread(r["p50"] for r in rounds)
        rows.append(
            (f"{size} idle workers" if not deaf else f"{size} idle worker, {deaf} sessions that hear nothing", figures)
        )
    return Table(
        "The herd: one task and many idle workers, ms",
        ["claims a task", "looks a task", "p50", "p95", "p99", "p50 ÷ one worker's", "spread of p50"],
        rows,
        f"{inserts} inserts a round, 30–60 ms apart. Medians of {bench.rounds} rounds, fleet sizes in turn.",
        less_is_better=("p50 ÷ one worker's",),
        plot="p50",
        plot_unit="ms, median",
    )
