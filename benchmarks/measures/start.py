"""Start: from the start of the process to the first line of the handler, with one job waiting."""

import psycopg

from benchmarks.bench import Bench, Table, median, spread
from benchmarks.contender import Contender

SLOTS = 10


def start(bench: Bench) -> Table:
    def one(contender: Contender, _round: int) -> dict[str, float]:
        with bench.database(contender, SLOTS) as dsn:
            with psycopg.connect(dsn, autocommit=True) as writer:
                writer.execute(contender.insert)
            with contender.work(dsn, SLOTS) as worker:
                return {"seconds": (worker.next_run()[1] - worker.started_ns) / 1e9}

    found = bench.interleave([c for c in bench.taking_part() if not c.throughput_only], one)
    rows = [
        (name, {"seconds": median(r["seconds"] for r in rounds), "spread": spread(r["seconds"] for r in rounds)})
        for name, rounds in found.items()
    ]
    return Table(
        "From the start of a worker process to its first run, one job waiting, s",
        ["seconds", "spread"],
        rows,
        f"Medians of {bench.rounds} interleaved rounds.",
    )
