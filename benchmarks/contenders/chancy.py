"""chancy: its asynchronous executor, notifications on, eager polling (the next jobs at once when one ends)."""

import asyncio
import os
import sys

from benchmarks.contender import Contender
from benchmarks.ledger import ledger

INSERT = """
with pushed as (
  insert into chancy_jobs (id, queue, func, kwargs, limits, meta, priority, max_attempts, scheduled_at)
  select gen_random_uuid(), 'default', 'benchmarks.contenders.chancy.noop', '{{}}', '[]', '{{}}', 0, 1, now()
    from generate_series(1, {n}) returning id
)
select pg_notify('chancy_events', '{{"t": "queue.pushed", "q": "default"}}') from pushed limit 1
"""

CONTENDERS = [
    Contender(
        name="chancy",
        module="chancy",
        packages=("chancy", "psycopg"),
        insert=INSERT.format(n=1),
        fill=INSERT.format(n="%(n)s"),
        pending="select exists (select from chancy_jobs where state in ('pending', 'running', 'retrying'))",
        settings=lambda slots: (
            f"AsyncExecutor, concurrency={slots}, eager_polling=True, polling_interval=1, notifications on"
        ),
        jobs=3_000,
    )
]


async def noop() -> None:
    ledger.ran()


async def main(command: str, dsn: str, slots: int) -> None:
    from chancy import Chancy, Queue, Worker

    async with Chancy(dsn) as chancy:
        if command == "setup":
            await chancy.migrate()
            await chancy.declare(
                Queue(
                    "default", concurrency=slots, executor=Chancy.Executor.Async, eager_polling=True, polling_interval=1
                ),
                upsert=True,
            )
        else:
            async with Worker(chancy) as worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ["BENCH_DSN"], int(os.environ["BENCH_SLOTS"])))
