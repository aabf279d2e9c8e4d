"""What becomes of a row of agent_messages: judged when it is inserted, and left over when its task is over before it arrived."""

from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support.logins import login
from tests.support.open_messages import body, follow_ups, left_over, message, open_bodies
from tests.support.rig import finished
from tests.support.work_rows import insert
from turbo.domain.outcome import OutcomeKind
from turbo.domain.task import Task
from turbo.migrate import grant_roles, migrate

ADOPTED = """
create table agent_tasks (
  task_id {kind} primary key, task_type text not null default 'mine', task_description text not null, task_priority integer default 5,
  input_data jsonb, status text default 'pending', output_data jsonb, error_message text, execution_time_ms integer,
  assigned_worker_id text, timeout_seconds integer default 300, max_retries integer default 3, retry_count integer default 0,
  created_at timestamp default current_timestamp, started_at timestamp, completed_at timestamp)"""


async def claimed(db: psycopg.Connection, stores: Any, task_id: str = "t", **columns: object) -> Task:
    insert(db, task_id, **columns)
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    return task


async def ended(stores: Any, task: Task, outcome: OutcomeKind = OutcomeKind.SUCCEEDED) -> None:
    await stores.results.finish([finished(task, stores.worker_id, outcome)])


# ── the insert ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        (None, errors.CheckViolation, "the message to task t is empty"),
        ("", errors.CheckViolation, "is empty"),
        (" \n\t", errors.CheckViolation, "is empty"),
        ("x" * 262_145, errors.CheckViolation, "has 262145 bytes, more than 262144"),
        ("x" * 10_000_000, errors.CheckViolation, "has 10000000 bytes, more than 262144"),
        ("é" * 131_073, errors.CheckViolation, "has 262146 bytes, more than 262144"),
    ],
)
def test_message_that_is_none_is_refused(
    db: psycopg.Connection, told: str | None, error: type[psycopg.Error], words: str
) -> None:
    insert(db, "t")
    with pytest.raises(error, match=words) as refused:
        message(db, "t", told)
    assert refused.value.diag.message_hint
    message(db, "t", "x" * 262_144)
    assert len(open_bodies(db)) == 1


def test_message_to_an_unknown_task_is_refused(db: psycopg.Connection) -> None:
    with pytest.raises(errors.ForeignKeyViolation, match=r"there is no task \\u001b\[2Jnone"):
        message(db, "\x1b[2Jnone", "hello")


@pytest.mark.parametrize("over", ["completed", "failed", "cancelled"])
def test_message_to_a_finished_task_is_refused_with_a_hint(db: psycopg.Connection, over: str) -> None:
    insert(db, "it's")
    db.execute("update agent_tasks set status = %s", [over])
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=f"is over: it is {over}") as refused:
        message(db, "it's", "hello")
    hint = refused.value.diag.message_hint or ""
    assert "INSERT INTO agent_tasks (continues, task_description) VALUES ('it''s', '...')" in hint


def test_nobody_can_write_a_message_as_another(db: psycopg.Connection) -> None:
    insert(db, "t")
    db.execute(
        "insert into agent_messages (task_id, body, created_by, created_at, delivered_at, fencing_token, follow_up, task_born)"
        " values ('t', 'hello', 'mallory', '2000-01-01', now(), 7, 'x', 0)"
    )
    row = db.execute(
        "select created_by = session_user, created_at > now() - interval '1 minute', delivered_at, fencing_token, follow_up,"
        " task_born = (select extract(epoch from created_at) from agent_tasks) from agent_messages"
    ).fetchone()
    assert row == (True, True, None, None, None, True)
    for column, value in {"created_by": "mallory", "body": "other", "task_id": "u", "task_born": "0"}.items():
        with pytest.raises(errors.CheckViolation, match="a message cannot be changed"):
            db.execute(f"update agent_messages set {column} = %s", [value])  # type: ignore[arg-type]


def test_message_goes_to_ones_own_task_only(dsn: str, db: psycopg.Connection) -> None:
    grant_roles(dsn)
    with (
        login(dsn, "turbo_submitter") as one,
        login(dsn, "turbo_submitter") as other,
        login(dsn, "turbo_admin") as boss,
    ):
        with psycopg.connect(one, autocommit=True) as mine:
            insert(mine, "t")
            message(mine, "t", "mine")
        with psycopg.connect(other, autocommit=True) as theirs:
            with pytest.raises(errors.InsufficientPrivilege, match="task t is not yours"):
                message(theirs, "t", "theirs")
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                theirs.execute("update agent_messages set delivered_at = now()")
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                theirs.execute("insert into agent_messages (task_id, body, created_by) values ('t', 'x', 'y')")
        with psycopg.connect(boss, autocommit=True) as admin:
            message(admin, "t", "an operator's")
        assert open_bodies(db) == ["mine", "an operator's"]


