"""What a follow-up may go on with, and what it inherits: `continues`, as any SQL client writes it."""

import psycopg
import pytest
from psycopg import errors

from tests.support.logins import login, user
from tests.support.steps import claim_one, ended
from tests.support.waiting_rows import answer, insert, row
from tests.support.work_rows import notes
from turbo.domain.outcome import OutcomeKind
from turbo.migrate import grant_roles

FIRST = {"task_type": "review", "queue": "q", "timeout_seconds": 77, "concurrency_key": "k"}


def refused(db, kind, match, **columns) -> str:
    with pytest.raises(kind, match=match) as found:
        insert(db, "u", **columns)
    return str(found.value.diag.message_hint)


def inherited(db, task_id: str) -> dict[str, object]:
    return {name: row(db, task_id)[name] for name in FIRST}


def test_follow_up_inherits_and_waits_its_turn(db):
    insert(db, **FIRST)
    insert(db, "u", continues="t")
    assert (row(db, "u")["status"], inherited(db, "u"), notes(db)) == ("blocked", FIRST, ["u"])
    given = {"task_type": "default", "queue": "default", "timeout_seconds": 300, "concurrency_key": None}
    insert(db, "defaults", continues="t", **given)
    assert inherited(db, "defaults") == FIRST, "a value that equals the default counts as not given"
    insert(db, "own", continues="u", task_type="docs", queue="p", timeout_seconds=5, concurrency_key="k")
    assert inherited(db, "own") == FIRST | {"task_type": "docs", "queue": "p", "timeout_seconds": 5}
    assert (row(db)["needed"], row(db)["conversation"], row(db)["turbo_rev"]) == (None, None, 0), "it is not touched"


def test_changed_defaults_of_a_table_count_as_not_given(db):
    db.execute("alter table agent_tasks alter task_type set default 'any', alter timeout_seconds set default 60 + 5")
    insert(db, **FIRST)
    insert(db, "u", continues="t")
    assert inherited(db, "u") == FIRST


async def test_follow_up_goes_on_with_what_ran_or_will(db, stores):
    for end in (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED):
        insert(db, end)
        await stores.results.finish([ended(await claim_one(stores), end, final=True)])
        insert(db, f"after {end}", continues=end)
    insert(db, "stopped")
    await claim_one(stores)
    insert(db, "while it runs", continues="stopped")
    db.execute("update agent_tasks set status = 'cancelled', turbo_rev = turbo_rev + 1 where task_id = 'stopped'")
    insert(db, "after it ran", continues="stopped")
    insert(db, "later", run_after="2999-01-01")
    insert(db, "after later", continues="later")
    follow_ups = ["after succeeded", "after failed", "while it runs", "after it ran", "after later"]
    assert [row(db, name)["status"] for name in follow_ups] == ["blocked"] * 5


def test_follow_up_to_nothing_that_runs_is_refused(db):
    assert "conversation" in refused(db, errors.ForeignKeyViolation, "continues names 'nope'", continues="nope")
    refused(db, errors.ForeignKeyViolation, r"continues names '\\u000anope'", continues="\nnope")
    refused(db, errors.ForeignKeyViolation, "continues names ''", continues="")
    refused(db, errors.CheckViolation, "task u continues itself", continues="u")
    for status in ("completed", "failed", "cancelled"):
        insert(db, status, status=status)
        hint = refused(db, errors.ForeignKeyViolation, f"task {status} never ran and is {status}", continues=status)
        assert hint == "Insert a task of its own."
    insert(db)
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")
    refused(db, errors.ForeignKeyViolation, "task t never ran and is cancelled", continues="t")
    db.execute("delete from agent_tasks where task_id = 't'")
    refused(db, errors.ForeignKeyViolation, "continues names 't'", continues="t")
    assert notes(db) == []


def test_follow_up_with_a_key_of_its_own_is_refused(db):
    insert(db)
    insert(db, "keyed", concurrency_key="k")
    for other in ("t", "keyed"):
        hint = refused(db, errors.CheckViolation, "concurrency_key of its own", continues=other, concurrency_key="mine")
        assert "inherits" in hint


def test_upsert_of_a_follow_up_may_name_what_is_gone(db):
    insert(db)
    insert(db, "u", continues="t", idempotency_key="k")
    db.execute("delete from agent_tasks where task_id = 't'")
    again = "insert into agent_tasks (task_description, continues, idempotency_key) values ('x', 't', 'k') on conflict do nothing"
    assert db.execute(again.encode()).rowcount == 0


def test_held_follow_up_is_blocked_once_released(db):
    insert(db)
    insert(db, "u", continues="t", status="waiting")
    assert (row(db, "u")["status"], notes(db)) == ("waiting", ["u"]), "for its place"
    answer(db, "yes", "u")
    assert (row(db, "u")["status"], notes(db)) == ("blocked", ["u"])


