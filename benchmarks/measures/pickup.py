"""Pickup: from just before the INSERT is sent to the moment the handler runs, in a worker that was idle.

One by one, some milliseconds apart: what a person waits for. And a burst: 100 jobs in one statement into ten slots.
"""

import random
import time
from collections.abc import Callable

import psycopg

from benchmarks.bench import Bench, Table, median, percentile, spread
from benchmarks.contender import Contender

SLOTS = 10
WARM = 30
INSERTS = 150
SECONDS = 8.0  # of one contender's round at most; the 1 s poller gets fewer inserts by that
BURST = 100
BURSTS = 10


def pickup(bench: Bench) -> Table:
    inserts = 10 if bench.quick else INSERTS

    def one(contender: Contender, _round: int) -> dict[str, float]:
        with (
            bench.database(contender, SLOTS) as dsn,
            psycopg.connect(dsn, autocommit=True) as writer,
            contender.work(dsn, SLOTS) as worker,
        ):

            def one_insert() -> float:
                begun = time.monotonic_ns()
                writer.execute(contender.insert)
                took = (worker.next_run()[1] - begun) / 1e6
                time.sleep(random.uniform(0.005, 0.015))  # its completion is behind us, and it is idle again
                return took

            _several(one_insert, WARM, SECONDS / 4)
            took = _several(one_insert, inserts, SECONDS)
        return {f"p{p}": percentile(took, p / 100) for p in (50, 95, 99)}

    found = bench.interleave([c for c in bench.taking_part() if not c.throughput_only], one)
    return _table(
        bench,
        found,
        "Pickup of one insert by an idle worker, ms",
        f"From just before the INSERT is sent to the handler's first line; {inserts} inserts a round into a worker of {SLOTS} slots.",
    )


def _several(one: Callable[[], float], count: int, seconds: float) -> list[float]:
    end = time.monotonic() + seconds
    found = [one()]
    while len(found) < count and time.monotonic() < end:
        found.append(one())
    return found


def burst(bench: Bench) -> Table:
    bursts = 2 if bench.quick else BURSTS

    def one(contender: Contender, _round: int) -> dict[str, float]:
        with (
            bench.database(contender, SLOTS) as dsn,
            psycopg.connect(dsn, autocommit=True) as writer,
            contender.work(dsn, SLOTS) as worker,
        ):
            for _ in range(WARM):
                writer.execute(contender.insert)
                worker.next_run()
            took: list[float] = []
            for _ in range(bursts):
                time.sleep(0.1)
                begun = time.monotonic_ns()
                writer.execute(contender.fill or contender.insert, {"n": BURST})
                took += [(worker.next_run()[1] - begun) / 1e6 for _ in range(BURST if contender.fill else 1)]
        return {f"p{p}": percentile(took, p / 100) for p in (50, 95, 99)}

    who = [c for c in bench.taking_part() if not c.throughput_only and not c.pickup_only and c.fill is not None]
    found = bench.interleave(who, one)
    return _table(
        bench,
        found,
        f"A burst: {BURST} jobs inserted by one statement into {SLOTS} slots, until each runs, ms",
        f"{bursts} bursts a round. Contenders whose bulk insert is not SQL are left out.",
    )


def _table(bench: Bench, found: dict[str, list[dict[str, float]]], title: str, note: str) -> Table:
    floor = median(r["p50"] for r in found["floor"]) if "floor" in found else None
    rows = []
    for name, rounds in found.items():
        figures = {p: median(r[p] for r in rounds) for p in ("p50", "p95", "p99")}
        if floor:
            figures["p50 ÷ floor"] = figures["p50"] / floor
        figures["spread of p50"] = spread(r["p50"] for r in rounds)
        rows.append((name, figures))
    return Table(
        title,
        list(rows[0][1]) if rows else [],
        rows,
        f"{note} Medians of {bench.rounds} interleaved rounds.",
        less_is_better=("p50 ÷ floor",),
        plot="p50",
        plot_unit="ms, median",
        plot_log=True,
        settings={c.name: c.settings(SLOTS) for c in bench.taking_part() if c.name in found},
    )
