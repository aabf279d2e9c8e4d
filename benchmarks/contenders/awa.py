"""awa: a Rust engine under Python handlers, its defaults, jobs in bulk through its COPY surface."""

import asyncio
import os
import sys
from dataclasses import dataclass

from benchmarks.contender import Contender
from benchmarks.ledger import ledger

CONTENDERS = [
    Contender(
        name="awa",
        module="awa",
        packages=("awa-pg",),
        insert="select id from awa.insert_job_compat('noop', 'default', '{}', 'available', 2::smallint, 25::smallint, now(),"
        " '{}', '{}'::text[], null, null::bit(8), null::bytea)",
        pending="select exists (select from awa.jobs where state in ('available', 'running', 'retryable'))",
        settings=lambda slots: (
            f"{slots} workers on the queue, defaults (poll_interval_ms=200, LISTEN on), jobs by enqueue_many_copy"
        ),
        jobs=20_000,
    )
]


@dataclass
class Noop:
    pass


async def main(command: str, dsn: str, slots: int) -> None:
    from awa import AsyncClient

    client = AsyncClient(dsn)
    if command == "setup":
        await client.migrate()
        await client.install_queue_storage()  # as for a new database: no transition from its older storage
        return
    if command == "fill":
        left = int(sys.argv[2])
        while left > 0:
            await client.enqueue_many_copy([Noop() for _ in range(min(left, 5000))], queue="default")
            left -= 5000
        return

    @client.task(Noop, queue="default")
    async def noop(_job: object) -> None:
        ledger.ran()

    await client.start([("default", slots)])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ["BENCH_DSN"], int(os.environ["BENCH_SLOTS"])))
