"""People edit rows by hand, and mean it: each edit does what they meant, and stands in the trail with their name."""

from typing import Any

import psycopg
import pytest

from tests.support.steps import ME, claim_one, ended
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason, WorkerState


def insert(db, task_id="t", **columns):
    names = ["task_id", "task_description", *columns]
    db.execute(
        f"insert into agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        [task_id, "x", *columns.values()],
    )


def row(db, task_id="t"):
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from agent_tasks where task_id = %s", [task_id]).fetchone()


def set_status(db, status, task_id="t", more=""):
    db.execute(f"update agent_tasks set status = %s {more} where task_id = %s", [status, task_id])


def trail(db, task_id="t"):
    return db.execute(
        "select action_type, from_status, to_status, actor from agent_actions where task_id = %s order by action_id",
        [task_id],
    ).fetchall()


def test_pending_task_is_cancelled_at_once_and_by_name(db):
    insert(db)
    set_status(db, "cancelled")
    assert row(db)["status"] == "cancelled"
    assert row(db)["completed_at"] is not None
    assert trail(db) == [("edited", "pending", "cancelled", db.info.user)]


async def test_finished_task_set_to_pending_restarts_its_attempts(db, stores):
    insert(db, max_retries=0)
    held = await claim_one(stores)
    await stores.results.finish([ended(held, OutcomeKind.FAILED, error="no", failure_kind="error")])
    assert row(db)["status"] == "failed"
    set_status(db, "pending")
    now = row(db)
    assert (now["status"], now["retry_count"], now["error_message"], now["completed_at"], now["output_data"]) == (
        "pending",
        0,
        None,
        None,
        None,
    )
    again = await claim_one(stores)
    assert again.token > held.token
    assert (await stores.results.finish([ended(held)]))[0].verdict in ("already", "late"), (
        "the old run must not answer for the new one"
    )
    assert row(db)["status"] == "running"


@pytest.mark.parametrize("wish", ["cancelled", "pending", "completed", "failed"])
async def test_requested_status_waits_until_the_agent_has_ended(db, stores, wish):
    insert(db, concurrency_key="k")
    insert(db, "next", concurrency_key="k", task_priority=1)
    held = await claim_one(stores)
    notices = []
    db.add_notice_handler(lambda d: notices.append(d.message_primary))
    set_status(db, wish)
    assert row(db)["status"] == "running"
    assert row(db)["cancel_to"] == wish
    assert notices
    assert wish in notices[0]
    assert (await stores.claims.claim("default", 5, may_idle=True)).tasks == (), "its concurrency_key is not free"
    assert (await stores.claims.reconcile([held])).stop == (held,), "the poll twin of the notification"
    answer = (await stores.results.finish([ended(held, OutcomeKind.CANCELLED, output=None)]))[0]
    assert answer.becomes == wish
    assert row(db)["cancel_to"] is None
    expected = {"t", "next"} if wish == "pending" else {"next"}
    assert {t.task_id for t in (await stores.claims.claim("default", 1, may_idle=True)).tasks} <= expected


async def test_result_entered_by_hand_survives_the_end_of_the_run(db, stores):
    insert(db)
    held = await claim_one(stores)
    set_status(db, "completed", more=""", output_data = '{"output": "by hand"}'""")
    await stores.results.finish([ended(held, OutcomeKind.CANCELLED)])
    assert row(db)["status"] == "completed"
    assert row(db)["output_data"] == {"output": "by hand"}


async def test_finished_work_survives_a_racing_cancel(db, stores):
    insert(db)
    held = await claim_one(stores)
    set_status(db, "cancelled")
    assert (await stores.results.finish([ended(held)]))[0].becomes == "completed"


async def test_running_task_keeps_its_row_and_its_key(db, stores):
    insert(db, concurrency_key="k")
    held = await claim_one(stores)
    with pytest.raises(psycopg.errors.ObjectInUse) as refused:
        db.execute("delete from agent_tasks")
    assert "Cancel it first" in refused.value.diag.message_hint
    with pytest.raises(psycopg.errors.ObjectInUse):
        db.execute("update agent_tasks set concurrency_key = null")
    await stores.results.finish([ended(held)])
    db.execute("delete from agent_tasks")


def test_pending_runs_a_scheduled_task_now(db):
    insert(db)
    db.execute("update agent_tasks set run_after = now() + interval '1 hour'")
    assert row(db)["status"] == "scheduled"
    set_status(db, "pending")
    assert row(db)["status"] == "pending"
    assert db.execute("select run_after <= now() from agent_tasks").fetchone() == (True,)


def test_internal_columns_cannot_be_edited(db):
    insert(db)
    for change in ("fencing_token = 5", "agent_session_id = 'x'", "agent_session_id = 'x', retry_count = 1"):
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute(f"update agent_tasks set {change}")


def test_unknown_status_is_refused_with_advice(db):
    insert(db)
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        set_status(db, "done")
    assert "'pending' to run the task again" in refused.value.diag.message_hint


