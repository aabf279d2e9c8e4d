"""Limits: N tasks of a concurrency_key at a time. Stepped, with the claims and results of a worker."""

import asyncio

import psycopg
import pytest

from tests.support.limits import a_statement_waits, insert_keyed, places, set_limit
from tests.support.rig import Rig, finished
from tests.support.work_rows import claim_of, past_the_judges, placed
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason

INDEX = "drop index agent_tasks_one_running_per_place"


async def claim(stores, limit: int = 9) -> list[str]:
    """What one claim takes, by a worker that knows whether there are limits."""
    await stores.claims.poll(["default"])
    claimed = await stores.claims.claim("default", limit, may_idle=False)
    return sorted(task.task_id for task in claimed.tasks)


async def test_claim_takes_as_many_as_there_are_places(db, stores):
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcde")
    insert_keyed(db, "other", "x", "y")
    assert await claim(stores) == ["a", "b", "c", "x"]
    assert places(db) == {"a": 0, "b": 1, "c": 2}
    assert await claim(stores) == []


async def test_place_that_comes_free_is_taken_again(db, stores):
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcde")
    (held,) = [task for task in (await taken(stores)) if task.task_id == "b"]
    await stores.results.finish([finished(held, stores.worker_id)])
    assert await claim(stores) == ["d"]
    assert places(db) == {"a": 0, "c": 2, "d": 1}
    (slot,) = db.execute("select key_slot from agent_tasks where task_id = 'b'").fetchone()
    assert slot is None


async def taken(stores):
    await stores.claims.poll(["default"])
    return (await stores.claims.claim("default", 9, may_idle=False)).tasks


async def test_worker_that_knows_no_limits_runs_one_at_a_time(db, stores):
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abc")
    claimed = await stores.claims.claim("default", 9, may_idle=False)
    assert [task.task_id for task in claimed.tasks] == ["a"]
    assert (await stores.claims.claim("default", 9, may_idle=False)).tasks == ()
    stores.claims.limits_told()
    claimed = await stores.claims.claim("default", 9, may_idle=False)
    assert sorted(task.task_id for task in claimed.tasks) == ["b", "c"]


async def test_lowered_limit_stops_nothing_and_starts_nothing(db, stores):
    set_limit(db, "k", 4)
    insert_keyed(db, "k", *"abcdef")
    tasks = {task.task_id: task for task in await taken(stores)}
    set_limit(db, "k", 2)
    assert await claim(stores) == []
    for ended in "ab":  # places 0 and 1 are free, and two run above the limit
        await stores.results.finish([finished(tasks[ended], stores.worker_id)])
        assert await claim(stores) == []
    await stores.results.finish([finished(tasks["d"], stores.worker_id)])
    assert await claim(stores) == ["e"]
    assert places(db) == {"c": 2, "e": 0}


@pytest.mark.parametrize(
    "change",
    [
        "delete from agent_limits",
        "truncate agent_limits",
        "update agent_limits set concurrency_key = 'other'",
        "update agent_limits set running = 1",
    ],
)
async def test_key_that_loses_its_limit_runs_one_at_a_time(db, stores, change):
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcdef")
    tasks = await taken(stores)
    db.execute(change)
    for task in tasks:
        assert await claim(stores) == []
        await stores.results.finish([finished(task, stores.worker_id)])
    assert await claim(stores) == ["d"]
    assert await claim(stores) == []


async def test_two_claims_at_once_share_the_places(dsn, db, stores):
    """The other claim has the key in hand: this one passes it, and finds the places that are left once it is done."""
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcde")
    await stores.claims.poll(["default"])
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("select turbo_take_key('k')")
        await other.execute("update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'a'")
        assert await claim(stores) == []
        await other.commit()
    assert await claim(stores) == ["b", "c"]
    assert places(db) == {"a": 0, "b": 1, "c": 2}


