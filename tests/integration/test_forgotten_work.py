"""What belongs to a deleted task goes with it, and who waited for it learns its end: ids are the callers' and come again."""

import psycopg
import pytest
from psycopg import errors

from tests.model.mutations import Mutation, applied
from tests.support.logins import login
from tests.support.settling import at_rest, settling, states
from tests.support.waiting_rows import answer, in_another_session, insert, row
from tests.support.work_rows import count, edges, notes, past_the_judges, place, tie
from turbo.migrate import grant_roles
from turbo.sql import statement

TABLES = ("agent_dependencies", "agent_blocked", "agent_conversations")


def left(db) -> dict[str, int]:
    return {table: db.execute(f"select count(*) from {table}".encode()).fetchone()[0] for table in TABLES}


def delete(db, *task_ids: str) -> None:
    db.execute("delete from agent_tasks where task_id = any(%s)", [list(task_ids)])


def ended(db, task_id: str, status: str) -> None:
    past_the_judges(db, f"update agent_tasks set status = '{status}' where task_id = '{task_id}'")


@pytest.mark.parametrize(
    ("mode", "end", "left_open"),
    [
        ("cancel", "pending", (1, "plan")), ("cancel", "failed", (1, "plan")), ("cancel", "completed", (0, None)),
        ("wait", "failed", (1, "plan")), ("wait", "completed", (0, None)), ("run", "pending", (0, None)), ("run", "failed", (0, None)),
    ],
)  # fmt: skip
def test_deleted_need_counts_by_its_end(db, mode, end, left_open):
    insert(db, "plan")
    insert(db, needs=["plan"], on_needs_failed=mode)
    tie(db, "t", "plan", mode=mode)
    ended(db, "plan", end)
    db.execute("listen turbo_ctl")
    delete(db, "plan")
    assert (count(db, "t"), edges(db, "t"), row(db)["status"]) == (left_open, [("plan", True)], "blocked")
    assert {n.payload for n in db.notifies(timeout=0)} == {"settle"}


def test_need_of_many_is_counted_once(db):
    for need in ("a", "b", "c"):
        insert(db, need)
    insert(db, needs=["a", "b", "c"])
    tie(db, "t", "a", "b", "c")
    ended(db, "a", "completed")
    ended(db, "b", "completed")
    delete(db, "a", "b")
    assert (count(db, "t"), edges(db, "t")) == ((1, None), [("a", True), ("b", True), ("c", False)])
    delete(db, "c")
    assert count(db, "t") == (1, "c")


def test_graph_that_is_deleted_whole_leaves_nothing(db):
    insert(db, "plan")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    insert(db, "u", continues="plan")
    place(db, "plan", "u")
    delete(db, "plan", "t", "u")
    assert left(db) == dict.fromkeys(TABLES, 0)


def test_same_ids_again_begin_anew(db):
    insert(db, "plan")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    db.execute("update agent_dependencies set settled = true")
    insert(db, "u", continues="plan")
    place(db, "plan", "u")
    delete(db, "plan", "t", "u")
    db.execute("delete from agent_unsettled")
    insert(db, "plan")
    insert(db, needs=["plan"])
    insert(db, "u", continues="plan")
    assert (edges(db, "t"), count(db, "t"), notes(db), row(db, "plan")["conversation"]) == ([], None, ["t", "u"], None)
    db.execute("truncate agent_tasks")
    assert left(db) == dict.fromkeys(TABLES, 0)
    insert(db, "plan")
    insert(db, needs=["plan"])
    assert (row(db)["status"], edges(db, "t")) == ("blocked", [])


def test_follow_up_of_a_deleted_task_goes_on_alone(db):
    insert(db)
    for task_id in ("u", "v", "w"):
        insert(db, task_id, continues="t")
    place(db, "t", "u", "v", "w")
    past_the_judges(db, "update agent_tasks set status = 'failed', fencing_token = 7 where task_id = 't'")
    delete(db, "t")
    after = dict(db.execute("select task_id, after from agent_conversations").fetchall())
    assert (after, count(db, "u")) == ({"u": None, "v": "u", "w": "v"}, (0, None)), (
        "it ran: the next one's turn has come"
    )
    delete(db, "v")
    assert count(db, "w") == (1, "v"), "it never ran: as if it were cancelled"
    assert db.execute("select distinct first from agent_conversations").fetchall() == [("t",)]


def test_first_task_that_does_not_know_its_place_leaves_none(db):
    """The settler gives it its number with SKIP LOCKED."""
    insert(db)
    insert(db, "u", continues="t")
    place(db, "t", "u")
    past_the_judges(db, "update agent_tasks set conversation = null, needed = null where task_id = 't'")
    delete(db, "t")
    assert db.execute("select task_id, after from agent_conversations").fetchall() == [("u", None)]


def test_held_task_learns_of_its_need_when_it_is_tied(db):
    insert(db, "plan")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    db.execute("update agent_tasks set status = 'waiting' where task_id = 't'")
    delete(db, "plan")
    assert edges(db, "t") == [("plan", False)], "settled, it would count as met"
    answer(db, "yes")
    assert (row(db)["status"], notes(db)) == ("blocked", ["t"])


