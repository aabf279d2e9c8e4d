"""What many workers cost one database that has nothing to do, and how soon one of them takes a task: with and without PgBouncer.

    python benchmarks/thousand.py [--workers 1,10,100,300,1000] [--ways direct,pooled] [--tasks 200] [--idle 20] [--out docs/benchmarks]

The workers run in this process: of each there is turbo's listener, claimer, lanes and beats, with their statements and their
cadence. Their runs end at once. `direct`: every session goes to PostgreSQL. `pooled`: listeners and beats do, the rest goes
through PgBouncer in transaction mode. First nothing happens for `--idle` seconds, then `--tasks` tasks are inserted one at a
time. The figures go to thousand.json in `--out`, and the curves to thousand.svg where matplotlib is installed. `--plot` only
draws.

It leaves out a number of workers for which the memory of this machine would not do.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import random
import resource
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import psutil
from psycopg import AsyncConnection, conninfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import SERVER_SETTINGS, percentile
from benchmarks.herd_worker import count_statements
from benchmarks.report import figure, machine
from tests.support.pgbouncer import pgbouncer
from tests.support.rig import Rig
from tests.support.waiting import until_async
from turbo import db, embedded
from turbo.db.worker_registry import beat
from turbo.migrate import migrate

BEAT_SECONDS, POLL_SECONDS = 10.0, 30.0
"""As in config/worker.yaml."""

AT_ONCE = 10
"""Workers that start side by side."""

SETTLED_SECONDS = 12.0
"""An idle session reports what it has committed up to ten seconds late."""

POOL = 20
SPARE = 5 * 2**30
"""Bytes of memory that are left to others."""


@dataclass
class Figures:
    """Of one number of workers. Seconds of the CPU are the server's, without PgBouncer's. None: not measured."""

    way: str
    workers: int
    connections: int
    server_mb: float
    beats_per_second: float
    idle_transactions_per_second: float | None
    idle_cpu_percent: float
    pickup_p50_ms: float
    pickup_p99_ms: float
    claims_per_task: float
    polls_per_task: float
    cpu_ms_per_task: float | None
    load_before: float


class Fleet:
    """Workers in this process."""

    def __init__(self, dsn: str, listen_dsn: str | None) -> None:
        self._dsn, self._listen_dsn = dsn, listen_dsn
        self.rigs: list[Rig] = []
        self.beats = 0
        self.taken: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._jobs: set[asyncio.Task[None]] = set()
        self._stack = contextlib.AsyncExitStack()

    async def grow(self, count: int) -> None:
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*(self._add(number) for number in range(first, min(count, first + AT_ONCE))))

    async def _add(self, number: int) -> None:
        rig = Rig(self._dsn, name=f"w{number}", slots_size=1, poll_seconds=POLL_SECONDS, listen_dsn=self._listen_dsn)
        await self._stack.enter_async_context(rig)
        for lane in rig.lanes:
            lane.prepare_statements(True)
        self.rigs.append(rig)
        self._jobs |= {asyncio.create_task(self._work(rig)), asyncio.create_task(self._beat(rig))}

    async def _work(self, rig: Rig) -> None:
        while True:
            task, at = await rig.started.get()
            self.taken.put_nowait((task.task_id, at))
            await rig.finish(task)

    async def _beat(self, rig: Rig) -> None:
        connection = await db.connect(rig.where.listen, f"turbo heartbeat {rig.worker_id}")
        async with connection:
            await asyncio.sleep(random.uniform(0, BEAT_SECONDS))
            while True:
                await beat(connection, rig.worker_id, busy=0, may_lead=True, leader_lease=3 * BEAT_SECONDS)
                self.beats += 1
                await asyncio.sleep(BEAT_SECONDS * random.uniform(0.9, 1.0))

    async def close(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._stack.aclose()


class Server:
    """What its processes use."""

    def __init__(self, pid: int) -> None:
        self._postmaster = psutil.Process(pid)

    def cpu(self) -> float:
        """Seconds since its start, of processes that have ended, too."""
        own = self._postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._postmaster.children():
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)

    def memory(self) -> int:
        """Bytes: what its processes share is counted once."""
        total = 0
        for one in (self._postmaster, *self._postmaster.children()):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
        return total


async def measure(
    server: embedded.Server, way: str, workers: int, tasks: int, idle: float, counts: dict[str, int]
) -> Figures:
    load, processes = os.getloadavg()[0], Server(server.pid)
    async with database(server) as (dsn, watch):
        with contextlib.ExitStack() as stack:
            through = dsn
            if way == "pooled":
                more = f"max_client_conn = {4 * workers + 100}"
                through = stack.enter_context(pgbouncer(dsn, "transaction", pool_size=POOL, more=more)).dsn
            fleet = Fleet(through, dsn if way == "pooled" else None)
            try:
                await fleet.grow(workers)
                await all_idle(watch, workers)
                await asyncio.sleep(SETTLED_SECONDS)
                before, cpu, beats, begun = await committed(watch), processes.cpu(), fleet.beats, time.monotonic()
                await asyncio.sleep(idle)
                took = time.monotonic() - begun
                idle_cpu, per_second = (processes.cpu() - cpu) / took, (fleet.beats - beats) / took
                transactions = (await committed(watch) - before) / took
                (connections,) = await row(
                    watch, "select count(*) from pg_stat_activity where datname = current_database()"
                )
                memory = processes.memory() / 2**20
                counts.update(claim=0, poll=0)
                cpu, begun = processes.cpu(), time.monotonic()
                pickups = await insert_one_by_one(watch, fleet, tasks, workers)
                cpu = processes.cpu() - cpu - idle_cpu * (time.monotonic() - begun)
            finally:
                await fleet.close()
    return Figures(
        way, workers, int(connections) - 1, memory, per_second, transactions, idle_cpu * 100,
        percentile(pickups, 0.5) * 1e3, percentile(pickups, 0.99) * 1e3,
        counts["claim"] / tasks, counts["poll"] / tasks, max(0.0, cpu) / tasks * 1e3, load,
    )  # fmt: skip


async def insert_one_by_one(watch: "AsyncConnection[Any]", fleet: Fleet, tasks: int, workers: int) -> list[float]:
    """Seconds from each commit to the start of its run. Every worker is idle again before the next one."""
    pickups = []
    for number in range(tasks):
        insert = "insert into public.agent_tasks (task_id, task_description) values (%s, 'x')"
        await watch.execute(insert, [f"t{number}"])
        committed_at = time.monotonic()
        async with asyncio.timeout(60):
            task_id, at = await fleet.taken.get()
        assert task_id == f"t{number}"
        pickups.append(max(0.0, at - committed_at))
        await all_idle(watch, workers)
    return pickups


async def all_idle(watch: "AsyncConnection[Any]", workers: int) -> None:
    async def idle() -> bool:
        return await row(watch, "select count(*) filter (where idle) from public.agent_workers") == (workers,)

    await until_async(idle, 300, pause=0.02 if workers < 100 else 0.2)


async def committed(watch: "AsyncConnection[Any]") -> int:
    ask = "select xact_commit from pg_stat_database where datname = current_database()"
    return int((await row(watch, ask))[0])


async def row(watch: "AsyncConnection[Any]", ask: str) -> tuple[Any, ...]:
    return await (await watch.execute(ask.encode())).fetchone() or ()


@contextlib.asynccontextmanager
async def database(server: embedded.Server) -> AsyncIterator[tuple[str, "AsyncConnection[Any]"]]:
    """A new, migrated one, and a session of the observer's."""
    async with await AsyncConnection.connect(server.dsn, autocommit=True) as admin:
        await admin.execute("drop database if exists thousand with (force)")
        await admin.execute("create database thousand")
    dsn = conninfo.make_conninfo(server.dsn, dbname="thousand", host="127.0.0.1")
    await asyncio.to_thread(migrate, dsn)
    async with await AsyncConnection.connect(dsn, autocommit=True) as watch:
        yield dsn, watch