async def test_claim_that_lost_the_race_for_a_place_claims_again(dsn, db, stores):
    """A reassertion takes no lock on the key: the index tells, and the claim is sent again."""
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"abc")
    await stores.claims.poll(["default"])
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'c'")
        claiming = asyncio.create_task(stores.claims.claim("default", 9, may_idle=False))
        await a_statement_waits(db)
        await other.commit()
        claimed = await claiming
    assert ([task.task_id for task in claimed.tasks], claimed.races) == (["a"], 1)
    assert places(db) == {"a": 1, "c": 0}


async def test_rescued_run_leaves_its_place_and_its_late_result_counts(db, stores):
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"abc")
    tasks = {task.task_id: task for task in await taken(stores)}
    db.execute("update agent_workers set state = 'dead'")
    await stores.registry.rescue(RescueReason.WORKER_SILENT)
    assert places(db) == {}
    assert db.execute("select count(*) from agent_tasks where key_slot is not null").fetchone() == (0,)
    db.execute("update agent_workers set state = 'up'")
    assert await claim(stores) == ["c"]
    (answer,) = await stores.results.finish([finished(tasks["b"], stores.worker_id)])
    assert answer.verdict == "recorded"
    assert places(db) == {"c": 0}


async def test_lost_claims_are_taken_back_as_far_as_places_go(db, stores):
    """A failover has lost three claims, and another worker has a place meanwhile: two of them go on."""
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcd")
    tasks = await taken(stores)
    past_the_judges(
        db,
        "update agent_tasks set status = 'pending', key_slot = null, assigned_worker_id = null, fencing_token = null",
        "delete from agent_actions",
    )
    db.execute(
        "update agent_tasks set status = 'running', assigned_worker_id = 'v', fencing_token = 1, turbo_rev = turbo_rev + 1"
        " where task_id = 'd'"
    )
    back = await stores.claims.reassert(dict.fromkeys(map(claim_of, tasks)))
    assert [claim.task_id for claim in back.taken] == ["a", "b"]
    assert places(db) == {"a": 1, "b": 2, "d": 0}


async def test_reassertion_that_lost_a_place_tries_another(dsn, db, stores):
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"ab")
    (task, _) = await taken(stores)
    past_the_judges(
        db,
        "update agent_tasks set status = 'pending', key_slot = null, assigned_worker_id = null, fencing_token = null",
        "delete from agent_actions",
    )
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'b'")
        asserting = asyncio.create_task(stores.claims.reassert({claim_of(task): None}))
        await a_statement_waits(db)
        await other.commit()
        assert [claim.task_id for claim in (await asserting).taken] == ["a"]
    assert places(db) == {"a": 1, "b": 0}


async def test_requeued_by_hand_it_gives_up_its_place(db, stores):
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"ab")
    tasks = {task.task_id: task for task in await taken(stores)}
    db.execute("update agent_tasks set status = 'pending' where task_id = 'b'")
    assert places(db) == {"a": 0, "b": 1}, "its agent is being stopped, and has the place until it is gone"
    await stores.results.finish([finished(tasks["b"], stores.worker_id, OutcomeKind.CANCELLED)])
    assert db.execute("select status, key_slot from agent_tasks where task_id = 'b'").fetchone() == ("pending", None)
    assert await claim(stores) == ["b"]
    assert places(db) == {"a": 0, "b": 1}


async def test_key_slot_is_not_written_by_hand(db, stores):
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"ab")
    await claim(stores)
    for query in (
        "update agent_tasks set key_slot = 5 where task_id = 'b'",
        "update agent_tasks set key_slot = 7, task_description = 'y' where task_id = 'a'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="key_slot is turbo's own"):
            db.execute(query)
    assert places(db) == {"a": 0, "b": 1}


async def test_stale_save_of_every_column_erases_no_place(db, stores):
    """As an ORM saves what it read before the claim."""
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"ab")
    (rev,) = db.execute("select turbo_rev from agent_tasks where task_id = 'b'").fetchone()
    await claim(stores)
    with pytest.raises(psycopg.errors.SerializationFailure, match="has changed since it was read"):
        db.execute("update agent_tasks set key_slot = null, turbo_rev = %s where task_id = 'b'", [rev])
    assert places(db) == {"a": 0, "b": 1}


