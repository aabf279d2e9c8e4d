"""What people do by hand to tasks that depend, and what the settler makes of it: from the edit to the end of the wait."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.settling import Hand, at_rest, end, fail, settling, states
from tests.support.waiting_rows import answer, insert, row


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


def update(db, change: str, *task_ids: str) -> None:
    db.execute(f"update agent_tasks set {change} where task_id = any(%s)".encode(), [list(task_ids)])


async def test_holds_wait_for_their_needs_once_released(db, hand):
    insert(db, "plan")
    insert(db, "done")
    for name, needs in (("met", ["done"]), ("open", ["plan"]), ("gone", ["done", "lost"])):
        if name == "gone":
            insert(db, "lost")
        insert(db, name, needs=needs, status="waiting")
    insert(db, "held later", needs=["plan"])
    await hand.one_pass()
    update(db, "status = 'waiting'", "held later")
    end(db, "done")
    db.execute("delete from agent_tasks where task_id = 'lost'")
    await hand.one_pass()
    assert {states(db)[name] for name in ("met", "open", "gone", "held later")} == {"waiting"}
    for name in ("met", "open", "gone", "held later"):
        answer(db, "yes", name)
    await hand.one_pass()
    found = {name: states(db)[name] for name in ("met", "open", "gone", "held later")}
    assert found == {"met": "pending", "open": "blocked", "gone": "cancelled", "held later": "blocked"}
    end(db, "plan")
    await hand.one_pass()
    assert (states(db)["open"], states(db)["held later"]) == ("pending", "pending")
    at_rest(db)


async def test_held_dependent_learns_of_a_deleted_need(db, hand):
    """It was tied before it was held, so the settled edge would count as met."""
    insert(db, "plan")
    insert(db, needs=["plan"])
    await hand.one_pass()
    update(db, "status = 'waiting'", "t")
    db.execute("delete from agent_tasks where task_id = 'plan'")
    answer(db, "yes")
    await hand.one_pass()
    assert (row(db)["status"], row(db)["failure_kind"]) == ("cancelled", "needs")


async def test_needs_given_up_let_it_go(db, hand):
    insert(db, "plan")
    insert(db, needs=["plan"], run_after="2999-01-01")
    insert(db, "now", needs=["plan"])
    await hand.one_pass()
    update(db, "needs = null", "t", "now")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["now"]) == ("scheduled", "pending")
    at_rest(db)


async def test_deleted_needs_cancel_and_release(db, hand):
    for need in ("a", "b", "c"):
        insert(db, need)
    insert(db, "one", needs=["a"])
    insert(db, "deep", needs=["one"])
    insert(db, "run", needs=["a", "b"], on_needs_failed="run")
    insert(db, "all", needs=["b", "c"])
    await hand.one_pass()
    fail(db, "b")
    end(db, "b")
    db.execute("delete from agent_tasks where task_id in ('a', 'b')")
    await hand.one_pass()
    assert states(db) == {"c": "pending", "one": "cancelled", "deep": "cancelled", "run": "pending", "all": "blocked"}
    end(db, "c")
    await hand.one_pass()
    assert states(db)["all"] == "pending"
    at_rest(db)


async def test_corrected_need_brings_its_dependents_back(db, hand):
    insert(db, "plan")
    insert(db, needs=["plan"])
    insert(db, "deep", needs=["t"])
    await hand.one_pass()
    end(db, "plan", status="failed")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["deep"]) == ("cancelled", "cancelled")
    end(db, "plan", status="completed")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["deep"]) == ("pending", "blocked")
    at_rest(db)


async def test_deletion_by_an_old_snapshot_is_mended(dsn, db, hand):
    """The edge is younger than the snapshot of whoever deletes the need: the audit finds it, if nothing did before."""
    insert(db, "plan")
    insert(db, "known", needs=["plan"])
    await hand.one_pass()
    with psycopg.connect(dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from agent_tasks")
        insert(db, needs=["plan"])
        await hand.one_pass()
        old.execute("delete from agent_tasks where task_id = 'plan'")
        old.commit()
    await hand.one_pass()
    assert states(db)["known"] == "cancelled"
    await hand.store.audit()
    await hand.one_pass()
    assert states(db)["t"] == "cancelled"
    at_rest(db)
