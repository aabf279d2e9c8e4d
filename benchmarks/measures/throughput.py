"""Throughput: no-op jobs a second of one worker process, from its first run to the moment all are recorded as done.

The jobs are there before the worker starts, so that inserting them costs nothing. The database says when all are done; it is
asked only after the last one ran.
"""

import time

import psutil
import psycopg

from benchmarks.bench import Bench, Table, median, spread
from benchmarks.contender import Contender, Silent

SECONDS = 60.0


def _throughput(bench: Bench, slots: int) -> Table:
    postmaster = bench.server.pid

    def one(contender: Contender, _round: int) -> dict[str, float]:
        jobs = 500 if bench.quick else contender.jobs if slots >= 100 else contender.jobs // 2
        with bench.database(contender, slots) as dsn:
            contender.fill_with(dsn, slots, jobs)
            before = _cpu(postmaster)
            with psycopg.connect(dsn, autocommit=True) as asks, contender.work(dsn, slots, jobs) as worker:
                _, first = worker.next_run()
                _, last = worker.next_run(SECONDS)
                while asks.execute(contender.pending).fetchone() != (False,):
                    if time.monotonic_ns() - last > SECONDS * 1e9:
                        raise Silent(f"{contender.name}: jobs are still open {SECONDS:g} s after the last one ran")
                    time.sleep(0.002)
                seconds = (time.monotonic_ns() - first) / 1e9
                cpu = max(0.0, _cpu(postmaster) - before)
                dead = asks.execute("select sum(n_dead_tup) from pg_stat_user_tables").fetchone()
        return {
            "jobs/s": jobs / seconds,
            "database CPU, ms a 1,000 jobs": cpu / jobs * 1e6,
            "dead tuples a job": float((dead or [0])[0] or 0) / jobs,
        }

    found = bench.interleave([c for c in bench.taking_part() if not c.pickup_only], one)
    floor = median(r["jobs/s"] for r in found["floor"]) if "floor" in found else None
    rows = []
    for name, rounds in found.items():
        figures = {column: median(r[column] for r in rounds) for column in rounds[0]}
        if floor:
            figures["÷ floor"] = figures["jobs/s"] / floor
        figures["spread"] = spread(r["jobs/s"] for r in rounds)
        rows.append((name, figures))
    return Table(
        f"No-op throughput of one worker process with {slots} slots, jobs/s",
        ["jobs/s", "÷ floor", "spread", "database CPU, ms a 1,000 jobs", "dead tuples a job"],
        rows,
        f"From the first run to the last result recorded; the jobs were there before. Medians of {bench.rounds} interleaved rounds."
        " Dead tuples as pg_stat_user_tables counts them at the end; autovacuum may have been there first.",
        more_is_better=("÷ floor",),
        plot="jobs/s",
        plot_unit="jobs/s, median",
        settings={c.name: c.settings(slots) for c in bench.taking_part() if c.name in found},
    )


def _cpu(postmaster: int) -> float:
    """CPU seconds of the server's processes that live now and of those that ended."""
    process = psutil.Process(postmaster)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def ten(bench: Bench) -> Table:
    return _throughput(bench, 10)


def hundred(bench: Bench) -> Table:
    return _throughput(bench, 100)