def would_fit(found: list[Figures], way: str, workers: int) -> bool:
    """Whether the server's memory for so many leaves SPARE, by what fewer have used."""
    known = [one for one in found if one.way == way and one.workers >= 10]
    if not known:
        return True
    last = known[-1]
    needed = last.server_mb * 2**20 * workers / last.workers
    return psutil.virtual_memory().available - needed > SPARE


def run(options: argparse.Namespace) -> list[Figures]:
    counts = {"claim": 0, "poll": 0}
    count_statements(counts)
    numbers = [int(text) for text in options.workers.split(",")]
    settings = SERVER_SETTINGS | {"max_connections": str(4 * max(numbers) + 100)}
    found: list[Figures] = []
    for way in options.ways.split(","):
        with embedded.temporary(trust=True, settings=settings) as server:
            for workers in numbers:
                if not would_fit(found, way, workers):
                    print(f"{way}, {workers} workers: left out, this machine has too little memory", flush=True)
                    continue
                try:
                    one = asyncio.run(measure(server, way, workers, options.tasks, options.idle, counts))
                except (*db.DATABASE_ERRORS, AssertionError) as error:
                    print(f"{way}, {workers} workers: {db.reason(error)}", flush=True)
                    continue
                found.append(one)
                save(options.out, found)
                print(", ".join(f"{name} {shown(value)}" for name, value in asdict(one).items()), flush=True)
    return found


def save(out: Path | None, found: list[Figures]) -> None:
    if out is None:
        return
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    document = {"when": when, "machine": machine(), "figures": [asdict(one) for one in found]}
    (out / "thousand.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(out, found)


def shown(value: object) -> str:
    return figure(value) if isinstance(value, float) else str(value)


CURVES = {
    "connections": "sessions with PostgreSQL",
    "server_mb": "memory of the server, MB",
    "idle_transactions_per_second": "transactions a second, idle",
    "idle_cpu_percent": "CPU of the server, idle, % of a core",
    "pickup_p50_ms": "pickup, median, ms",
    "cpu_ms_per_task": "CPU of the server for a task, ms",
}


def plot(out: Path, found: list[Figures]) -> None:
    """thousand.svg and thousand.png; without matplotlib (it comes with the extra `bench`) the ones of the last run stay."""
    if util.find_spec("matplotlib") is None:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "turbo"
    from matplotlib import pyplot as plt

    fig, all_axes = plt.subplots(2, 3, figsize=(11, 5.6), layout="constrained")
    for axes, (name, title) in zip(all_axes.flat, CURVES.items(), strict=True):
        for way, colour in (("direct", "#4c6ef5"), ("pooled", "#d9480f")):
            points = [
                (one.workers, getattr(one, name)) for one in found if one.way == way and getattr(one, name) is not None
            ]
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=way) if points else None
        axes.set(xscale="log", yscale="log", title=title, xlabel="workers")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    all_axes.flat[0].legend()
    fig.savefig(out / "thousand.svg", metadata={"Date": None})
    fig.savefig(out / "thousand.png", dpi=110, metadata={"Software": None})
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,10,100,300,1000")
    parser.add_argument("--ways", default="direct,pooled")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--idle", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--plot", action="store_true", help="draw what thousand.json in --out has")
    options = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.plot:
        known = json.loads((options.out / "thousand.json").read_text())
        plot(options.out, [Figures(**one) for one in known["figures"]])
        return
    run(options)


if __name__ == "__main__":
    main()
