"""A need that was over is retried while its dependent still waits for another: it is waited for again."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.model.mutations import Mutation
from tests.support.settling import Hand, at_rest, changed, end, fail, settling, states
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import count, edges

EARLY = Mutation(
    "who has counted a need that is retried is not let go",
    "settle/settle",
    (("and t.task_id not in (select r.task_id from reopened r)", ""),),
)


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


async def half_done(db, hand: Hand, first: str = "completed", mode: str = "cancel") -> None:
    """`t` needs `a`, which is over and counted, and `b`."""
    insert(db, "a")
    insert(db, "b")
    insert(db, needs=["a", "b"], on_needs_failed=mode)
    await hand.one_pass()
    end(db, "a", status=first)
    await hand.one_pass()
    assert count(db, "t") == (1, None)


@pytest.mark.parametrize("guard", [None, EARLY])
async def test_need_that_is_retried_is_waited_for_again(db, hand, guard):
    """Though its other need ended before any settler came by."""
    await half_done(db, hand)
    end(db, "a", status="pending")
    end(db, "b")
    with changed(guard):
        await hand.one_pass()
    assert states(db)["t"] == ("blocked" if guard is None else "pending")
    if guard is None:
        assert (count(db, "t"), edges(db, "t")) == ((1, None), [("a", False), ("b", True)])
        at_rest(db)
        end(db, "a")
        await hand.one_pass()
        assert states(db)["t"] == "pending"
        at_rest(db)


@pytest.mark.parametrize(("mode", "then"), [("cancel", "cancelled"), ("run", "pending"), ("wait", "blocked")])
async def test_retried_need_that_fails_counts_by_its_last_end(db, hand, mode, then):
    """It was retried, and over again, before any settler came by."""
    await half_done(db, hand, mode=mode)
    end(db, "a", status="pending")
    fail(db, "a")
    end(db, "b")
    await hand.one_pass()
    assert states(db)["t"] == then


@pytest.mark.parametrize(("mode", "then"), [("cancel", "cancelled"), ("run", "pending"), ("wait", "blocked")])
@pytest.mark.parametrize("corrected", ["failed", "cancelled"])
async def test_need_that_is_corrected_to_failed_is_not_met(db, hand, corrected, mode, then):
    """It completed, and was counted; then a person says that it did not."""
    await half_done(db, hand, mode=mode)
    end(db, "a", status=corrected)
    end(db, "b")
    await hand.one_pass()
    assert states(db)["t"] == then
    at_rest(db)
    end(db, "a")
    await hand.one_pass()
    assert states(db)["t"] == "pending", "and now that it did"
    at_rest(db)


@pytest.mark.parametrize(
    ("last", "then"), [("failed", "cancelled"), ("pending", "cancelled"), ("completed", "pending")]
)
@pytest.mark.parametrize("held", [False, True], ids=["free", "locked"])
async def test_need_that_is_retried_and_deleted_counts_by_its_end(dsn, db, hand, held, last, then):
    """It was counted, and no settler came by between its retry and its deletion."""
    await half_done(db, hand)
    end(db, "a", status="pending")
    if last != "pending":
        end(db, "a", status=last)
    with psycopg.connect(dsn) as person:
        if held:
            person.execute("select from agent_tasks where task_id = 't' for update")
        db.execute("delete from agent_tasks where task_id = 'a'")
    end(db, "b")
    await hand.one_pass()
    assert states(db)["t"] == then
    at_rest(db)


@pytest.mark.parametrize(("last", "then"), [("completed", "pending"), ("failed", "cancelled")])
@pytest.mark.parametrize("held", [False, True], ids=["free", "locked"])
async def test_corrected_need_that_is_deleted_cancels_nobody(dsn, db, hand, held, last, then):
    """Its failure was counted, for one whom somebody had locked; then it was corrected, and deleted."""
    await half_done(db, hand)
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id = 't' for update")
        fail(db, "b")
        await hand.one_pass()
        assert count(db, "t")[1] == "b"
        end(db, "b", status=last)
        if held:
            db.execute("delete from agent_tasks where task_id = 'b'")
    if not held:
        db.execute("delete from agent_tasks where task_id = 'b'")
    await hand.one_pass()
    assert states(db)["t"] == then
    at_rest(db)


async def test_retry_of_a_failed_need_cancels_nobody_who_was_locked(dsn, db, hand):
    """They were told, and somebody had them locked meanwhile. Another failed need is not forgotten over that."""
    for task_id in ("a", "b", "c"):
        insert(db, task_id)
    insert(db, needs=["a", "b"])
    insert(db, "u", needs=["a", "c"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id in ('t', 'u') for update")
        fail(db, "a")
        await hand.one_pass()
        fail(db, "c")
        await hand.one_pass()
        end(db, "a", status="pending")
        await hand.one_pass()
        assert (count(db, "t"), states(db)["t"]) == ((2, "a"), "blocked")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["u"]) == ("blocked", "cancelled")
    end(db, "a", "b")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["u"]) == ("pending", "cancelled")
    at_rest(db)


async def test_retried_need_of_many_is_waited_for_by_all(dsn, db, hand):
    """In steps; somebody has one of them locked, and none is let go early."""
    insert(db, "a")
    insert(db, "b")
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs)"
        " select 't' || n, 'x', array['a', 'b'] from generate_series(1, 1100) n"
    )
    await hand.one_pass()
    end(db, "a")
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id = 't7' for update")
        end(db, "a", status="pending")
        end(db, "b")
        await hand.one_pass()
        blocked = "select count(*) from agent_tasks where status = 'blocked'"
        assert db.execute(blocked).fetchone() == (1100,)
    await hand.one_pass()
    assert db.execute(blocked).fetchone() == (1100,)
    at_rest(db)
    end(db, "a")
    await hand.one_pass()
    assert db.execute(blocked).fetchone() == (0,)
    at_rest(db)


async def test_retried_need_is_claimed_though_the_settler_has_it(db, hand):
    """A claim passes a row that is locked: its queue is woken again."""
    await half_done(db, hand)
    end(db, "a", status="pending")
    db.execute("listen turbo_q_default")
    await hand.one_pass()
    assert "default" in hand.wakeups.take_queues().queues
    assert row(db, "a")["needed"] is True
