"""A failover to an asynchronous standby under tasks that wait for others: it loses the tie, the end of a need, or the release. And
rows that came past the triggers, which the audit finds."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.open_messages import follow_ups, message, open_bodies
from tests.support.settling import Hand, at_rest, claimed, end, fail, result, settling, states
from tests.support.standby import Standby
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import edges, notes, past_the_judges
from turbo.sql import statement


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


def unsettled(db) -> bool:
    """What the poll of any worker says."""
    (answer,) = db.execute("select public.turbo_unsettled()").fetchone()
    return answer


async def test_failover_that_loses_the_tie(dsn, db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "next", continues="need")
    standby = Standby(dsn)
    standby.caught_up()
    await hand.one_pass()
    assert edges(db, "t") == [("need", False)]
    standby.takes_over()
    assert (edges(db, "t"), notes(db), unsettled(db)) == ([], ["t", "next"], True), "the fault bit"
    end(db, "need")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["next"]) == ("pending", "pending")
    at_rest(db)


async def test_failover_that_loses_the_end_of_a_need(dsn, db, hand, stores):
    """With it go the release and the claim of the dependent, which runs on."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    held = await claimed(stores, "need")
    standby = Standby(dsn)
    standby.caught_up()
    await stores.results.finish([result(held)])
    await hand.one_pass()
    running = await claimed(stores, "t")
    standby.takes_over()
    assert states(db) == {"need": "running", "t": "blocked"}, "the fault bit"
    # the result is in the spool still, and the run goes on
    assert (await stores.claims.reconcile([running])).lost == (running,)
    assert (await stores.claims.reassert({running: None})).taken == (running,)
    (answer,) = await stores.results.finish([result(held)])
    assert (answer.verdict, answer.needed) == ("recorded", True)
    await hand.one_pass()
    assert states(db) == {"need": "completed", "t": "running"}
    await stores.results.finish([result(running)])
    await hand.one_pass()
    assert states(db) == {"need": "completed", "t": "completed"}
    at_rest(db)


async def test_success_of_a_blocked_dependent_is_recorded(dsn, db, hand, stores):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "u", needs=["t"])
    await hand.one_pass()
    held = await claimed(stores, "need")
    standby = Standby(dsn)
    standby.caught_up()
    await stores.results.finish([result(held)])
    await hand.one_pass()
    running = await claimed(stores, "t")
    standby.takes_over()
    (answer,) = await stores.results.finish([result(running)])
    assert (answer.verdict, answer.needed) == ("recorded", True)
    await stores.results.finish([result(held)])
    await hand.one_pass()
    assert states(db) == {"need": "completed", "t": "completed", "u": "pending"}
    at_rest(db)


async def test_failover_that_loses_the_release(dsn, db, hand, stores):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "gone", needs=["need"])
    await hand.one_pass()
    held = await claimed(stores, "need")
    await stores.results.finish([result(held)])
    standby = Standby(dsn)
    standby.caught_up()
    await hand.one_pass()
    assert states(db)["t"] == "pending"
    standby.takes_over()
    assert (states(db)["t"], unsettled(db)) == ("blocked", True), "the fault bit, and every poll says so"
    assert (await stores.results.finish([result(held)]))[0].verdict == "already"
    await hand.one_pass()
    assert states(db) == {"need": "completed", "t": "pending", "gone": "pending"}
    at_rest(db)


@pytest.mark.parametrize("kept", ["message", "end"])
async def test_failover_that_loses_the_follow_up_of_a_message(dsn, db, hand, stores, kept):
    """And with it that the message is not open any more; or the end of the task, too. It becomes a follow-up once."""
    insert(db, "t")
    held = await claimed(stores, "t")
    message(db, "t", "hello")
    standby = Standby(dsn)
    standby.caught_up()
    await stores.results.finish([result(held)])
    if kept == "end":
        standby.caught_up()
    await hand.one_pass()
    assert len(follow_ups(db)) == 1
    standby.takes_over()
    assert (follow_ups(db), open_bodies(db)) == ([], ["hello"]), "the fault bit"
    assert unsettled(db) == (kept == "end"), "every poll says so, once the task is over"
    await hand.one_pass()
    assert open_bodies(db) == (["hello"] if kept == "message" else []), (
        "the control: nothing is made of it before the end"
    )
    await stores.results.finish([result(held)])
    await hand.one_pass()
    assert ([text for _, text, *_ in follow_ups(db)], open_bodies(db), unsettled(db)) == (["hello"], [], False)


