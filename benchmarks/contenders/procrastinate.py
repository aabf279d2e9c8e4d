"""procrastinate: its asynchronous worker, LISTEN on, concurrency as many as slots, a pool that is large enough."""

import asyncio
import os
import sys

from benchmarks.contender import Contender
from benchmarks.ledger import ledger

INSERT = """select procrastinate_defer_jobs_v1(array(
  select row('default', 'noop', 0, null, null, '{}', null)::procrastinate_job_to_defer_v1 from generate_series(1, %s)))"""

CONTENDERS = [
    Contender(
        name="procrastinate",
        module="procrastinate",
        packages=("procrastinate", "psycopg"),
        insert=INSERT.replace("%s", "1"),
        fill=INSERT.replace("%s", "%(n)s"),
        pending="select exists (select from procrastinate_jobs where status in ('todo', 'doing'))",
        settings=lambda slots: f"concurrency={slots}, listen_notify=True, pool of up to {min(slots, 20) + 2}",
        jobs=1_500,
    )
]


async def main(command: str, dsn: str, slots: int) -> None:
    import procrastinate

    connector = procrastinate.PsycopgConnector(conninfo=dsn, min_size=2, max_size=min(slots, 20) + 2)
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop() -> None:
        ledger.ran()

    async with app.open_async():
        if command == "setup":
            await app.schema_manager.apply_schema_async()
        else:
            await app.run_worker_async(concurrency=slots, listen_notify=True, install_signal_handlers=False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ["BENCH_DSN"], int(os.environ["BENCH_SLOTS"])))
