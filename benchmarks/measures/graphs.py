"""Tasks that wait for others: how long the settler takes to tie them and to let them go, over the size of the graph.

Its statements are sent as a worker sends them, prepared, by one settler. What is measured beside them in the same run is the poll
that promotes as many due rows: it writes the same status, the same audit row, and wakes the same queue.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from benchmarks.bench import Bench, Table, median, spread
from benchmarks.contenders.turbo import CONTENDERS
from tests.support.stores import Stores
from turbo.db.channels import Notifier
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.settle_store import SettleStore
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.worker.settler import Settler
from turbo.worker.wakeups import WakeUps

FAN_OUT, FAN_IN, CHAIN = 1_000, 10_000, 10_000
ENDS = 100
"""Needs that end at once, as in one batch of results; and steps of a chain that are measured at each end."""


class Settling:
    """One settler, a worker's other statements, and a person's session."""

    def __init__(self, dsn: str, db: "psycopg.Connection[Any]") -> None:
        self.db = db
        self.lanes = Lane(dsn, "bench settle"), Lane(dsn, "bench claims"), Lane(dsn, "bench results")
        for lane in self.lanes:
            lane.prepare_statements(True)
        self.store = SettleStore(self.lanes[0], "bench-1-abcdef", Refusals(Problems(), Metrics()))
        self.stores = Stores("bench-1-abcdef", *self.lanes[1:], host="here")
        wakeups = WakeUps(["default"], poll_seconds=30)
        self.settler = Settler(self.store, Notifier(self.lanes[1]), wakeups)

    async def one_pass(self) -> float:
        """Milliseconds of a pass of the settler."""
        return await timed(self.settler.once)

    def count(self, status: str) -> int:
        (count,) = self.db.execute("select count(*) from agent_tasks where status = %s", [status]).fetchone() or (0,)
        return int(count)

    def end(self, condition: str, status: str = "completed") -> None:
        """As finishes leave their tasks: not by hand, which would cost a line of the trail and a notice each."""
        self.db.execute(
            "update public.agent_tasks set status = %s, completed_at = clock_timestamp(), turbo_rev = turbo_rev + 1"
            f" where {condition}".encode(),
            [status],
        )


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1e3


@asynccontextmanager
async def settling(dsn: str) -> AsyncIterator[Settling]:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("set search_path = public")
        one = Settling(dsn, db)
        insert(db, "'warm' || n", "null", 1, 2)
        await one.one_pass()
        await one.stores.claims.poll(["default"])
        db.execute("delete from agent_tasks")
        try:
            yield one
        finally:
            for lane in one.lanes:
                await lane.close()


def insert(db: "psycopg.Connection[Any]", task_id: str, needs: str, first: int, last: int) -> None:
    """One statement; `task_id` and `needs` are expressions of n."""
    db.execute(
        "insert into public.agent_tasks (task_id, task_description, needs)"
        f" select {task_id}, 'x', ({needs})::text[] from generate_series(%s::int, %s::int) n order by n".encode(),
        [first, last],
    )


async def fan_out(one: Settling, many: int) -> dict[str, float]:
    """`many` tasks wait for one; and as many rows that are due."""
    db = one.db
    insert(db, "'need'", "null", 1, 1)
    insert(db, "'d' || n", "'{need}'", 1, many)
    tied = await one.one_pass()
    db.execute("analyze agent_tasks, agent_dependencies, agent_blocked")
    step = one.store.settle
    await step()  # planned anew, after the analyze
    one.end("task_id = 'need'")
    released = await timed(step)
    assert one.count("pending") == many
    rest = await one.one_pass()
    db.execute("delete from agent_tasks")
    db.execute(
        "insert into agent_tasks (task_id, task_description, run_after, status)"
        " select 's' || n, 'x', now() + interval '1 hour', 'scheduled' from generate_series(1, %s::int) n",
        [many],
    )
    db.execute("analyze agent_tasks")
    await one.stores.claims.poll(["default"])
    db.execute("set session_replication_role = replica")
    db.execute("update agent_tasks set run_after = now() - interval '1 second'")
    db.execute("reset session_replication_role")
    promoted = await timed(lambda: one.stores.claims.poll(["default"]))
    assert one.count("pending") == many
    db.execute("delete from agent_tasks")
    db.execute("vacuum agent_tasks, agent_dependencies, agent_blocked, agent_unsettled")
    return {
        "tied": tied,
        "released": released,
        "and the rest of the pass": rest,
        "promoted": promoted,
        "released ÷ promoted": released / promoted,
    }


async def fan_in(one: Settling, many: int) -> dict[str, float]:
    """One task waits for `many`, which end in batches."""
    db = one.db
    insert(db, "'n' || n", "null", 1, many)
    insert(db, "'t'", f"(select array_agg('n' || m) from generate_series(1, {many}) m)", 1, 1)
    tied = await one.one_pass()
    ends: list[float] = []
    for start in range(1, many + 1, ENDS):
        one.end(f"task_id in (select 'n' || m from generate_series({start}, {start + ENDS - 1}) m)")
        ends.append(await one.one_pass())
    assert one.count("pending") == 1, "let go by the last, and not before"
    db.execute("delete from agent_tasks")
    return {"tied": tied, "µs an edge": tied * 1e3 / many, **at_both_ends(ends)}


async def chain(one: Settling, many: int) -> dict[str, float]:
    """Each waits for the one before it."""
    db = one.db
    insert(db, "'c' || n", "case when n > 0 then array['c' || (n - 1)] end", 0, many)
    tied = await one.one_pass()
    steps: list[float] = []
    for n in (*range(ENDS), *range(many - ENDS, many)):
        if n == many - ENDS:
            db.execute("alter table agent_tasks disable trigger user")
            one.end(f"task_id in (select 'c' || m from generate_series({ENDS}, {n - 1}) m)")
            db.execute("alter table agent_tasks enable trigger user")
            await one.one_pass()
        one.end(f"task_id = 'c{n}'")
        steps.append(await one.one_pass())
    assert one.count("pending") == 1
    db.execute("delete from agent_tasks")
    insert(db, "'c' || n", "case when n > 0 then array['c' || (n - 1)] end", 0, many)
    await one.one_pass()
    one.end("task_id = 'c0'", "failed")
    cancelled = await one.one_pass()
    assert one.count("cancelled") == many
    db.execute("update agent_tasks set status = 'pending' where task_id = 'c0'")
    retried = await one.one_pass()
    assert one.count("blocked") == many
    db.execute("delete from agent_tasks")
    return {
        "tied": tied,
        "µs an edge": tied * 1e3 / many,
        **at_both_ends(steps, ENDS),
        "cancelled, ms a level": cancelled / many,
        "retried, ms a level": retried / many,
    }


def at_both_ends(steps: Sequence[float], share: int | None = None) -> dict[str, float]:
    """The first and the last passes, ms."""
    many = share or max(1, len(steps) // 10)
    first, last = median(steps[:many]), median(steps[-many:])
    return {"first ends": first, "last ends": last, "last ÷ first": last / first}


def graphs(bench: Bench) -> Table:
    (turbo,) = CONTENDERS
    size = 100 if bench.quick else 1
    shapes: dict[str, Callable[[Settling], Awaitable[dict[str, float]]]] = {
        f"fan-out of {FAN_OUT // size:,}": lambda one: fan_out(one, FAN_OUT // size),
        f"fan-in of {FAN_IN // size:,}": lambda one: fan_in(one, FAN_IN // size),
        f"fan-in of {FAN_IN // size // 10:,}": lambda one: fan_in(one, FAN_IN // size // 10),
        f"chain of {CHAIN // size:,}": lambda one: chain(one, CHAIN // size),
        f"chain of {CHAIN // size // 10:,}": lambda one: chain(one, CHAIN // size // 10),
    }
    if bench.quick:
        shapes = dict(list(shapes.items())[:1])
    found: dict[str, list[dict[str, float]]] = {}

    async def rounds() -> None:
        for number in range(bench.rounds):
            for name, shape in shapes.items():
                with bench.database(turbo, 10) as dsn:
                    async with settling(dsn) as one:
                        found.setdefault(name, []).append(await shape(one))
            bench.say(f"  round {number + 1} done")

    asyncio.run(rounds())
    rows = []
    for name, each in found.items():
        figures = {column: median(r[column] for r in each) for column in each[0]}
        figures["spread of tied"] = spread(r["tied"] for r in each)
        rows.append((name, figures))
    columns = ["tied", "µs an edge", "released", "and the rest of the pass", "promoted", "released ÷ promoted"]
    columns += [
        "first ends",
        "last ends",
        "last ÷ first",
        "cancelled, ms a level",
        "retried, ms a level",
        "spread of tied",
    ]
    return Table(
        "Tasks that wait for others, ms",
        columns,
        rows,
        "tied: the pass of the settler after the insert, until all edges are there. released: from the call of the settler to the"
        " answer of the statement after which all are claimable; promoted: the poll that promotes as many due rows, in the same run."
        f" ends: the pass after {ENDS} needs of a fan-in, or one task of a chain, are over, at the beginning and at the end."
        f" Medians of {bench.rounds} interleaved rounds.",
        less_is_better=("released ÷ promoted", "last ÷ first"),
    )
