"""A need is deleted, and its id comes again: a stranger neither revives, nor releases, nor holds up who needed the first one."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.model.mutations import Mutation
from tests.support.settling import Hand, at_rest, changed, end, fail, settling, states
from tests.support.waiting_rows import answer, insert, row


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


def born_again(db, need: str = "need", *, ends: bool = True) -> None:
    """It is deleted, and a stranger of that id is there."""
    db.execute("delete from agent_tasks where task_id = %s", [need])
    insert(db, need)
    if ends:
        end(db, need)


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "control"])
@pytest.mark.parametrize("how", ["retried", "corrected"])
async def test_stranger_revives_nobody(db, hand, deleted, how):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "below", needs=["t"])
    await hand.one_pass()
    if deleted:
        born_again(db, ends=False)
    fail(db, "need")
    await hand.one_pass()
    assert states(db)["t"] == states(db)["below"] == "cancelled"
    end(db, "need", status="pending" if how == "retried" else "completed")
    await hand.one_pass()
    wanted = "cancelled" if deleted else "blocked" if how == "retried" else "pending"
    assert states(db)["t"] == wanted
    end(db, "need")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["below"]) == (("cancelled",) * 2 if deleted else ("pending", "blocked"))
    at_rest(db)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("was", "mode", "then"),
    [
        (None, "cancel", "pending"),  # the control: it is not deleted
        ("pending", "cancel", "cancelled"),
        ("failed", "wait", "cancelled"),
        ("failed", "run", "pending"),
        ("completed", "cancel", "pending"),
    ],
)
async def test_stranger_releases_no_hold(db, hand, was, mode, then, tied):
    insert(db, "need")
    insert(db, "other")
    insert(db, status="waiting", needs=["need", "other"], on_needs_failed=mode)
    if tied:
        await hand.one_pass()
        at_rest(db)
    if was is None:
        end(db, "need")
    else:
        if was != "pending":
            end(db, "need", status=was)
        born_again(db, ends=was == "pending")
    answer(db, "yes")
    await hand.one_pass()
    assert row(db)["status"] == ("blocked" if then == "pending" else "cancelled"), "it still waits for the other one"
    end(db, "other")
    await hand.one_pass()
    assert row(db)["status"] == then, "whatever becomes of the stranger"
    end(db, "need", "t")
    await hand.one_pass()
    at_rest(db)


async def test_hold_marks_no_need_and_keeps_no_count(db, hand):
    """Nobody waits for it yet: its end tells nobody, and doctor finds nothing."""
    insert(db, "need")
    insert(db, status="waiting", needs=["need"])
    await hand.one_pass()
    assert (row(db, "need")["needed"], db.execute("select count(*) from agent_blocked").fetchone()) == (None, (0,))
    assert await hand.store.audit() == 0
    end(db, "need")
    assert (await hand.one_pass()).moved == 0
    at_rest(db)


async def test_stranger_holds_up_no_retried_task(db, hand):
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    end(db, "need")
    await hand.one_pass()
    end(db, "t")
    born_again(db, ends=False)
    end(db, "t", status="pending")
    await hand.one_pass()
    assert states(db) == {"need": "pending", "t": "pending"}
    at_rest(db)


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "control"])
async def test_stranger_comes_while_a_dependent_is_locked(dsn, db, hand, deleted):
    """The deletion waits for nobody: what it could not write is in a note, which is of that need, and not of its id."""
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id = 't' for update")
        db.execute("set lock_timeout = '2s'")
        if deleted:
            born_again(db)
        else:
            end(db, "need")
        await hand.one_pass()
        assert row(db)["status"] == "blocked"
    await hand.one_pass()
    assert row(db)["status"] == ("cancelled" if deleted else "pending")
    at_rest(db)


@pytest.mark.parametrize("commits", [True, False], ids=["retried", "control"])
async def test_need_is_deleted_while_a_person_retries_its_dependent(dsn, db, hand, commits):
    """That edit takes the edges away: the deletion must leave word of its own."""
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set status = 'waiting' where task_id = 't'")
        person.execute("update agent_tasks set answer = 'yes' where task_id = 't'")
        db.execute("set lock_timeout = '2s'")
        born_again(db)
        if not commits:
            person.rollback()
    await hand.one_pass()
    assert row(db)["status"] == "cancelled"
    at_rest(db)


async def test_held_after_its_need_was_deleted_it_is_told(db, hand):
    """A hold is no retry: released, it is cancelled as it would have been."""
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    db.execute("delete from agent_tasks where task_id = 'need'")
    db.execute("update agent_tasks set status = 'waiting' where task_id = 't'")
    await hand.one_pass()
    answer(db, "yes")
    await hand.one_pass()
    assert (row(db)["status"], row(db)["failure_kind"]) == ("cancelled", "needs")
    end(db, "t", status="pending")
    await hand.one_pass()
    assert row(db)["status"] == "pending", "whoever retries it means it"
    at_rest(db)


async def test_note_of_a_deleted_need_goes_with_its_task(dsn, db, hand):
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id = 't' for update")
        db.execute("delete from agent_tasks where task_id = 'need'")
    db.execute("delete from agent_tasks where task_id = 't'")
    insert(db, "need")
    insert(db, needs=["need"])
    await hand.one_pass()
    assert row(db)["status"] == "blocked"
    end(db, "need")
    await hand.one_pass()
    assert row(db)["status"] == "pending"
    at_rest(db)


@pytest.mark.parametrize("where", ["elsewhere", "in its transaction", "nowhere"])
@pytest.mark.parametrize(("was", "then"), [("pending", "cancelled"), ("completed", "pending")])
async def test_older_snapshot_deletes_a_need_whose_id_comes_again(dsn, db, hand, was, then, where):
    """It sees no edge of who came after it: whoever needed the row that is deleted is told of that, and not tied to the next."""
    insert(db, "need")
    insert(db, "other")
    insert(db, "first", needs=["need", "other"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert person.execute("select count(*) from agent_dependencies").fetchone() == (2,), "its snapshot"
        insert(db, needs=["need", "other"])
        await hand.one_pass()
        if was == "completed":
            person.execute("update agent_tasks set status = 'completed' where task_id = 'need'")
        person.execute("delete from agent_tasks where task_id = 'need'")
        if where == "in its transaction":
            insert(person, "need")
    if where == "elsewhere":
        insert(db, "need")
    if where != "nowhere":
        insert(db, "later", needs=["need"])
    end(db, "other")
    await hand.one_pass()
    assert (states(db)["first"], states(db)["t"]) == (then, then)
    if where != "nowhere":
        assert states(db)["later"] == "blocked"
        end(db, "need")
        await hand.one_pass()
        assert states(db)["later"] == "pending"
        end(db, "need", status="pending")
        await hand.one_pass()
        assert (states(db)["first"], states(db)["t"]) == (then, then), "the next of that id is nothing to them"
        end(db, "need")
        await hand.one_pass()
    at_rest(db)


async def test_untied_task_of_a_deleted_need_is_not_tied_to_the_next(dsn, db, hand):
    """It was inserted after the snapshot of whoever deletes the need, and no settler came by before its id came again."""
    insert(db, "need")
    insert(db, "first", needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        person.execute("select from agent_tasks")
        insert(db, needs=["need"])
        person.execute("delete from agent_tasks where task_id = 'need'")
    insert(db, "need")
    insert(db, "later", needs=["need"])
    await hand.one_pass()
    assert states(db) == {"first": "cancelled", "later": "blocked", "need": "pending", "t": "cancelled"}
    at_rest(db)


async def test_next_of_a_deleted_id_may_be_deleted_at_once(dsn, db, hand):
    """And while somebody has locked who needed the first one."""
    insert(db, "need")
    insert(db, "first", needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person, psycopg.connect(dsn) as other:
        person.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        person.execute("select from agent_tasks")
        insert(db, needs=["need"])
        await hand.one_pass()
        person.execute("delete from agent_tasks where task_id = 'need'")
        person.commit()
        insert(db, "need")
        insert(db, "later", needs=["need"])
        other.execute("select from agent_tasks where task_id = 't' for update")
        await hand.one_pass()
        assert states(db)["t"] == states(db)["later"] == "blocked"
        end(db, "need")
        db.execute("delete from agent_tasks where task_id = 'need'")
        await hand.one_pass()
    await hand.one_pass()
    assert states(db) == {"first": "cancelled", "later": "pending", "t": "cancelled"}
    at_rest(db)


ANYHOW = Mutation(
    "nobody is tied to an id whose last task is not buried yet",
    "settle/tie",
    (("and w.need not in (select b.task_id from buried b)", ""),),
)


@pytest.mark.parametrize("guard", [None, ANYHOW], ids=["guarded", "control"])
async def test_later_task_is_tied_once_the_deleted_need_is_buried(dsn, db, hand, guard):
    """Until then nobody could tell its edge from those to the one that was deleted."""
    insert(db, "need")
    insert(db, "first", needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person, psycopg.connect(dsn) as other:
        person.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        person.execute("select from agent_tasks")
        insert(db, needs=["need"])
        await hand.one_pass()
        person.execute("delete from agent_tasks where task_id = 'need'")
        person.commit()
        insert(db, "need")
        insert(db, "later", needs=["need"])
        other.execute("select from agent_tasks where task_id = 't' for update")
        with changed(guard):
            await hand.one_pass()
    await hand.one_pass()
    assert states(db)["t"] == "cancelled"
    assert states(db)["later"] == ("blocked" if guard is None else "cancelled")
    at_rest(db)
