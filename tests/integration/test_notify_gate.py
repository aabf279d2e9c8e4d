"""The gate on NOTIFY: silent towards a busy fleet, and never a lost wake-up.

The one race it leaves is stepped here, row by row: the insert's trigger looks while nobody is idle; the worker's idle
flag is committed; its last claim finds nothing; then the insert commits, and nobody was told. The ladder finds such a row
about as long after its commit as its own transaction stayed open.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence

import psycopg
import pytest

from tests.support.rig import Rig
from tests.support.size import sized
from tests.support.waiting import until_async
from turbo.db.claim_store import ClaimStore
from turbo.db.connect import Connection

HOLDS = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4]  # seconds a transaction stays open
SLACK = 0.1


async def insert_open(dsn: str, task_id: str) -> psycopg.AsyncConnection:
    connection = await psycopg.AsyncConnection.connect(dsn)
    await connection.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [task_id])
    return connection


async def one_lost_wake(rig: Rig, watcher: psycopg.AsyncConnection, number: int, hold: float) -> tuple[float, float]:
    """Steps the race once. Returns (seconds the transaction stayed open, seconds from its commit to its claim)."""

    async def idle() -> bool:
        cursor = await watcher.execute("select idle from agent_workers where worker_id = %s", [rig.worker_id])
        return (await cursor.fetchone())[0]

    await until_async(idle, 10, pause=0.001)  # or the row below may itself hit the race, and be lost in the control
    told = len(rig.wakeups.heard)
    await watcher.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"busy-{number}"])
    blocker, _ = await rig.claimed()
    assert blocker.task_id == f"busy-{number}"

    async def busy() -> bool:
        return not await idle()

    await until_async(busy, 10, pause=0.001)

    async def woken() -> bool:
        return len(rig.wakeups.heard) > told

    await until_async(woken, 10, pause=0.001)
    heard = len(rig.wakeups.heard)
    opened = time.monotonic()
    writer = await insert_open(rig.dsn, f"late-{number}")  # the trigger looked: nobody is idle
    await rig.finish(blocker)
    await until_async(idle, 10, pause=0.001)  # the flag is committed

    async def last_claim_done() -> bool:
        return rig.wakeups.at_rest

    await until_async(last_claim_done, 10, pause=0.001)
    await asyncio.sleep(max(0.0, hold - (time.monotonic() - opened)))
    assert rig.started.empty(), "the row is not visible yet"
    await writer.commit()
    committed = time.monotonic()
    open_for = committed - opened
    assert len(rig.wakeups.heard) == heard, "no notification: this row really hit the race"
    try:
        task, at = await rig.claimed(open_for + 1.0)
    except TimeoutError:
        return open_for, float("inf")
    finally:
        await writer.close()
    assert task.task_id == f"late-{number}"
    await rig.finish(task)
    await until_async(idle, 10, pause=0.001)
    return open_for, at - committed


@pytest.mark.quiet
@pytest.mark.sized
async def test_row_missed_by_the_gate_waits_as_long_as_its_transaction(dsn, capsys):
    waits = []
    async with Rig(dsn) as rig, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watcher:
        for number, hold in enumerate(HOLDS * sized(1, 10)):
            waits.append(await one_lost_wake(rig, watcher, number, hold))
    with capsys.disabled():
        print(
            f"\nlost wake-ups stepped: {len(waits)}; wait after commit ÷ time open: median"
            f" {statistics.median(w / o for o, w in waits):.2f}, worst {max(w / o for o, w in waits):.2f};"
            f" worst wait {max(w for _, w in waits) * 1000:.0f} ms"
        )
    assert len(waits) >= len(HOLDS)
    for open_for, waited in waits:
        assert waited <= open_for + SLACK


async def test_without_rechecks_a_missed_row_is_lost(dsn):
    """The control: the same steps, the guard off."""
    async with Rig(dsn, recheck=False) as rig, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watcher:
        assert await one_lost_wake(rig, watcher, 0, 0.02) == (pytest.approx(0.02, abs=10), float("inf"))


@pytest.fixture
def looks(monkeypatch):
    """When the claimer polled, one entry a poll."""
    found: list[float] = []
    poll = ClaimStore.poll

    def counting(self: ClaimStore, queues: Sequence[str], connection: Connection | None = None) -> object:
        if connection is None:
            found.append(time.monotonic())
        return poll(self, queues, connection)

    monkeypatch.setattr(ClaimStore, "poll", counting)
    return found


async def test_no_open_transaction_needs_no_recheck(own_server, looks):
    """Nothing can have slipped by: the ladder is not even begun. Another open transaction that only reads does not count."""
    async with (
        await psycopg.AsyncConnection.connect(own_server.dsn) as reader,
        Rig(own_server.dsn) as rig,
        await psycopg.AsyncConnection.connect(own_server.dsn, autocommit=True) as writer,
    ):
        await reader.execute("select count(*) from agent_tasks")
        for number in range(5):
            await writer.execute("insert into agent_tasks (task_description) values ('x')")
            task, _ = await rig.claimed()
            looks.clear()
            await rig.finish(task)
            async with asyncio.timeout(5):
                while not looks:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)  # the first three rungs
            assert len(looks) == 1, number


async def test_rechecks_end_with_the_transactions_open_at_the_flag(own_server, looks):
    async with (
        await psycopg.AsyncConnection.connect(own_server.dsn, autocommit=True) as watcher,
        Rig(own_server.dsn) as rig,
    ):

        async def idle() -> bool:
            cursor = await watcher.execute("select idle from agent_workers where worker_id = %s", [rig.worker_id])
            return (await cursor.fetchone())[0]

        async def climbed() -> bool:
            return len(looks) >= 5

        async def over() -> bool:
            return not rig.wakeups.rechecking

        await watcher.execute("insert into agent_tasks (task_id, task_description) values ('busy', 'x')")
        task, _ = await rig.claimed()
        before = await insert_open(own_server.dsn, "never")
        looks.clear()
        await rig.finish(task)
        await until_async(idle, 10, pause=0.001)
        after = await insert_open(own_server.dsn, "later")  # its trigger sees the flag: it will be told
        await until_async(climbed, 10, pause=0.001)
        await before.rollback()
        await until_async(over, 10, pause=0.001)
        seen = len(looks)
        await asyncio.sleep(0.1)
        assert len(looks) == seen
        await after.commit()
        assert (await rig.claimed())[0].task_id == "later"
        await before.close()
        await after.close()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside one that is due"])
async def test_idle_worker_sets_its_timer_for_a_row_due_soon(dsn, beside):
    """It has been idle for long, its next poll is an hour away: only the notification can tell."""
    soon = "insert into agent_tasks (task_id, task_description, run_after) values ('soon', 'x', now() + interval '1 second')"
    async with (
        Rig(dsn, slots_size=5, recheck=False) as rig,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db,
    ):

        async def idle() -> bool:
            return (await (await db.execute("select idle from agent_workers")).fetchone())[0]

        async def looked() -> bool:
            return rig.wakeups.at_rest

        await until_async(idle, 10, pause=0.001)
        await until_async(looked, 10, pause=0.001)
        if beside:
            async with db.transaction():
                await db.execute(soon)
                await db.execute("insert into agent_tasks (task_id, task_description) values ('now', 'x')")
            assert (await rig.claimed())[0].task_id == "now"
        else:
            await db.execute(soon)
        assert (await rig.claimed())[0].task_id == "soon"


@pytest.fixture
async def ear(dsn):
    """Who hears what on the queue's channel, as a list that grows."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("listen turbo_q_default")

        async def heard(seconds: float = 0.3) -> int:
            return len([n async for n in connection.notifies(timeout=seconds)])

        yield heard