def test_notification_names_the_worker_and_the_task(db: psycopg.Connection) -> None:
    insert(db, "t")
    db.execute("listen turbo_ctl")
    message(db, "t", "hello")
    with db.transaction():
        db.execute("set local turbo.notify = 'off'")
        message(db, "t", "silent")
    assert [one.payload for one in db.notifies(timeout=0.2)] == ["message  t"]


def test_restored_messages_are_as_they_were(db: psycopg.Connection) -> None:
    insert(db, "t")
    with db.cursor().copy("copy agent_messages (message_id, task_id, body, created_at, created_by) from stdin") as copy:
        copy.write_row((7, "gone", "old", "2020-01-01", "alice"))
    with db.cursor().copy("copy agent_messages (task_id, body, created_by) from stdin") as copy:
        copy.write_row(("t", "new", "mallory"))
    rows = db.execute("select body, created_by = session_user from agent_messages order by created_at").fetchall()
    assert rows == [("old", False), ("new", True)]


def test_thousand_messages_at_once_cost_one_notification(db: psycopg.Connection) -> None:
    insert(db, "t")
    db.execute("listen turbo_ctl")
    db.execute("insert into agent_messages (task_id, body) select 't', 'number ' || n from generate_series(1, 1000) n")
    assert [one.payload for one in db.notifies(timeout=0.2)] == ["message  t"]
    assert len(open_bodies(db)) == 1000


# ── what is left over ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_left_over_messages_become_follow_ups_of_their_authors(dsn: str, db, stores) -> None:
    grant_roles(dsn)
    with login(dsn, "turbo_admin") as boss, psycopg.connect(boss, autocommit=True) as admin:
        task = await claimed(db, stores, task_type="review", queue="default")
        for said in ("one", "two"):
            message(db, "t", said)
        message(admin, "t", "three")
        message(db, "t", "four")
        (operator,) = admin.execute("select session_user").fetchone() or ("",)
        assert left_over(db) == (0, 0), "it still runs"
        await ended(stores, task)
        assert left_over(db) == (4, 2)
        (me,) = db.execute("select session_user").fetchone() or ("",)
        assert follow_ups(db) == [("t", "three", operator, "review"), ("t", "one\n\ntwo\n\nfour", me, "review")]
        rows = db.execute("select follow_up is not null, delivered_at is not null, fencing_token from agent_messages")
        assert set(rows) == {(True, True, None)}
        assert left_over(db) == (0, 0)


async def test_large_left_over_messages_are_several_follow_ups(db, stores) -> None:
    task = await claimed(db, stores)
    for _ in range(9):
        message(db, "t", "x" * 262_144)
    await ended(stores, task)
    assert left_over(db) == (9, 3)
    sizes = [len(text) for _, text, *_ in follow_ups(db)]
    assert max(sizes) < 1_500_000
    assert sum(sizes) >= 9 * 262_144


