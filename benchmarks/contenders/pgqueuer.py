"""PgQueuer with each of its drivers, on uvloop as its own command line runs it.

Its psycopg driver listens and works on one connection, which waiting for notifications keeps busy up to a second at a time:
queries wait for that. So it is as slow as a poller when idle; asyncpg's driver is not.
"""

import os
import sys

from benchmarks.contender import Contender
from benchmarks.ledger import ledger

FILL = """
with input as materialized (
  select nextval(pg_get_serial_sequence('pgqueuer', 'id')) as id from generate_series(1, {n})
), inserted as (
  insert into pgqueuer (id, priority, entrypoint, execute_after, status)
  select id, 0, 'noop', now(), 'queued' from input returning id, entrypoint, priority
)
insert into pgqueuer_log (job_id, status, entrypoint, priority) select id, 'queued', entrypoint, priority from inserted
"""


def _one(driver: str, jobs: int) -> Contender:
    return Contender(
        name=f"pgqueuer ({driver})",
        module="pgqueuer",
        variant=driver,
        packages=("pgqueuer", driver, "uvloop"),
        insert=FILL.format(n=1),
        fill=FILL.format(n="%(n)s"),
        pending="select exists (select from pgqueuer)",
        settings=lambda slots: (
            f"batch_size={slots}, max_concurrent_tasks={2 * slots} (it asks for twice the batch), uvloop"
        ),
        jobs=jobs,
    )


CONTENDERS = [_one("psycopg", 20_000), _one("asyncpg", 30_000)]


async def main(command: str, variant: str, dsn: str, slots: int) -> None:
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver, PsycopgDriver
    from pgqueuer.queries import Queries

    if variant == "asyncpg":
        import asyncpg

        driver = AsyncpgDriver(await asyncpg.connect(dsn))
    else:
        import psycopg

        driver = PsycopgDriver(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
    if command == "setup":
        await Queries(driver).install()
        return
    app = PgQueuer(driver)

    @app.entrypoint("noop")
    async def noop(_job: object) -> None:
        ledger.ran()

    await app.run(batch_size=slots, max_concurrent_tasks=2 * slots)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], os.environ["BENCH_VARIANT"], os.environ["BENCH_DSN"], int(os.environ["BENCH_SLOTS"])))
