"""What 10,000 rows at the head of a queue cost a claim that may take none of them: p50 and p99 beside the same queue without them.

    python benchmarks/heads.py [--rows 10000] [--pending 1000000] [--claims 500] [--only "a full key"]

Each kind has a database of its own beside the one without, and their claims alternate, so that both meet the same disturbances. A
claim is timed as a worker sends it; surveys come between claims, as a worker's do, and are shown by themselves. Without: the same rows
are there, and are deleted before the claims.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import percentile
from tests.support.heads import KINDS, Kind, keep_busy, load
from tests.support.steps import ME
from tests.support.stores import Stores
from turbo import embedded
from turbo.db.lane import Lane
from turbo.domain.states import WorkerState
from turbo.migrate import migrate


class Side:
    """One database, and a worker that claims from it. Times in milliseconds."""

    def __init__(self, dsn: str, kind: Kind) -> None:
        self.kind = kind
        self.lane, self.results = Lane(dsn, "heads"), Lane(dsn, "heads results")
        for lane in (self.lane, self.results):
            lane.prepare_statements(True)
        self.stores = Stores("w-1-abc", self.lane, self.results, host="h")
        self.claims: list[float] = []
        self.surveys: list[float] = []

    async def claim(self) -> None:
        begun = time.perf_counter()
        claim = await self.stores.claims.claim(
            "default", 1, may_idle=False, types=self.kind.types, spent=self.kind.spent
        )
        self.claims.append((time.perf_counter() - begun) * 1e3)
        assert [task.task_id[:4] for task in claim.tasks] == ["free"], claim
        begun = time.perf_counter()
        await self.stores.claims.survey(claim, short=False)
        took = (time.perf_counter() - begun) * 1e3
        if took > 0.1:
            self.surveys.append(took)


async def measure(server: embedded.Server, kind: Kind, rows: int, pending: int, claims: int) -> tuple[Side, Side]:
    sides = []
    for name in ("with_head", "without"):
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)".encode())
            admin.execute(f"create database {name}".encode())
        dsn = psycopg.conninfo.make_conninfo(server.dsn, dbname=name)
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as db:
            keep_busy(db, "k")
            load(db, kind, rows)
            load(db, None, pending, days=1)
            if name == "without":
                db.execute("delete from agent_tasks where task_id like 'held%'")
            db.execute("vacuum analyze agent_tasks")
        side = Side(dsn, kind)
        await side.stores.registry.register(ME, WorkerState.UP)
        sides.append(side)
    for number in range(claims + 50):
        for side in sides if number % 2 else reversed(sides):
            await side.claim()
        if number == 49:
            first = sides[0].claims[:2]
            for side in sides:
                side.claims.clear()
            sides[0].surveys.insert(0, max(first))
    for side in sides:
        await side.lane.close()
        await side.results.close()
    return sides[0], sides[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=500)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(f"{options.rows:,} rows at the head of {options.pending:,}; milliseconds")
    with embedded.temporary(trust=True) as server:
        for name, kind in KINDS.items():
            if options.only in name:
                ahead, without = asyncio.run(measure(server, kind, options.rows, options.pending, options.claims))
                p50, p99 = (percentile(ahead.claims, q) for q in (0.5, 0.99))
                w50, w99 = (percentile(without.claims, q) for q in (0.5, 0.99))
                print(
                    f"{name}: p50 {p50:.2f} / {w50:.2f} = {p50 / w50:.2f}, p99 {p99:.2f} / {w99:.2f} = {p99 / w99:.2f};"
                    f" first claim {ahead.surveys[0]:.1f}, surveys {len(ahead.surveys) - 1}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
