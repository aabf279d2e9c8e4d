"""The floor: the least that LISTEN, one claim and one UPDATE can be in Python. No trail, no fence, no retry, no flag.

For pickup one claim at a time; for throughput batches of its slots, claimed and completed in one statement each.
"""

import asyncio
import os
import sys

import psycopg

from benchmarks.contender import Contender
from benchmarks.ledger import ledger

SCHEMA = """
create table floor_tasks (id bigint generated always as identity primary key, status text not null default 'pending', body text);
create index floor_pending on floor_tasks (id) where status = 'pending';
create function floor_wake() returns trigger language plpgsql as
  $$ begin perform pg_notify('floor', ''); return null; end $$;
create trigger floor_wake after insert on floor_tasks for each statement execute function floor_wake();
"""
CLAIM = """
update floor_tasks set status = 'running' where id = any (array(
  select id from floor_tasks where status = 'pending' order by id limit %s for update skip locked)) returning id
"""
DONE = "update floor_tasks set status = 'completed' where id = any (%s)"

CONTENDERS = [
    Contender(
        name="floor",
        module="floor",
        packages=("psycopg",),
        insert="insert into floor_tasks (body) values ('x')",
        fill="insert into floor_tasks (body) select 'x' from generate_series(1, %(n)s)",
        pending="select exists (select from floor_tasks where status in ('pending', 'running'))",
        settings=lambda slots: (
            f"bare psycopg, one session listens, one claims batches of up to {slots} and completes them"
        ),
        jobs=60_000,
    )
]


async def work(dsn: str, slots: int) -> None:
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as claims,
    ):
        await listener.execute("listen floor")
        while True:
            while ids := [row[0] for row in await (await claims.execute(CLAIM, (slots,))).fetchall()]:
                for _ in ids:
                    ledger.ran()
                await claims.execute(DONE, (ids,))
            async for _notify in listener.notifies(stop_after=1):
                pass


if __name__ == "__main__":
    dsn = os.environ["BENCH_DSN"]
    if sys.argv[1] == "setup":
        with psycopg.connect(dsn) as connection:
            connection.execute(SCHEMA)
    else:
        asyncio.run(work(dsn, int(os.environ["BENCH_SLOTS"])))