def test_owner_may_delete_what_others_need(dsn):
    """A need keeps nobody from deleting it, also under the rights of an operator."""
    grant_roles(dsn)
    with login(dsn, "turbo_admin") as operator, psycopg.connect(operator, autocommit=True) as admin:
        insert(admin, "plan")
        with psycopg.connect(dsn, autocommit=True) as owner:
            insert(owner, needs=["plan"])
            tie(owner, "t", "plan")
        delete(admin, "plan")
        assert row(admin)["status"] == "blocked"


def test_open_deletion_lets_the_settler_pass(db, dsn):
    """It has locked those who wait, so what ties them skips them; rolled back, nothing has changed."""
    insert(db, "plan")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    skipping = "select task_id from agent_tasks where task_id = 't' for no key update skip locked"
    with psycopg.connect(dsn) as deleter:
        delete(deleter, "plan")
        assert db.execute(skipping).fetchall() == []
        deleter.rollback()
    assert (db.execute(skipping).fetchall(), count(db, "t"), edges(db, "t")) == ([("t",)], (1, None), [("plan", False)])


def test_deletion_waits_for_a_tie_and_sees_it(db, dsn):
    insert(db, "plan")
    insert(db, needs=["plan"])
    with psycopg.connect(dsn) as settler:
        tie(settler, "t", "plan")
        thread, done = in_another_session(dsn, "delete from agent_tasks where task_id = 'plan'")
        settler.commit()
        thread.join(10)
    assert (done, count(db, "t"), edges(db, "t")) == ([1], (1, "plan"), [("plan", True)])


def test_deletion_by_an_old_snapshot_loses_no_dependent(db, dsn):
    """The edge is younger than its snapshot: a note is left to the settler."""
    insert(db, "plan")
    insert(db, "known", needs=["plan"])
    tie(db, "known", "plan")
    insert(db, needs=["plan"])
    with psycopg.connect(dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from agent_tasks")
        db.execute(
            "insert into agent_dependencies (task_id, needs) values ('t', 'plan')"
        )  # as for a need that has waiters
        db.execute("delete from agent_unsettled")
        delete(old, "plan")
        old.commit()
    assert (count(db, "known"), edges(db, "t"), notes(db)) == ((1, "plan"), [("plan", False)], ["t", "plan"])
    insert(db, "plan")
    insert(db, "u", needs=["plan"])
    with psycopg.connect(dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from agent_tasks")
        tie(db, "u", "plan")
        with pytest.raises(errors.SerializationFailure):
            delete(old, "u")


def test_plain_deletions_touch_nothing(db):
    db.execute(
        "insert into agent_tasks (task_id, task_description) select 'n' || n, 'x' from generate_series(1, 100) n"
    )
    db.execute("listen turbo_ctl")
    db.execute("delete from agent_tasks")
    assert ([*db.notifies(timeout=0)], left(db), notes(db)) == ([], dict.fromkeys(TABLES, 0), [])


@pytest.mark.parametrize(("became", "then"), [("completed", "pending"), ("cancelled", "cancelled")])
async def test_deletion_waits_for_nobody_who_holds_a_dependent(db, dsn, became, then):
    """The settler sees to that one once it is let go."""
    insert(db, "plan")
    for task_id in ("t", "u"):
        insert(db, task_id, needs=["plan"])
    async with settling(dsn) as hand:
        await hand.one_pass()
        db.execute("set lock_timeout = '2s'")
        db.execute("update agent_tasks set status = %s where task_id = 'plan'", [became])
        with psycopg.connect(dsn) as person:
            person.execute("select from agent_tasks where task_id = 't' for update")
            delete(db, "plan")
            await hand.one_pass()
            assert states(db) == {"t": "blocked", "u": then}
        await hand.one_pass()
        assert states(db) == {"t": then, "u": then}
        at_rest(db)


WAITS = Mutation(
    "a deletion waits for nobody",
    "turbo_forget_needs",
    (("order by t.task_id for no key update skip locked)", "order by t.task_id for no key update)"),),
)


@pytest.mark.parametrize("guard", [None, WAITS])
async def test_deletion_of_needs_beside_a_cancel_of_their_graph(dsn, db, guard):
    """The one goes from the needs to who waits for them, the other from those to the needs."""
    if guard:
        with applied(guard, db):  # for good: this database is the test's own
            pass
    for name in ("need1", "need2"):
        insert(db, name)
    for name in ("a1", "a2"):
        insert(db, name, needs=["need1", "need2"])
    async with settling(dsn) as hand:
        await hand.one_pass()
        cancel = statement("client/cancel").encode()
        with psycopg.connect(dsn) as canceller, psycopg.connect(dsn) as deleter:
            canceller.execute(cancel, {"task_id": ["a1"]})
            deleter.execute("set lock_timeout = '300ms'")
            if guard:
                with pytest.raises(errors.LockNotAvailable):
                    delete(deleter, "need2", "need1")
                return
            delete(deleter, "need2", "need1")
            thread, done = in_another_session(
                dsn, "update agent_tasks set status = 'cancelled' where task_id in ('a2', 'need1')"
            )
            canceller.commit()
            deleter.commit()
            thread.join(10)
        await hand.one_pass()
        assert (done, states(db)) == ([1], {"a1": "cancelled", "a2": "cancelled"})
        at_rest(db)