async def test_place_of_a_row_that_came_past_the_triggers_is_not_used(db, stores):
    insert_keyed(db, "k", "a")
    past_the_judges(db, "update agent_tasks set key_slot = 7")
    assert await claim(stores) == ["a"]
    assert places(db) == {"a": 0}


async def test_without_the_index_two_runs_have_one_place(dsn, db, stores):
    """The control of the race above."""
    db.execute(INDEX)
    set_limit(db, "k", 2)
    insert_keyed(db, "k", *"abc")
    await stores.claims.poll(["default"])
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'c'")
        claimed = await stores.claims.claim("default", 9, may_idle=False)
        await other.commit()
    assert len(claimed.tasks) == 2
    assert len(places(db)) == 3, "more than the limit"


async def test_raised_limit_starts_waiters_at_once(dsn, db):
    """Polls are an hour apart: the workers hear of it. The key's first run is on a worker of another queue."""
    async with (
        Rig(dsn, name="one", queues=("left",)) as one,
        Rig(dsn, name="two", queues=("right",), slots_size=5) as two,
    ):
        insert_keyed(db, "k", "first", queue="left")
        await one.claimed()
        insert_keyed(db, "k", *"abc", queue="right")
        while not two.wakeups.idle:
            await asyncio.sleep(0.01)
        assert two.started.empty()
        set_limit(db, "k", 3)
        assert {(await two.claimed())[0].task_id, (await two.claimed())[0].task_id} == {"a", "b"}
        assert two.started.empty()


async def test_poll_tells_of_limits_that_were_written_unheard(dsn, db):
    """The poll twin: nothing was notified."""
    async with Rig(dsn, slots_size=5) as rig:
        insert_keyed(db, "k", *"ab")
        await rig.claimed()
        db.execute("set turbo.notify = off")
        set_limit(db, "k", 3)
        assert rig.started.empty()
        rig.wakeups.poll_soon()
        assert (await rig.claimed())[0].task_id == "b"


async def test_claim_that_leaves_places_wakes_an_idle_worker(dsn, db):
    """One slot each: whoever was woken first leaves two places, and the others may have passed the key while it claimed."""
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcd")
    async with (
        Rig(dsn, name="one", recheck=False) as one,
        Rig(dsn, name="two", recheck=False) as two,
        Rig(dsn, name="three", recheck=False) as three,
    ):
        started = {(await rig.claimed())[0].task_id for rig in (one, two, three)}
    assert started == {"a", "b", "c"}


async def test_ten_follow_ups_under_a_limit_run_one_at_a_time(db, stores):
    """They inherit the key, which has three places; their conversation has one."""
    set_limit(db, "k", 3)
    insert_keyed(db, "k", "first")
    db.execute(
        "insert into agent_tasks (task_id, task_description, continues) select 'next' || i, 'x', 'first' from generate_series(0, 9) i"
    )
    follow_ups = [f"next{i}" for i in range(10)]
    placed(db, "first", *follow_ups)  # all of them pending at once, as no settler leaves them
    ran = []
    for _ in range(11):
        (task,) = await taken(stores)
        assert await claim(stores) == []
        assert task.concurrency_key == "k"
        await stores.results.finish([finished(task, stores.worker_id)])
        ran.append(task.task_id)
    assert sorted(ran) == ["first", *follow_ups]


def test_key_slot_is_not_inserted_by_hand(db):
    with pytest.raises(psycopg.errors.CheckViolation, match=r"an insert may not set .* key_slot"):
        db.execute("insert into agent_tasks (task_description, concurrency_key, key_slot) values ('x', 'k', 1)")
