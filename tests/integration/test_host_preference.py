"""Pin or preference: a task whose conversation can be had anywhere waits for its host for a while; then others may take it."""

import asyncio

import pytest

from tests.support.places import at, claims, pinned, portable
from tests.support.work_rows import place, released

STAY = 60.0


async def test_pinned_task_is_for_its_host_alone(dsn, db):
    pinned(db, "t", "a", ago=3600)
    async with at(dsn, "b") as other, at(dsn, "a") as own:
        assert await claims(other) == []
        assert await claims(own) == ["t"]


async def test_portable_task_is_taken_elsewhere_after_a_while(dsn, db):
    pinned(db, "early", "a", ago=STAY - 5)
    pinned(db, "late", "a", ago=STAY + 5)
    pinned(db, "pinned", "a", ago=STAY + 5)
    for task_id in ("early", "late"):
        portable(db, task_id)
    async with at(dsn, "b") as other, at(dsn, "a") as own:
        assert await claims(other) == ["late"]
        assert await claims(own) == ["early", "pinned"], "its host may take it at any time"


@pytest.mark.parametrize(("stay", "taken"), [(0.0, ["t"]), (30.0, ["t"]), (300.0, [])])
async def test_the_claiming_workers_own_patience_counts(dsn, db, stay, taken):
    pinned(db, "t", "a", ago=40)
    portable(db, "t")
    async with at(dsn, "b", stay=stay) as other:
        assert await claims(other) == taken


async def test_every_pin_is_a_preference_without_the_look(dsn, db):
    """The control: without the look a worker takes what cannot be had on its host."""
    pinned(db, "t", "a", ago=STAY + 5)
    async with at(dsn, "b") as other:
        assert await claims(other) == []
        db.execute(
            "create or replace function turbo_is_portable(task turbo_task_id, session text) returns boolean return true"
        )
        assert await claims(other) == ["t"]


async def test_entry_of_another_conversation_says_nothing(dsn, db):
    pinned(db, "t", "a", ago=STAY + 5, session="now")
    portable(db, "t", session="before")
    async with at(dsn, "b") as other:
        assert await claims(other) == []
        db.execute("update agent_portable set session = 'now' where task_id = 't'")
        assert await claims(other) == ["t"]


async def test_requirements_hold_for_a_preference_too(dsn, db):
    pinned(db, "t", "a", ago=STAY + 5)
    portable(db, "t")
    db.execute("update agent_tasks set requires = '{\"os\": \"macos\"}' where task_id = 't'")
    async with at(dsn, "b", os="linux") as linux, at(dsn, "c", os="macos") as mac:
        assert await claims(linux) == []
        assert await claims(mac) == ["t"]


# ── the timer ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def next_in(stores, *queues: str) -> float | None:
    return (await stores.claims.poll(queues or ("default",))).next_in


async def test_poll_tells_other_hosts_when_they_may_take_it(dsn, db):
    pinned(db, "t", "a", ago=40)
    async with at(dsn, "b") as other, at(dsn, "a") as own, at(dsn, "c", stay=0) as at_once:
        assert await next_in(other) is None, "a pin: no moment will come"
        portable(db, "t")
        for queues in (("default",), ("default", "more")):
            assert await next_in(other, *queues) == pytest.approx(20, abs=10)
            assert await next_in(own, *queues) is None
            assert await next_in(at_once, *queues) is None
        assert await next_in(other, "more") is None
        assert await claims(own) == ["t"]
        assert await next_in(other) is None, "it runs"


async def test_timer_passes_by_what_was_claimed(dsn, db):
    """The hundred first ones were claimed in time: the poll looks again when the last one of them would have come."""
    for n in range(101):
        pinned(db, f"t{n}", "a", ago=50 - n * 0.1)
        portable(db, f"t{n}")
    async with at(dsn, "b") as other, at(dsn, "a") as own:
        claimed = await claims(own, 100)
        assert len(claimed) == 100
        assert await next_in(other) == pytest.approx(20, abs=10)


async def test_entry_that_comes_late_wakes_the_queue(dsn, db):
    pinned(db, "t", "a", ago=1)
    async with at(dsn, "b") as other:
        await other.registry.set_idle(True)
        db.execute("listen turbo_q_default")
        portable(db, "t")
        heard = [notify.channel for notify in db.notifies(timeout=5, stop_after=1)]
        assert heard == ["turbo_q_default"]


async def test_answered_task_sets_the_timer(dsn, db):
    """Whatever makes it pending: here the answer of a person, after the entry was written."""
    db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    db.execute(
        'update agent_tasks set status = \'waiting\', question = \'{"kind": "question", "text": "?"}\', prefer_host = \'a\','
        " agent_session_id = 's', fencing_token = -5, run_after = '9000-01-01', turbo_rev = turbo_rev + 1"
    )
    portable(db, "t")
    async with at(dsn, "b") as other:
        assert await next_in(other) is None
        db.execute("update agent_tasks set answer = 'yes'")
        assert await next_in(other) == pytest.approx(STAY, abs=10)


async def test_follow_up_is_portable_as_the_run_before_it(dsn, db):
    pinned(db, "first", "a", ago=STAY + 5)
    for follow_up in ("next", "after"):
        db.execute(
            "insert into agent_tasks (task_id, task_description, continues) values (%s, 'x', 'first')", [follow_up]
        )
    place(db, "first", "next", "after")
    portable(db, "first")
    db.execute("update agent_tasks set status = 'completed', turbo_rev = turbo_rev + 1 where task_id = 'first'")
    db.execute(
        "update agent_tasks set prefer_host = 'a', agent_session_id = 's', run_after = now() - interval '70 seconds',"
        " turbo_rev = turbo_rev + 1 where task_id = 'next'"
    )
    released(db, "next")
    assert db.execute("select session, due is not null from agent_portable where task_id = 'next'").fetchall() == [
        ("s", True)
    ]
    async with at(dsn, "b") as other:
        assert await claims(other) == ["next"]


async def test_entry_goes_with_its_task(dsn, db):
    for task_id in ("t", "u", "v"):
        pinned(db, task_id, "a")
        portable(db, task_id)
    db.execute("delete from agent_tasks where task_id = 't'")
    db.execute("update agent_tasks set task_id = 'w' where task_id = 'u'")
    assert sorted(db.execute("select task_id from agent_portable").fetchall()) == [("v",), ("w",)]
    db.execute("truncate agent_tasks cascade")
    assert db.execute("select count(*) from agent_portable").fetchone() == (0,)


async def test_ten_thousand_preferences_do_not_slow_the_poll(dsn, db):
    db.execute(
        "with t as (insert into agent_tasks (task_id, task_description) select 'p' || n, 'x' from generate_series(1, 10000) n"
        " returning task_id) select count(*) from t"
    )
    db.execute(
        "update agent_tasks set prefer_host = 'a', agent_session_id = 's', fencing_token = -5, turbo_rev = turbo_rev + 1"
    )
    db.execute("insert into agent_portable (task_id, session) select task_id, 's' from agent_tasks")
    db.execute("vacuum analyze agent_tasks, agent_portable")
    ((plan,),) = db.execute(
        "explain (analyze, buffers, format json) select turbo_stay_in(array['default'], 'b', 60)"
    ).fetchall()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 700
    async with at(dsn, "b") as other:
        async with asyncio.timeout(30):
            assert await next_in(other) == pytest.approx(50, abs=10)
