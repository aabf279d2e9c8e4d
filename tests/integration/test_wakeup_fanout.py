"""The herd: of many idle workers as many are woken as there are rows, and a dead one's turn is not lost."""

import asyncio
import contextlib

import psycopg
import pytest

from tests.support.rig import Rig
from turbo.domain.type_filter import TypeFilter


@pytest.fixture
def db(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def idle_workers(db, count: int, *, hosts: int = 2, beat_ago: str = "0 s", prefix: str = "w") -> None:
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle, heartbeat_at)"
        " select %s || n, 'w', %s || 'host' || n %% %s, n, '0', 1, '{default}', true, clock_timestamp() - %s::interval"
        "   from generate_series(1, %s) n",
        [prefix, prefix, hosts, beat_ago, count],
    )


@contextlib.contextmanager
def ear(dsn, db):
    """What the queue's channel and every worker's own channel hear: (channel, payload)."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("listen turbo_q_default")
        for (worker_id,) in db.execute("select worker_id from agent_workers").fetchall():
            connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(f"turbo_w_{worker_id}")))
        yield lambda: [(n.channel, n.payload) for n in connection.notifies(timeout=0.3)]


def test_one_row_wakes_one_worker_with_three_on_standby(db, dsn):
    idle_workers(db, 30)
    hosts = dict(db.execute("select 'turbo_w_' || worker_id, host from agent_workers").fetchall())
    with ear(dsn, db) as heard:
        first = set()
        for _ in range(12):
            db.execute("insert into agent_tasks (task_description) values ('x')")
            calls = sorted(heard(), key=lambda call: call[1])
            assert [payload for _, payload in calls] == [f"default {place}" for place in range(4)]
            assert hosts[calls[0][0]] != hosts[calls[1][0]]
            first.add(calls[0][0])
        assert len(first) > 3, "not always the same one"


def test_workers_with_late_heartbeats_are_woken_last(db, dsn):
    idle_workers(db, 20, beat_ago="20 s", prefix="late")
    idle_workers(db, 2, prefix="live")
    with ear(dsn, db) as heard:
        for _ in range(5):
            db.execute("insert into agent_tasks (task_description) values ('x')")
            calls = sorted(heard(), key=lambda call: call[1])
            assert all(channel.startswith("turbo_w_live") for channel, _ in calls[:2])


@pytest.mark.parametrize(("workers", "rows"), [(4, 1), (30, 14), (30, 1000)])
def test_few_idle_workers_or_many_rows_wake_all_at_once(db, dsn, workers, rows):
    idle_workers(db, workers)
    with ear(dsn, db) as heard:
        db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, %s)", [rows])
        assert heard() == [("turbo_q_default", "")]


def test_several_rows_wake_as_many_workers(db, dsn):
    idle_workers(db, 30)
    with ear(dsn, db) as heard:
        db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 5)")
        assert sorted(payload[-1] for _, payload in heard()) == ["0"] * 5 + ["1", "2", "3"]


def test_worker_name_too_long_for_a_channel_breaks_no_insert(db, dsn):
    idle_workers(db, 9)
    idle_workers(db, 1, prefix="ö" * 40)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("listen turbo_q_default")
        db.execute("insert into agent_tasks (task_description) values ('x')")
        assert [n.payload for n in connection.notifies(timeout=0.3)] == [""]


async def test_standby_takes_the_turn_of_a_dead_worker(db, dsn):
    """Nine of ten idle workers are dead, their beats still fresh, all of one host: whoever lives takes every task, without
    a poll (its next one is an hour away)."""
    async with Rig(dsn, recheck=False) as rig:
        idle_workers(db, 9, hosts=1, prefix="dead")
        for number in range(12):
            await until_idle(db, rig)
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"t{number}"])
            task, _ = await rig.claimed()
            await rig.finish(task)
        assert set(rig.wakeups.ranks) == {0, 1}, "it was called and in reserve, and of the other host each time"


async def test_without_standbys_a_task_of_a_dead_worker_waits(db, dsn, monkeypatch):
    """The control: the reserve does not look."""
    async with Rig(dsn, recheck=False) as rig:
        idle_workers(db, 9, hosts=1, prefix="dead")
        call, ranks = rig.wakeups.call, list[int]()

        def woken_only(queue: str, rank: int) -> None:
            ranks.append(rank)
            if rank == 0:
                call(queue, rank)

        monkeypatch.setattr(rig.wakeups, "call", woken_only)
        for number in range(40):
            await until_idle(db, rig)
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"t{number}"])
            try:
                task, _ = await rig.claimed(1)
            except TimeoutError:
                assert ranks[-1] > 0, "it was on standby"
                return
            await rig.finish(task)
        pytest.fail("the reserve was never needed")


@pytest.mark.parametrize("passes_on", [True, False])
async def test_woken_worker_that_may_not_claim_wakes_the_others(db, dsn, monkeypatch, passes_on):
    """Its account is paused, say: types of tasks it leaves to others, who were not called."""
    async with Rig(dsn, name="barred", recheck=False) as barred, Rig(dsn, name="able", recheck=False) as able:
        idle_workers(db, 12, hosts=1, beat_ago="20 s", prefix="dead")
        barred.gate.source("test")(TypeFilter(exclude=("default",)))
        if not passes_on:  # the control
            monkeypatch.setattr(TypeFilter, "restricted", False)
        left = 0
        for number in range(6):
            await until_idle(db, able)
            await until_idle(db, barred)
            db.execute(
                "update agent_workers set heartbeat_at = now() - interval '20 s', host = 'deadhost0' where name = 'able'"
            )
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"t{number}"])
            try:
                task, _ = await able.claimed(5 if passes_on else 1)
            except TimeoutError:
                left += 1
                break
            await able.finish(task)
        assert (left == 0) == passes_on
        assert barred.started.empty()


async def until_idle(db, rig: Rig) -> None:
    """The flag is set, and it has polled once more; there is no recheck that would find the next row by itself."""
    async with asyncio.timeout(10):
        while True:
            (idle,) = db.execute("select idle from agent_workers where worker_id = %s", [rig.worker_id]).fetchone()
            if idle and rig.wakeups.at_rest:
                return
            await asyncio.sleep(0.002)
