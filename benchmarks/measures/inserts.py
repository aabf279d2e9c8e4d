"""Inserts: what turbo's triggers cost those who insert, as the ratio to the same table with its triggers off.

pgbench inserts one row a transaction; bare sessions that LISTEN stand in for a fleet's listeners. The fleet is busy (no idle
flag is up: the gate is shut) or idle (each listener's worker row says idle, and nobody ever claims: the dearest case). Each
session hears for a worker's quiet keeper; these coalesce wake-ups, as in a real fleet. Beside it what a trigger that always
notifies would cost.
"""

import asyncio
import contextlib
import itertools
import re
import select
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psycopg

from benchmarks.bench import Bench, Table, median
from benchmarks.contenders.turbo import CONTENDERS
from turbo.db.lane import Lane
from turbo.db.quiet_store import QuietStore
from turbo.worker.quiet_keeper import QuietKeeper

WRITERS = (1, 8, 32)
LISTENERS = (0, 10, 100)
SECONDS = 2
BULK = 100_000
INSERT = "insert into agent_tasks (task_description) values ('x');\n"
NAIVE = """
create function naive_wake() returns trigger language plpgsql as
  $$ begin perform pg_notify('turbo_q_default', ''); return null; end $$;
create trigger naive_wake after insert on agent_tasks for each statement execute function naive_wake();
alter table agent_tasks disable trigger naive_wake;
"""
WORKERS = """
insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle)
select 'bench-' || n, 'bench', 'host' || n %% 2, n, '0', 10, '{default}', true from generate_series(1, greatest(%s, 1)) n
"""
KINDS = {
    "none": ("alter table agent_tasks disable trigger user", "update agent_workers set idle = false"),
    "busy": ("alter table agent_tasks enable trigger user", "alter table agent_tasks disable trigger naive_wake",
             "update agent_workers set idle = false"),
    "idle": ("alter table agent_tasks enable trigger user", "alter table agent_tasks disable trigger naive_wake",
             "update agent_workers set idle = true, heartbeat_at = clock_timestamp()"),
    "naive": ("alter table agent_tasks disable trigger user", "alter table agent_tasks enable trigger naive_wake"),
}  # fmt: skip


@contextlib.contextmanager
def listening(dsn: str, count: int) -> Iterator[None]:
    """So many sessions that LISTEN as a worker does, read by one thread. Their quiet keepers run in another."""
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(count)]
        for number, session in enumerate(sessions):
            session.execute(f'listen turbo_q_default; listen turbo_ctl; listen "turbo_w_bench-{number + 1}"')
        over = threading.Event()
        hear = stack.enter_context(_keeping(dsn, count))

        def read() -> None:
            waiting = select.poll()
            known = {session.fileno(): session.pgconn for session in sessions}
            numbers = {session.fileno(): number for number, session in enumerate(sessions)}
            for descriptor in known:
                waiting.register(descriptor, select.POLLIN)
            while not over.is_set():
                for descriptor, _ in waiting.poll(100):
                    known[descriptor].consume_input()
                    while (notify := known[descriptor].notifies()) is not None:
                        if notify.relname != b"turbo_ctl":
                            hear(numbers[descriptor])

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()


@contextlib.contextmanager
def _keeping(dsn: str, count: int) -> Iterator[Callable[[int], object]]:
    """The quiet keepers of so many workers, in a thread. Yields what to call with the number of one that hears a wake-up."""

    async def keep(ready: "Future[Callable[[int], object]]") -> None:
        lane, loop, over = Lane(dsn, "keepers"), asyncio.get_running_loop(), asyncio.Event()
        keepers = [QuietKeeper(QuietStore(lane, f"bench-{n + 1}"), poll_seconds=30.0) for n in range(count)]
        for keeper in keepers:
            keeper.start(lambda name, error: print(f"{name} crashed: {error!r}"))
        stops.append(lambda: loop.call_soon_threadsafe(over.set))
        ready.set_result(lambda number: loop.call_soon_threadsafe(keepers[number].heard, "default"))
        await over.wait()
        for keeper in keepers:
            await keeper.stop()
        await lane.close()

    ready: Future[Callable[[int], object]] = Future()
    stops: list[Callable[[], object]] = []
    thread = threading.Thread(target=lambda: asyncio.run(keep(ready)))
    thread.start()
    try:
        yield ready.result(10)
    finally:
        for stop in stops:
            stop()
        thread.join()


