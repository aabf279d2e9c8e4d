"""At most one running task per concurrency_key, and no waiter forgotten when a key comes free."""

import asyncio
import random
import time
from collections import Counter

import psycopg
import pytest

from tests.support.rig import Rig, finished
from tests.support.size import sized
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.states import WorkerState

KEYS = ("a", "b", "c")
ENOUGH = 100
PATIENCE = 60.0
"""Seconds more, on a machine that has other things to do."""


async def race(dsn: str, seconds: float) -> tuple[int, int]:
    """Six workers claim and finish tasks of three keys as fast as they can, for `seconds` and for more than ENOUGH runs. Returns
    (keyed runs, overlapping runs).

    The ledger of who runs what is this function's own: a run begins when its claim is answered and ends before its
    result is sent, so what it counts as overlapping overlapped.
    """
    running: Counter[str] = Counter()
    runs = overlaps = 0
    end = time.monotonic() + seconds
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_description, concurrency_key)"
            " select 'x', (array['a','b','c'])[1 + i %% 3] from generate_series(1, %s) i",
            [int(600 * seconds)],
        )

    async def worker(number: int) -> None:
        nonlocal runs, overlaps
        lanes = Lane(dsn, "race"), Lane(dsn, "race")
        stores = Stores(f"w{number}-1-abcdef", *lanes)
        await stores.registry.register(
            WorkerRow("w", "h", 1, "0", 3, ("default",), {}, (), None, 10, 60, 30), WorkerState.UP
        )
        while time.monotonic() < end or (runs <= ENOUGH and time.monotonic() < end + PATIENCE):
            claim = await stores.claims.claim("default", 3, may_idle=True)
            for task in claim.tasks:
                running[task.concurrency_key or ""] += 1
                runs += 1
                overlaps += running[task.concurrency_key or ""] > 1
            await asyncio.sleep(random.uniform(0, 0.002))
            for task in claim.tasks:
                running[task.concurrency_key or ""] -= 1
            if claim.tasks:
                await stores.results.finish([finished(task, stores.worker_id) for task in claim.tasks])
        for lane in lanes:
            await lane.close()

    await asyncio.gather(*(worker(i) for i in range(6)))
    return runs, overlaps


@pytest.mark.quiet
@pytest.mark.sized
async def test_runs_of_one_key_never_overlap(dsn, capsys):
    runs, overlaps = await race(dsn, sized(2.0, 60.0))
    with capsys.disabled():
        print(f"\nkeyed runs raced by six workers: {runs}, overlapping: {overlaps}")
    assert runs > ENOUGH
    assert overlaps == 0


async def test_without_the_unique_index_runs_overlap(dsn):
    """The control: NOT EXISTS alone looks with a snapshot older than its sibling's commit."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop index agent_tasks_one_running_per_place")
    _, overlaps = await race(dsn, 3)
    assert overlaps > 0


async def test_batch_takes_one_task_of_a_key_and_goes_on(dsn):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_description, concurrency_key, task_priority) select 'x', 'k', 9 from generate_series(1, 50)"
        )
        db.execute("insert into agent_tasks (task_id, task_description, task_priority) values ('behind', 'x', 1)")
    async with Rig(dsn, slots_size=10) as rig:
        started = {(await rig.claimed())[0].task_id, (await rig.claimed())[0].task_id}
        assert "behind" in started, "what stands behind the waiters of a key is not starved by them"
        assert rig.started.empty()


@pytest.mark.parametrize("how", ["finished", "deleted by hand after a cancel"])
async def test_freed_key_wakes_a_waiter_on_another_worker(dsn, how):
    """The finisher serves another queue, polls are an hour apart and there is no ladder: only the freed-key wake can tell."""
    async with (
        Rig(dsn, name="one", queues=("left",)) as one,
        Rig(dsn, name="two", queues=("right",), recheck=False) as two,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db,
    ):
        await db.execute(
            "insert into agent_tasks (task_id, task_description, queue, concurrency_key) values ('first', 'x', 'left', 'k')"
        )
        first, _ = await one.claimed()
        await db.execute(
            "insert into agent_tasks (task_id, task_description, queue, concurrency_key) values ('waiter', 'x', 'right', 'k')"
        )
        while "right" not in two.wakeups.heard:  # it was told of the insert, and found the key taken
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert two.started.empty()
        two.wakeups.heard.clear()
        if how == "finished":
            await one.finish(first)
        else:
            await db.execute("update agent_tasks set status = 'cancelled' where task_id = 'first'")
            await one.finish(first)
        waiter, _ = await two.claimed()
        assert waiter.task_id == "waiter"
        assert "right" in two.wakeups.heard, "woken, not polled"