def test_somebody_elses_task_is_not_continued(dsn):
    grant_roles(dsn)
    with (
        login(dsn, "turbo_submitter") as one,
        login(dsn, "turbo_submitter") as two,
        login(dsn, "turbo_admin") as operator,
        psycopg.connect(dsn, autocommit=True) as owner,
        psycopg.connect(one, autocommit=True) as mine,
        psycopg.connect(two, autocommit=True) as theirs,
        psycopg.connect(operator, autocommit=True) as admin,
    ):
        insert(mine)
        insert(mine, "u", continues="t")
        with pytest.raises(errors.InsufficientPrivilege, match=f"not yours: it was submitted by {user(one)}") as found:
            insert(theirs, "v", continues="t")
        assert "may update status" in str(found.value.diag.message_hint)
        insert(theirs, "w", needs=["t"])  # what it produces anybody may read
        insert(admin, "v", continues="t")
        insert(owner, "x", continues="t")
        owner.execute(f'grant "{user(two)}" to current_user'.encode())
        owner.execute(f'set role "{user(two)}"'.encode())
        with pytest.raises(errors.InsufficientPrivilege, match="not yours"):
            insert(owner, "y", continues="t")
        owner.execute("reset role")
        owner.execute("update agent_tasks set submitted_by = null where task_id = 't'")  # from before the column
        with pytest.raises(errors.InsufficientPrivilege, match="submitted by nobody known"):
            insert(mine, "y", continues="t")
        owner.execute(f'grant update (status) on agent_tasks to "{user(one)}"'.encode())
        insert(mine, "y", continues="t")
        insert(owner, "z", continues="t", turbo_rev=-1, submitted_by=user(two))  # by turbo itself, for somebody
        assert owner.execute(
            "select array_agg(task_id order by 1) from agent_tasks where continues is not null"
        ).fetchone() == (["u", "v", "x", "y", "z"],)


def test_id_that_changed_hands_is_not_continued(dsn):
    """Between the insert and its place the task was deleted, and somebody else's has its id."""
    grant_roles(dsn)
    with (
        login(dsn, "turbo_submitter") as one,
        login(dsn, "turbo_submitter") as two,
        login(dsn, "turbo_admin") as operator,
        psycopg.connect(dsn, autocommit=True) as owner,
        psycopg.connect(one, autocommit=True) as mine,
        psycopg.connect(two, autocommit=True) as theirs,
        psycopg.connect(operator, autocommit=True) as admin,
    ):
        for task_id in ("t", "own"):
            insert(theirs, task_id)
        insert(theirs, "u", continues="t")
        insert(theirs, "after u", continues="u")
        insert(theirs, "held", continues="t", status="waiting")
        insert(theirs, "fine", continues="own")
        insert(admin, "by an admin", continues="t")
        answer(owner, "yes", "held")  # by somebody who may not know
        owner.execute("delete from agent_tasks where task_id = 't'")
        insert(mine)
        insert(mine, "v", continues="t")
        owner.execute("select turbo_place_follow_ups(0, 1000)")
        query = (
            "select task_id from agent_conversations"
            " where conversation = (select conversation from agent_tasks where task_id = %s)"
        )
        assert sorted(found for (found,) in owner.execute(query, ["t"])) == ["by an admin", "t", "v"]
        assert sorted(found for (found,) in owner.execute(query, ["u"])) == ["after u", "u"]
        assert sorted(found for (found,) in owner.execute(query, ["own"])) == ["fine", "own"]
        for task_id in ("u", "held"):
            told = row(owner, task_id)
            assert (told["status"], told["failure_kind"]) == ("cancelled", "refused")
            assert "it continues t, which is a task of another login" in told["error_message"]
        (trail,) = owner.execute(
            "select detail ->> 'need' from agent_actions where task_id = 'u' and to_status = 'cancelled'"
        )
        assert trail == ("t",)


def test_old_snapshot_gives_no_right_to_a_conversation(dsn):
    """Its own row of that key is gone, which the transaction does not see: an insert that would add nothing adds a follow-up."""
    grant_roles(dsn)
    with (
        login(dsn, "turbo_submitter") as one,
        login(dsn, "turbo_submitter") as two,
        psycopg.connect(dsn, autocommit=True) as owner,
        psycopg.connect(one, autocommit=True) as theirs,
        psycopg.connect(two) as mine,
    ):
        insert(theirs, "victim", run_after="2090-01-01")
        insert(mine, "old", status="completed", idempotency_key="k")
        mine.commit()
        mine.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        mine.execute("select from agent_tasks")
        owner.execute("delete from agent_tasks where task_id = 'old'")
        with pytest.raises(errors.InsufficientPrivilege, match="not yours"):
            insert(mine, "u", continues="victim", idempotency_key="k")
        mine.rollback()
        insert(mine, "own", run_after="2090-01-01")
        mine.commit()
        mine.execute("select from agent_tasks")
        insert(mine, "u", continues="own", idempotency_key="k")
        mine.commit()