async def test_messages_to_a_failed_task_wait_for_its_retry(db, stores) -> None:
    task = await claimed(db, stores, max_retries=0)
    message(db, "t", "hello")
    await ended(stores, task, OutcomeKind.FAILED)
    assert left_over(db) == (0, 0)
    assert not db.execute("select turbo_messages_left_over()").fetchone()[0]
    db.execute("update agent_tasks set status = 'pending' where task_id = 't'")
    (again,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    assert [one.body for one in again.messages] == ["hello"]


@pytest.mark.parametrize(
    ("closing", "why"),
    [
        ("status = 'cancelled'", "the task was cancelled"),
        ("status = 'completed'", "the task was closed, and never ran"),
    ],
)
def test_cancel_closes_messages_with_a_line_in_the_trail(db, closing: str, why: str) -> None:
    insert(db, "t")
    message(db, "t", "hello")
    db.execute(f"update agent_tasks set {closing} where task_id = 't'")
    assert db.execute("select turbo_messages_left_over()").fetchone() == (True,)
    assert left_over(db) == (1, 0)
    assert body(db, "hello") == (True, None, None)
    (detail,) = db.execute("select detail from agent_actions where action_type = 'undelivered'").fetchone()
    assert (detail["why"], len(detail["messages"])) == (why, 1)
    assert db.execute("select turbo_messages_left_over()").fetchone() == (False,)


async def test_message_that_a_run_was_given_counts_if_it_succeeds(db, stores) -> None:
    message_of = {}
    for task_id, outcome in {"good": OutcomeKind.SUCCEEDED, "bad": OutcomeKind.FAILED}.items():
        task = await claimed(db, stores, task_id, max_retries=0)
        message_of[task_id] = message(db, task_id, task_id)
        db.execute("update agent_messages set fencing_token = %s where task_id = %s", [task.fencing_token, task_id])
        await ended(stores, task, outcome)
    assert left_over(db) == (1, 0)
    assert open_bodies(db) == ["bad"]
    assert follow_ups(db) == []


async def test_refused_follow_up_closes_its_message_with_the_reason(db, stores) -> None:
    task = await claimed(db, stores)
    message(db, "t", "hello")
    db.execute("alter table agent_tasks add check (task_description <> 'hello')")
    await ended(stores, task)
    assert left_over(db) == (1, 0)
    (detail,) = db.execute("select detail from agent_actions where action_type = 'undelivered'").fetchone()
    assert detail["why"].startswith("its follow-up was refused")


# ── deletion ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gone", ["delete from agent_tasks where task_id = 't'", "truncate agent_tasks"])
def test_messages_go_with_their_task(db, gone: str) -> None:
    insert(db, "t")
    insert(db, "u")
    message(db, "t", "hello")
    message(db, "u", "other")
    db.execute(gone)  # type: ignore[arg-type]
    assert open_bodies(db) == (["other"] if gone.startswith("delete") else [])


async def test_message_of_a_deleted_task_is_not_for_the_next_one(dsn: str, db, stores) -> None:
    """It is inserted in a transaction that ends after the deletion, so the deletion cannot see it."""
    insert(db, "t")
    with psycopg.connect(dsn) as slow:
        message(slow, "t", "for the first")
        db.execute("delete from agent_tasks where task_id = 't'")
        insert(db, "t")
        slow.commit()
    message(db, "t", "for the second")
    assert open_bodies(db) == ["for the first", "for the second"], "it is there, and open"
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    assert [one.body for one in task.messages] == ["for the second"]
    await ended(stores, task)
    assert left_over(db) == (2, 1)
    assert [text for _, text, *_ in follow_ups(db)] == ["for the second"]


def test_messages_follow_a_task_that_gets_another_id(db) -> None:
    insert(db, "t")
    message(db, "t", "hello")
    db.execute(
        "update agent_tasks set task_id = 'u', created_at = date_trunc('second', created_at) where task_id = 't'"
    )
    assert db.execute(
        "select m.task_id, turbo_same_task(m.task_born, extract(epoch from t.created_at)::float8)"
        " from agent_messages m join agent_tasks t using (task_id)"
    ).fetchall() == [("u", True)]


# ── a message in a transaction that goes on ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", [OutcomeKind.SUCCEEDED, OutcomeKind.CANCELLED])
async def test_open_transaction_holds_up_no_result(dsn: str, db, stores, outcome: OutcomeKind) -> None:
    """Its message is left over: a follow-up, or closed; looked for when it is visible, and so never gone."""
    task = await claimed(db, stores)
    if outcome is OutcomeKind.CANCELLED:
        db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")
    with psycopg.connect(dsn) as slow, psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen turbo_ctl")
        message(slow, "t", "hello")
        await ended(stores, task, outcome)
        assert db.execute("select status from agent_tasks where task_id = 't'").fetchone() != ("running",)
        assert left_over(db) == (0, 0), "control: a look at the end of the task misses it"
        slow.commit()
        payloads = [one.payload for one in listener.notifies(timeout=0.2)]
    assert f"message {stores.worker_id} t" in payloads
    assert db.execute("select turbo_messages_left_over()").fetchone() == (True,)
    assert left_over(db) == (1, int(outcome is OutcomeKind.SUCCEEDED))
    assert open_bodies(db) == []


@pytest.mark.parametrize("commits", [True, False])
async def test_two_settlers_make_one_follow_up(dsn: str, db, stores, commits: bool) -> None:
    """The control: if the first one dies instead, the other makes it."""
    task = await claimed(db, stores)
    message(db, "t", "hello")
    await ended(stores, task)
    with psycopg.connect(dsn) as slow:
        assert left_over(slow) == (1, 1)
        assert left_over(db) == (0, 0), "what another settler has is passed"
        slow.commit() if commits else slow.rollback()
    assert left_over(db) == ((0, 0) if commits else (1, 1))
    assert [text for _, text, *_ in follow_ups(db)] == ["hello"]


@pytest.mark.parametrize("kind", ["text", "uuid", "bigint", "varchar(10)"])
def test_left_over_message_of_an_adopted_task_is_a_follow_up(empty_dsn: str, kind: str) -> None:
    """Its writers give the ids."""
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute(ADOPTED.format(kind=kind).encode())
        migrate(empty_dsn)
        given = {"text": "t", "uuid": "00000000-0000-0000-0000-000000000001", "bigint": "7"}.get(kind, "t")
        db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [given])
        message(db, given, "hello")
        with db.transaction():
            db.execute("set local session_replication_role = replica")
            db.execute("update agent_tasks set status = 'completed', fencing_token = -1")
        if kind == "varchar(10)":  # too short for an id that can be made up: closed, with the reason
            assert left_over(db) == (1, 0)
            (detail,) = db.execute("select detail from agent_actions where action_type = 'undelivered'").fetchone()
            assert detail["why"].startswith("its follow-up was refused")
            return
        assert left_over(db) == (1, 1)
        assert [(task, text) for task, text, *_ in follow_ups(db)] == [(given, "hello")]