@pytest.fixture
def db(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def worker(db, *, idle=True, beat_ago="0 s", state="up", queues="{default}"):
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle, heartbeat_at, state)"
        " values ('w' || random(), 'w', 'h', 1, '0', 1, %s, %s, clock_timestamp() - %s::interval, %s)",
        [queues, idle, beat_ago, state],
    )


async def test_insert_wakes_an_idle_worker_once_for_any_number_of_rows(db, ear):
    worker(db)
    db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 1000)")
    assert await ear() == 1


async def test_copy_and_merge_wake_a_worker(db, ear):
    worker(db)
    with db.cursor().copy("copy agent_tasks (task_description) from stdin") as copy:
        copy.write("one\ntwo\n")
    assert await ear() == 1
    if db.info.server_version >= 150000:
        db.execute(
            "merge into agent_tasks t using (values ('m1')) v(id) on t.task_id = v.id"
            " when not matched then insert (task_id, task_description) values (v.id, 'x')"
        )
        assert await ear() == 1


@pytest.mark.parametrize(
    "who",
    [
        {"idle": False},
        {"beat_ago": "61 s"},  # dead, its flag still up
        {"queues": "{other}"},
    ],
)
async def test_insert_without_an_idle_worker_notifies_no_one(db, ear, who):
    worker(db, **who)
    db.execute("insert into agent_tasks (task_description) values ('x')")
    assert await ear() == 0


async def test_rows_that_cannot_run_wake_no_worker(db, ear):
    worker(db)
    db.execute("insert into agent_tasks (task_description, run_after) values ('x', now() + interval '1 hour')")
    db.execute("insert into agent_tasks (task_description, idempotency_key) values ('x', 'k')")
    assert await ear() == 1
    db.execute("insert into agent_tasks (task_description, idempotency_key) values ('x', 'k') on conflict do nothing")
    assert await ear() == 0


async def test_row_due_before_the_next_poll_sets_the_timer(db, ear):
    worker(db)
    db.execute("insert into agent_tasks (task_description, run_after) values ('x', now() + interval '5 s')")
    assert await ear() == 1


async def test_paused_queue_wakes_no_worker_until_its_resume(db, ear, dsn):
    worker(db)
    db.execute("insert into agent_queues (queue) values ('default')")
    db.execute("insert into agent_tasks (task_description) values ('x')")
    assert await ear() == 0


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_insert_with_an_old_snapshot_bypasses_the_gate(db, ear, dsn, level):
    """Its snapshot of the flag may be hours old: here the worker became idle after it was taken."""
    with psycopg.connect(dsn) as old:
        old.execute(f"set transaction isolation level {level}")
        old.execute("select count(*) from agent_tasks")
        worker(db)
        old.execute("insert into agent_tasks (task_description) values ('x')")
    assert await ear() == 1


async def test_prepared_transactions_work_with_notify_off(own_server_dsn):
    """PREPARE TRANSACTION refuses a transaction that has notified; turbo.notify = off keeps it silent."""
    with psycopg.connect(own_server_dsn, autocommit=True) as db:
        worker(db)
        for silent, fails in ((False, True), (True, False)):
            db.execute("begin")
            if silent:
                db.execute("set local turbo.notify = off")
            db.execute("insert into agent_tasks (task_description) values ('x')")
            if fails:
                with pytest.raises(psycopg.errors.FeatureNotSupported):
                    db.execute("prepare transaction 'xa'")
                db.execute("rollback")
            else:
                db.execute("prepare transaction 'xa'")
                db.execute("commit prepared 'xa'")
        assert db.execute("select count(*) from agent_tasks").fetchone() == (1,)