async def test_dead_workers_release_is_left_to_another(dsn, db, hand, stores):
    """Nothing has told anybody of the end: whoever polls next lets go."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    held = await claimed(stores, "need")
    await stores.results.finish([result(held)])
    await hand.settler.stop()
    assert (await stores.claims.poll(["default"])).unsettled
    async with settling(dsn, "another") as another:
        assert (await another.one_pass()).released == 1
    assert not (await stores.claims.poll(["default"])).unsettled


# ── past the triggers ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_audit_finds_what_came_past_the_triggers(db, hand):
    insert(db, "need")
    insert(db, "over", status="completed")
    past_the_judges(
        db,
        "insert into agent_tasks (task_id, task_description, status, needs) values ('t', 'x', 'blocked', '{need}')",
        "insert into agent_tasks (task_id, task_description, status, needs) values ('u', 'x', 'blocked', '{over}')",
        "insert into agent_tasks (task_id, task_description, status, continues) values ('f', 'x', 'blocked', 'need')",
        "insert into agent_tasks (task_id, task_description, status, continues) values ('p', 'x', 'pending', 'need')",
        "insert into agent_tasks (task_id, task_description, status) values ('pollers', 'x', 'blocked')",
    )
    assert (await hand.one_pass()).moved == 0, "the control: nothing is noted"
    (which,) = db.execute(statement("settle/audit", "which")).fetchone()
    assert which == 4, "what doctor says, and it changes nothing"
    assert notes(db) == []
    assert await hand.store.audit() == 4
    await hand.one_pass()
    assert states(db) == {
        "need": "pending", "over": "completed", "t": "blocked", "u": "pending", "f": "blocked", "p": "pending", "pollers": "blocked",
    }  # fmt: skip
    end(db, "need")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["f"]) == ("pending", "pending")
    assert row(db, "p")["conversation"] == row(db, "need")["conversation"]
    assert await hand.store.audit() == 0


async def test_audit_mends_what_was_deleted_past_the_triggers(dsn, db, hand):
    for name in ("a", "b", "c"):
        insert(db, name)
        insert(db, f"{name}-t", needs=[name])
    insert(db, "held", needs=["c"])
    await hand.one_pass()
    past_the_judges(
        db,
        "delete from agent_tasks where task_id = 'a'",
        "update agent_tasks set needed = null where task_id = 'b'",
        "delete from agent_blocked where task_id = 'c-t'",
    )
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 1 where task_id = 'b-t'")
        assert await hand.store.audit() == 2
    assert await hand.store.audit() == 1, "the one that was held"
    await hand.one_pass()
    assert (states(db)["a-t"], states(db)["b-t"], states(db)["c-t"]) == ("cancelled", "blocked", "blocked")
    end(db, "b", "c")
    await hand.one_pass()
    assert [states(db)[name] for name in ("b-t", "c-t", "held")] == ["pending"] * 3
    assert await hand.store.audit() == 0


async def test_claimed_row_with_needs_nobody_looked_at_waits(db, hand, stores):
    """It came past the triggers as pending, and was claimed: it is given back, and waits for its needs."""
    insert(db, "need", run_after="2999-01-01")
    past_the_judges(db, "insert into agent_tasks (task_id, task_description, needs) values ('t', 'x', '{need}')")
    assert (await stores.claims.claim("default", 1, may_idle=True)).tasks == ()
    assert (row(db)["status"], notes(db)) == ("blocked", ["t"])
    await hand.one_pass()
    assert edges(db, "t") == [("need", False)]
    fail(db, "need")
    await hand.one_pass()
    assert row(db)["status"] == "cancelled"
    at_rest(db)


async def test_answer_of_ask_and_release_says_who_is_needed(db, hand, stores):
    """Not only a finish ends a task: a cancel that a release applies does."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    held = await claimed(stores, "need")
    end(db, "need", status="cancelled")
    released = await stores.results.release([(held, None)], "drain")
    assert released.needed
    await hand.one_pass()
    assert states(db) == {"need": "cancelled", "t": "cancelled"}


async def test_failover_that_loses_a_place_of_a_run(db, hand, stores):
    """Its run goes on: it has its place again before any other of its conversation may run."""
    insert(db, "first")
    await stores.results.finish([result(await claimed(stores, "first"))])
    insert(db, "f0", continues="first")
    await hand.one_pass()
    held = await claimed(stores, "f0")
    past_the_judges(
        db,
        "delete from agent_conversations where task_id = 'f0'",
        "update agent_tasks set conversation = null where task_id = 'f0'",
    )
    assert await hand.store.audit() == 1
    insert(db, "f1", continues="first")
    await hand.one_pass()
    await hand.one_pass()
    assert (await stores.claims.claim("default", 1, may_idle=True)).tasks == (), "f0 runs"
    assert states(db)["f1"] == "blocked"
    await stores.results.finish([result(held)])
    await hand.one_pass()
    await claimed(stores, "f1")
    at_rest(db)
