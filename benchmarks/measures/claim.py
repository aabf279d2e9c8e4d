"""The claim: latency of claiming one task, over what the table holds beside it. By turbo's own Queue, everything on."""

import asyncio
import time

import psycopg

from benchmarks.bench import Bench, Table, median, percentile, spread
from benchmarks.contenders.turbo import CONTENDERS
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import WorkerState

CLAIMS = 300
LOAD = """
insert into agent_tasks (task_id, task_description, task_priority, status, run_after, completed_at, fencing_token)
select %(status)s || n, 'x', 5 + n %% 3, %(status)s,
       now() + case when %(status)s = 'scheduled' then interval '1 day' else - interval '1 day' end + n * interval '10 ms',
       case when %(status)s = 'completed' then now() end, case when %(status)s = 'completed' then -n end
  from generate_series(1, %(n)s) n
"""
SITUATIONS: dict[str, dict[str, int]] = {
    "empty": {},
    "1 M pending": {"pending": 1_000_000},
    "1 M scheduled": {"scheduled": 1_000_000},
    "2 M finished": {"completed": 2_000_000},
    "1 M pending + 2 M finished": {"pending": 1_000_000, "completed": 2_000_000},
}


def claim(bench: Bench) -> Table:
    (turbo,) = CONTENDERS
    found: dict[str, list[dict[str, float]]] = {}
    with bench.database(turbo, 10) as dsn:
        # All situations at once, a database each: their rounds are interleaved.
        databases = {name: bench.copy(dsn) for name in SITUATIONS}
        try:
            for name, load in SITUATIONS.items():
                _load(databases[name], load, bench.quick)
            for number in range(bench.rounds):
                for name, database in databases.items():
                    figures = asyncio.run(_round(database, 30 if bench.quick else CLAIMS))
                    found.setdefault(name, []).append(figures)
                bench.say(f"  round {number + 1} done")
        finally:
            for database in databases.values():
                bench.drop(database)
    rows = []
    for name, rounds in found.items():
        figures = {column: median(r[column] for r in rounds) for column in rounds[0]}
        figures["p50 ÷ empty"] = figures["p50"] / median(r["p50"] for r in found["empty"])
        figures["p99 ÷ empty"] = figures["p99"] / median(r["p99"] for r in found["empty"])
        figures["spread of p50"] = spread(r["p50"] for r in rounds)
        rows.append((name, figures))
    return Table(
        "Claiming one task, ms",
        ["p50", "p99", "p50 ÷ empty", "p99 ÷ empty", "spread of p50"],
        rows,
        f"{CLAIMS} times: insert a task of the highest priority, claim it, finish it. Medians of {bench.rounds} interleaved rounds;"
        " the tables were analysed and vacuumed once, no old snapshot is held.",
        less_is_better=("p50 ÷ empty",),
    )


def _load(dsn: str, load: dict[str, int], quick: bool) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        for status, count in load.items():
            connection.execute(LOAD, {"status": status, "n": count // 100 if quick else count})
        connection.execute("vacuum (analyze) agent_tasks")
        connection.execute("checkpoint")


async def _round(dsn: str, claims: int) -> dict[str, float]:
    lanes = Lane(dsn, "bench claims"), Lane(dsn, "bench results")
    for lane in lanes:
        lane.prepare_statements(True)
    stores = Stores("bench-1-abcdef", *lanes)
    await stores.registry.register(
        WorkerRow("bench", "here", 1, "0", 10, ("default",), {}, (), None, 10, 600, 30), WorkerState.UP
    )
    took = []
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
            for number in range(claims + 20):
                await writer.execute("insert into agent_tasks (task_description, task_priority) values ('x', 99)")
                begun = time.perf_counter()
                claimed = await stores.claims.claim("default", 1, may_idle=True)
                if number >= 20:
                    took.append((time.perf_counter() - begun) * 1e3)
                (task,) = claimed.tasks
                result = RunResult(task.task_id, task.fencing_token, OutcomeKind.SUCCEEDED.value, {}, worker_id="bench")
                await stores.results.finish([result])
    finally:
        for lane in lanes:
            await lane.close()
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