def inserts(bench: Bench) -> Table:
    (turbo,) = CONTENDERS
    seconds = 1 if bench.quick else SECONDS
    writers, listeners = ((8,), (10,)) if bench.quick else (WRITERS, LISTENERS)
    rates: dict[tuple[int, int, str], list[float]] = {}
    bulks: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        dsn = stack.enter_context(bench.database(turbo, 10))
        admin = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        Path(directory).chmod(0o755)
        script = Path(directory) / "insert.sql"
        script.write_text(INSERT)
        script.chmod(0o644)
        admin.execute(NAIVE)

        def become(kind: str) -> None:
            admin.execute("truncate agent_tasks, agent_actions")
            for statement in KINDS[kind]:
                admin.execute(statement)

        for number in range(bench.rounds if bench.rounds < 3 else 3):
            for count in listeners:
                admin.execute("delete from agent_workers")
                admin.execute(WORKERS, [count])
                with listening(dsn, count):
                    for clients, kind in itertools.product(writers, KINDS if number % 2 else reversed(KINDS)):
                        become(kind)
                        arguments = (
                            "-n",
                            "-M",
                            "prepared",
                            "-f",
                            str(script),
                            "-c",
                            str(clients),
                            "-j",
                            str(min(clients, 2)),
                        )
                        said = bench.server.run("pgbench", *arguments, "-T", str(seconds), dsn)
                        rate = float(re.search(r"tps = ([\d.]+)", said)[1])  # type: ignore[index]
                        rates.setdefault((clients, count, kind), []).append(rate)
                bench.say(f"  round {number + 1}, {count} listeners done")
            for kind in ("none", "busy", "idle"):
                become(kind)
                with psycopg.connect(dsn) as one:
                    row = one.execute("select clock_timestamp()").fetchone()
                    one.execute(
                        "insert into agent_tasks (task_description) select 'x' from generate_series(1, %s)",
                        [2000 if bench.quick else BULK],
                    )
                    took = one.execute("select extract(epoch from clock_timestamp() - %s)::float8", row).fetchone()
                bulks.setdefault(kind, []).append(float(took[0]))  # type: ignore[index]
    rows = []
    for clients, count in itertools.product(writers, listeners):
        found = {kind: median(rates[clients, count, kind]) for kind in KINDS}
        rows.append(
            (
                f"{clients} writers, {count} listeners",
                {
                    "no triggers, inserts/s": found["none"],
                    "busy fleet ÷ none": found["busy"] / found["none"],
                    "idle fleet ÷ none": found["idle"] / found["none"],
                    "always notifying ÷ none": found["naive"] / found["none"],
                },
            )
        )
    bulk = {kind: median(found) for kind, found in bulks.items()}
    size = 2000 if bench.quick else BULK
    rows.append(
        (
            f"one statement of {size:,} rows",
            {
                "no triggers, inserts/s": size / bulk["none"],
                "busy fleet ÷ none": bulk["none"] / bulk["busy"],
                "idle fleet ÷ none": bulk["none"] / bulk["idle"],
            },
        )
    )
    return Table(
        "Insert rate with turbo's triggers ÷ without them",
        ["no triggers, inserts/s", "busy fleet ÷ none", "idle fleet ÷ none", "always notifying ÷ none"],
        rows,
        f"pgbench, one row a transaction, {seconds} s each, interleaved; medians of up to 3 rounds."
        " Each listener hears for a quiet keeper.",
        more_is_better=("busy fleet ÷ none", "idle fleet ÷ none"),
    )