async def test_updates_of_an_old_poller_are_unchanged(db, stores):
    """It claims, finishes, and puts back for a retry; turbo changes no column of it and writes no trail."""
    insert(db)
    steps: list[dict[str, Any]] = [
        {"status": "running", "assigned_worker_id": "old-1", "started_at": "2026-01-01 10:00:00+00"},
        {"status": "pending", "retry_count": 1, "assigned_worker_id": None, "error_message": "again"},
        {"status": "running", "assigned_worker_id": "old-1", "started_at": "2026-01-01 11:00:00+00"},
        {"status": "failed", "completed_at": "2026-01-01 12:00:00+00", "error_message": "no"},
        {"status": "pending", "retry_count": 2},
        {"status": "running", "assigned_worker_id": "old-1"},
        {
            "status": "completed",
            "output_data": '{"x": 1}',
            "completed_at": "2026-01-01 13:00:00+00",
            "execution_time_ms": 7,
        },
    ]
    for step in steps:
        before = row(db)
        db.execute(
            f"update agent_tasks set {', '.join(f'{c} = %s' for c in step)} where task_id = 't'", list(step.values())
        )
        after = row(db)
        touched = {c for c in after if after[c] != before[c]}
        assert touched <= set(step), f"turbo's triggers changed {touched - set(step)}"
        if step["status"] == "running":
            db.execute("update agent_workers set state = 'dead'")
            assert await stores.registry.rescue(RescueReason.WORKER_SILENT) == []
            assert (await stores.claims.reconcile([])).orphans == ()
            await stores.registry.register(ME, WorkerState.UP)
    assert trail(db) == []


async def test_old_poller_may_claim_a_task_that_turbo_gave_back(db, stores):
    insert(db)
    held = await claim_one(stores)
    await stores.results.release([(held, None)], "drain")
    db.execute("update agent_tasks set status = 'running', assigned_worker_id = 'old-1' where task_id = 't'")
    assert row(db)["status"] == "running"
    assert row(db)["fencing_token"] is None, "from here on the row is the poller's"


@pytest.mark.parametrize("never", ["infinity", "-infinity"])
async def test_task_can_be_delayed_but_not_to_infinity(db, stores, never):
    """On PostgreSQL 14 to 16 a difference from infinity is an error, and it would be every claim's."""
    insert(db)
    with pytest.raises(psycopg.errors.CheckViolation, match="run_after is") as refused:
        db.execute("update agent_tasks set run_after = %s", [never])
    assert "Write a moment" in refused.value.diag.message_hint
    with db.transaction():  # past the triggers
        db.execute("set local session_replication_role = replica")
        db.execute(
            "update agent_tasks set run_after = %s, status = %s",
            [never, "scheduled" if never == "infinity" else "pending"],
        )
    insert(db, "other", task_priority=1)
    assert (await stores.claims.poll(["default"])).next_in is None
    claimed = {t.task_id: t.waited_seconds for t in (await stores.claims.claim("default", 5, may_idle=True)).tasks}
    assert set(claimed) == ({"other"} if never == "infinity" else {"t", "other"})
    assert all(0 <= waited < 60 for waited in claimed.values())


@pytest.mark.parametrize("how", ["rescued", "released", "an orphan", "failed"])
async def test_requested_run_after_survives_any_end_of_the_run(db, stores, how):
    insert(db)
    task = (await stores.claims.claim("default", 1, may_idle=True)).tasks[0]
    held = ClaimRef(task.task_id, task.fencing_token)
    db.execute("update agent_tasks set status = 'scheduled', run_after = '2099-01-01'")
    if how == "rescued":
        db.execute("update agent_workers set state = 'dead'")
        assert [r.status for r in await stores.registry.rescue(RescueReason.WORKER_SILENT)] == ["scheduled"]
    elif how == "released":
        assert (await stores.results.release([(held, None)], "drain")).claims == (held,)
    elif how == "an orphan":
        assert (await stores.claims.reconcile([])).orphans == (held,)
    else:
        assert (await stores.results.finish([ended(held, OutcomeKind.CANCELLED)]))[0].becomes == "scheduled"
    assert (row(db)["status"], row(db)["run_after"].year) == ("scheduled", 2099)


def test_what_a_hand_edit_is_told_steers_no_terminal(db):
    """Whoever may insert chooses the id, and psql prints messages as they are."""
    name, worker = "t\x1b[2J\u202e\n", "w\x1b]0;x\x07"
    told: list[str] = []
    db.add_notice_handler(lambda notice: told.append(f"{notice.message_primary} {notice.message_hint}"))
    edits = {
        "pending": ["turbo_rev = 7", "answer = 'yes'", "continues = 'u'", "status = 'running'", "status = 'blocked'"],
        "running": ["task_id = 'u'", "assigned_worker_id = 'x'", "concurrency_key = 'k'", "status = 'waiting'", "status = 'cancelled'"],
        "completed": ["status = 'waiting'"],
    }  # fmt: skip
    for status, some in edits.items():
        for edit in [*some, *(["delete"] if status == "running" else [])]:
            db.execute("truncate agent_tasks")
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [name])
            db.execute("insert into agent_tasks (task_id, task_description, needs) values ('d', 'x', %s)", [[name]])
            db.execute(
                "update agent_tasks set status = %s, fencing_token = %s, assigned_worker_id = %s, needed = true,"
                " turbo_rev = turbo_rev + 1 where task_id = %s",
                [status, 5 if status == "running" else None, worker, name],
            )
            statement = f"update agent_tasks set {edit}" if edit != "delete" else "delete from agent_tasks"
            try:
                db.execute(f"{statement} where task_id <> 'd'".encode())
            except psycopg.Error as error:
                told.append(f"{error.diag.message_primary} {error.diag.message_hint}")
    assert len(told) >= 9
    assert not [text for text in told if not text.isprintable()]
    assert [text for text in told if "t\\u001b[2J" in text]
