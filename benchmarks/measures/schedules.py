"""Schedules: how long after its second a slot's task starts, and what an idle fleet asks between slots.

Times are the database's: from the slot to the trail's `fired` and `claimed`, over real workers with defaults. What is asked is
counted by pg_stat_database, as for a worker without work (benchmarks/measures/idle.py).
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.bench import Bench, Table, median, percentile
from benchmarks.contenders.turbo import CONTENDERS

(TURBO,) = CONTENDERS
SLOTS = 10
SECONDS, IDLE_SECONDS, SETTLE = 60, 60.0, 15.0
HUNDRED = 100

DELAYS = """
select extract(epoch from a.executed_at - (f.detail ->> 'slot')::timestamptz)::float8 * 1000
  from agent_actions f join agent_actions a on a.task_id = f.task_id and a.action_type = %s
 where f.action_type = 'fired' order by 1
"""


def schedules(bench: Bench) -> Table:
    seconds = 4 if bench.quick else SECONDS
    rows = []
    for workers in (1, 2) if bench.quick else (1, 10):
        with _fleet(bench, workers) as (_, db):
            rows.append((f"a slot a second, {_many(workers)}", _each_second(db, seconds)))
            rows.append((f"{HUNDRED} schedules at one second, {_many(workers)}", _at_once(db)))
    with _fleet(bench, 1) as (dsn, db):
        without = _asked(bench, dsn)
        db.execute(
            "insert into agent_schedules (name, cron, task_description)"
            " select 'idle' || n, '0 3 29 2 *', 'x' from generate_series(1, %s::int) n",
            [HUNDRED],
        )
        rows.append(("idle, no schedules", {"transactions/s": without}))
        rows.append((f"idle, {HUNDRED} schedules between slots", {"transactions/s": _asked(bench, dsn)}))
    return Table(
        "Schedules",
        ["inserted p50, ms", "claimed p50, ms", "claimed p99, ms", "claimed last, ms", "transactions/s"],
        rows,
        f"From a slot's second, by the database's clock. {seconds} slots; idle over {IDLE_SECONDS:g} s. One run.",
    )


@contextlib.contextmanager
def _fleet(bench: Bench, workers: int) -> Iterator[tuple[str, "psycopg.Connection[Any]"]]:
    with contextlib.ExitStack() as stack:
        dsn = stack.enter_context(bench.database(TURBO, SLOTS))
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        running = [stack.enter_context(TURBO.work(dsn, SLOTS)) for _ in range(workers)]
        for _ in range(50):
            db.execute(TURBO.insert)  # they are up, and have worked
        for worker in running:
            with contextlib.suppress(Exception):
                worker.next_run()
        while db.execute(TURBO.pending).fetchone() == (True,):
            time.sleep(0.05)
        db.execute("truncate agent_actions")
        yield dsn, db


def _each_second(db: "psycopg.Connection[Any]", seconds: int) -> dict[str, float]:
    db.execute(
        "insert into agent_schedules (name, cron, overlap, task_description) values ('tick', '* * * * * *', 'queue', 'x')"
    )
    time.sleep(seconds + 1.5)
    db.execute("delete from agent_schedules")
    time.sleep(0.5)
    return _delays(db)


def _at_once(db: "psycopg.Connection[Any]") -> dict[str, float]:
    db.execute("truncate agent_actions")
    db.execute(
        "insert into agent_schedules (name, cron, task_description)"
        " select 's' || n, to_char(now() + interval '12 seconds', 'SS MI HH24') || ' * * *', 'x'"
        "   from generate_series(1, %s::int) n",
        [HUNDRED],
    )
    time.sleep(14)
    found = _delays(db)
    db.execute("delete from agent_schedules")
    db.execute("truncate agent_actions")
    return found


def _delays(db: "psycopg.Connection[Any]") -> dict[str, float]:
    inserted = [float(row[0]) for row in db.execute(DELAYS, ["fired"])]
    claimed = [float(row[0]) for row in db.execute(DELAYS, ["claimed"])]
    assert claimed, "no slot was fired"
    return {
        "inserted p50, ms": median(inserted),
        "claimed p50, ms": median(claimed),
        "claimed p99, ms": percentile(claimed, 0.99),
        "claimed last, ms": max(claimed),
    }


def _asked(bench: Bench, dsn: str) -> float:
    settle, seconds = (1.0, 2.0) if bench.quick else (SETTLE, IDLE_SECONDS)
    with psycopg.connect(bench.server.dsn, autocommit=True) as asks:

        def transactions() -> int:
            name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
            row = asks.execute(
                "select xact_commit + xact_rollback from pg_stat_database where datname = %s", [name]
            ).fetchone()
            assert row is not None
            return int(row[0])

        time.sleep(settle)
        before = transactions()
        time.sleep(seconds)
        return (transactions() - before) / seconds


def _many(workers: int) -> str:
    return "a worker" if workers == 1 else f"{workers} workers"
