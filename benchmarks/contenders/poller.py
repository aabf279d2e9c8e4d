"""The 1 s poller that turbo grew from: the floor's claim, once a second, without LISTEN. For pickup only."""

import os
import sys
import time

import psycopg

from benchmarks.contender import Contender
from benchmarks.contenders import floor
from benchmarks.ledger import ledger

CONTENDERS = [
    Contender(
        name="1 s poller",
        module="poller",
        packages=("psycopg",),
        insert=floor.CONTENDERS[0].insert,
        fill=floor.CONTENDERS[0].fill,
        pending=floor.CONTENDERS[0].pending,
        settings=lambda slots: f"the floor's claim of up to {slots} once a second",
        pickup_only=True,
    )
]


def work(dsn: str, slots: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            while ids := [row[0] for row in connection.execute(floor.CLAIM, (slots,)).fetchall()]:
                for _ in ids:
                    ledger.ran()
                connection.execute(floor.DONE, (ids,))
            time.sleep(1)


if __name__ == "__main__":
    dsn = os.environ["BENCH_DSN"]
    if sys.argv[1] == "setup":
        with psycopg.connect(dsn) as connection:
            connection.execute(floor.SCHEMA)
    else:
        work(dsn, int(os.environ["BENCH_SLOTS"]))
