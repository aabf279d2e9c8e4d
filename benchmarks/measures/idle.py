"""Idle: what a worker without work costs. Transactions a second (pg_stat_database, asked from another database), its CPU and
its memory. turbo once alone, which makes it the leader, and once more as the second worker of a fleet."""

import contextlib
import time

import psycopg

from benchmarks.bench import Bench, Table, median
from benchmarks.contender import Contender

SLOTS = 10
SETTLE = 15.0
"""An idle session tells the server of its last transactions after ten seconds."""
SECONDS = 30.0


def idle(bench: Bench) -> Table:
    settle, seconds = (1.0, 2.0) if bench.quick else (SETTLE, SECONDS)

    def one(contender: Contender, _round: int) -> dict[str, float]:
        with contextlib.ExitStack() as stack:
            dsn = stack.enter_context(bench.database(contender, SLOTS))
            asks = stack.enter_context(psycopg.connect(bench.server.dsn, autocommit=True))
            database = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]

            def transactions() -> int:
                row = asks.execute(
                    "select xact_commit + xact_rollback from pg_stat_database where datname = %s", [database]
                ).fetchone()
                assert row is not None
                return int(row[0])

            def rate() -> tuple[float, float]:
                time.sleep(settle)
                before, cpu = transactions(), worker.cpu_seconds()
                time.sleep(seconds)
                return (transactions() - before) / seconds, (worker.cpu_seconds() - cpu) / seconds

            worker = stack.enter_context(contender.work(dsn, SLOTS))
            with psycopg.connect(dsn, autocommit=True) as writer:
                writer.execute(contender.insert)  # it is up, and has worked
            worker.next_run()
            per_second, cpu = rate()
            figures = {"transactions/s": per_second, "CPU, %": cpu * 100, "resident, MB": worker.memory() / 1e6}
            if contender.name == "turbo":
                worker = stack.enter_context(contender.work(dsn, SLOTS))
                time.sleep(1)
                both, cpu = rate()
                figures |= {"second: transactions/s": both - per_second, "second: CPU, %": cpu * 100}
                figures["second: resident, MB"] = worker.memory() / 1e6
        return figures

    rounds = bench.rounds
    bench.rounds = min(rounds, 2)  # half a minute each, and next to no noise
    try:
        found = bench.interleave([c for c in bench.taking_part() if not c.throughput_only], one)
    finally:
        bench.rounds = rounds
    rows = []
    for name, figures in found.items():
        middle = {k: median(r[k] for r in figures) for k in figures[0]}
        if name == "turbo":
            rows.append(
                (
                    "turbo, a worker",
                    {k.removeprefix("second: "): v for k, v in middle.items() if k.startswith("second")},
                )
            )
            name = "turbo, the leader"
        rows.append((name, {k: v for k, v in middle.items() if not k.startswith("second")}))
    return Table(
        "A worker without work",
        ["transactions/s", "CPU, %", "resident, MB"],
        rows,
        f"Over {seconds:g} s, {settle:g} s after its last job. Medians of up to 2 rounds.",
        plot="transactions/s",
        plot_unit="transactions/s",
        plot_log=True,
    )
