"""make bench-bloat: what a stream of tasks leaves behind, by the tables' settings, in one run.

Tasks pass through the real statements, as a fleet that keeps up would run them: a thousand are inserted, claimed a hundred at a
time, finished, and so on. For each variant of fillfactor and autovacuum, side by side on servers of their own: the rate, the
claim's time at the start and at the end, dead rows, and the sizes of the tables and of every index. Autovacuum looks around
every 5 s instead of every minute, so that a run of minutes stands for hours.

    --tasks N      tasks a variant (default 1,000,000; the comparison in docs/tuning.md used 150,000)
    --only NAME    one variant
"""

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import percentile
from tests.support.rig import finished
from tests.support.stores import Stores
from turbo import embedded
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.states import WorkerState
from turbo.migrate import migrate

ROUND = 1_000
CLAIM = 100
RESET = (
    "alter table {table} reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,"
    " autovacuum_analyze_scale_factor)"
)
VARIANTS = {
    "turbo": "",
    "fillfactor 85": "alter table agent_tasks set (fillfactor = 85)",
    "fillfactor 70": "alter table agent_tasks set (fillfactor = 70)",
    "PostgreSQL's autovacuum": ";".join(RESET.format(table=t) for t in ("agent_tasks", "agent_actions")),
    "no autovacuum": "alter table agent_tasks set (autovacuum_enabled = off)",
}
SIZES = """
select c.relname, pg_relation_size(c.oid) from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'i') and c.relname ~ '^agent_(tasks|actions)' order by 2 desc
"""
COUNTS = """
select n_dead_tup, n_tup_upd, n_tup_hot_upd, autovacuum_count from pg_stat_user_tables where relname = 'agent_tasks'
"""


@dataclass
class Left:
    """What one variant left behind. Times in seconds, sizes in bytes."""

    seconds: float
    first: list[float]
    last: list[float]
    most_dead: int
    dead: int
    hot: float
    vacuums: int
    sizes: dict[str, int]


async def stream(dsn: str, tasks: int) -> Left:
    lanes = Lane(dsn, "bloat claims"), Lane(dsn, "bloat results")
    for lane in lanes:
        lane.prepare_statements(True)
    stores = Stores("bloat-1-abcdef", *lanes)
    await stores.registry.register(
        WorkerRow("bloat", "here", 1, "0", CLAIM, ("default",), {}, (), None, 10, 600, 30), WorkerState.UP
    )
    claims: list[float] = []
    most_dead = 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:

        async def counts() -> tuple[int, int, int, int]:
            row = await (await writer.execute(COUNTS)).fetchone()
            assert row is not None
            return row  # type: ignore[return-value]

        began = time.perf_counter()
        for number in range(tasks // ROUND):
            await writer.execute(
                "insert into agent_tasks (task_description, input_data) select 'Analyze module ' || i, '{\"depth\": 2}'"
                "  from generate_series(1, %s) i",
                (ROUND,),
            )
            for _ in range(ROUND // CLAIM):
                asked = time.perf_counter()
                claim = await stores.claims.claim("default", CLAIM, may_idle=False)
                claims.append(time.perf_counter() - asked)
                assert len(claim.tasks) == CLAIM
                await stores.results.finish([finished(task, stores.worker_id) for task in claim.tasks])
            if number % 10 == 9:
                most_dead = max(most_dead, (await counts())[0])
        seconds = time.perf_counter() - began
        await asyncio.sleep(2)  # the statistics of the last second
        dead, updates, hot, vacuums = await counts()
        sizes = dict(await (await writer.execute(SIZES)).fetchall())
    for lane in lanes:
        await lane.close()
    tenth = max(1, len(claims) // 10)
    return Left(seconds, claims[:tenth], claims[-tenth:], most_dead, dead, hot / max(1, updates), vacuums, sizes)


def measure(name: str, tasks: int) -> Left:
    settings = {"autovacuum_naptime": "5s", "shared_buffers": "512MB", "max_wal_size": "4GB"}
    with embedded.temporary(trust=True, settings=settings) as server:
        migrate(server.dsn)
        if VARIANTS[name]:
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute(VARIANTS[name].encode())
        return asyncio.run(stream(server.dsn, tasks))


def show(results: dict[str, Left], tasks: int) -> None:
    print(f"\n{tasks} tasks each; a claim takes {CLAIM}; ms are of a claim")
    print(
        f"{'':26}{'tasks/s':>9}{'p50':>7}{'p99':>7}{'→ p50':>7}{'p99':>7}{'most dead':>11}{'dead':>9}{'HOT':>6}{'vacuums':>9}"
    )
    for name, left in results.items():
        ms = [percentile(values, share) * 1e3 for values in (left.first, left.last) for share in (0.5, 0.99)]
        print(
            f"{name:26}{tasks / left.seconds:9.0f}{ms[0]:7.1f}{ms[1]:7.1f}{ms[2]:7.1f}{ms[3]:7.1f}"
            f"{left.most_dead:11d}{left.dead:9d}{left.hot:6.0%}{left.vacuums:9d}"
        )
    names = list(dict.fromkeys(name for left in results.values() for name in left.sizes))
    print(f"\n{'MB':34}" + "".join(f"{name[:24]:>26}" for name in results))
    for relation in names:
        print(f"{relation:34}" + "".join(f"{left.sizes.get(relation, 0) / 2**20:26.1f}" for left in results.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--only", action="append", choices=VARIANTS)
    options = parser.parse_args()
    measured: dict[str, Left] = {}
    for variant in options.only or VARIANTS:
        measured[variant] = measure(variant, options.tasks)
        print(f"{variant}: {measured[variant].seconds:.0f} s", file=sys.stderr)
    show(measured, options.tasks)
