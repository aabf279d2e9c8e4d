"""make bench-pickup: how long from INSERT to the claim, beside the floor, in interleaved rounds of one run.

The floor is the least that LISTEN, one claim and one UPDATE can be: a bare psycopg loop without trail, fence or flag. Both
run against the same embedded PostgreSQL; each measured insert meets an idle worker. Times are the client's: from just before
the INSERT is sent to the moment the claim's answer is there.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.rig import Rig
from turbo import embedded
from turbo.migrate import migrate

FLOOR_SCHEMA = """
create table floor_tasks (id bigint generated always as identity primary key, status text default 'pending', body text);
create index on floor_tasks (id) where status = 'pending';
create function floor_wake() returns trigger language plpgsql as
  $$ begin perform pg_notify('floor', ''); return null; end $$;
create trigger floor_wake after insert on floor_tasks for each statement execute function floor_wake();
"""
FLOOR_CLAIM = """
update floor_tasks set status = 'running' where id = (
  select id from floor_tasks where status = 'pending' order by id limit 1 for update skip locked) returning id
"""


async def floor_round(dsn: str, inserts: int, writer: psycopg.AsyncConnection) -> list[float]:
    took = []
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as claims,
    ):
        await listener.execute("listen floor")
        for _ in range(inserts):
            begun = time.perf_counter()
            await writer.execute("insert into floor_tasks (body) values ('x')")
            async for _notify in listener.notifies(stop_after=1):
                pass
            row = await (await claims.execute(FLOOR_CLAIM)).fetchone()
            took.append(time.perf_counter() - begun)
            await claims.execute("update floor_tasks set status = 'completed' where id = %s", row)
            await asyncio.sleep(0.002)
    return took


async def turbo_round(dsn: str, inserts: int, writer: psycopg.AsyncConnection) -> list[float]:
    took = []
    async with Rig(dsn, slots_size=10, poll_seconds=30) as rig:
        for lane in rig._lanes:
            lane.prepare = True
        await asyncio.sleep(0.3)
        for _ in range(inserts):
            begun = time.perf_counter()
            await writer.execute("insert into agent_tasks (task_description) values ('x')")
            task, _ = await rig.claimed()
            took.append(time.perf_counter() - begun)
            await rig.finish(task)
            await asyncio.sleep(0.002)
    return took


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run(rounds: int, inserts: int) -> None:
    with embedded.temporary() as server:
        migrate(server.dsn)
        results: dict[str, list[list[float]]] = {"floor": [], "turbo": []}
        async with await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as writer:
            await writer.execute(FLOOR_SCHEMA)
            for contender in (floor_round, turbo_round):
                await contender(server.dsn, 20, writer)  # warm
            for _ in range(rounds):
                for name, contender in (("floor", floor_round), ("turbo", turbo_round)):
                    results[name].append(await contender(server.dsn, inserts, writer))
    medians = {}
    print(f"{'':8}{'p50':>10}{'p95':>10}{'p99':>10}   ms; p50 is the median of {rounds} rounds of {inserts} inserts")
    for name, took in results.items():
        every = [t for r in took for t in r]
        medians[name] = statistics.median(percentile(r, 0.5) for r in took)
        print(
            f"{name:8}{medians[name] * 1e3:10.2f}{percentile(every, 0.95) * 1e3:10.2f}{percentile(every, 0.99) * 1e3:10.2f}"
        )
    print(f"turbo ÷ floor, p50: {medians['turbo'] / medians['floor']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inserts", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(run(options.rounds, options.inserts))
