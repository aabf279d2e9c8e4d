"""What people do by hand to tasks that wait for others, and to those that others wait for: each edit has one meaning."""

import psycopg
import pytest
from psycopg import errors

from tests.support.steps import claim_one, ended
from tests.support.waiting_rows import answer, in_another_session, insert, last_detail, record_question, row, trail
from tests.support.work_rows import count, edges, notes, past_the_judges, place, released, tie
from turbo.domain.outcome import OutcomeKind


@pytest.fixture
def blocked(db):
    """`t` waits for `plan`, tied."""
    insert(db, "plan")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    return db


def update(db, change: str, task_id: str = "t") -> None:
    db.execute(f"update agent_tasks set {change} where task_id = '{task_id}'".encode())


def heard(db) -> list[str]:
    return [n.payload for n in db.notifies(timeout=0)]


@pytest.fixture
def told(db):
    """Every notice that the person's session got."""
    messages: list[str] = []
    db.add_notice_handler(lambda notice: messages.append(str(notice.message_primary)))
    return messages


@pytest.mark.parametrize("status", ["pending", "scheduled"])
async def test_blocked_task_set_to_pending_runs_at_once(blocked, stores, status):
    update(blocked, "status = 'cancelled'", "plan")
    rev = row(blocked)["turbo_rev"]
    update(blocked, f"status = '{status}'")
    assert (row(blocked)["status"], count(blocked, "t")) == ("pending", None)
    assert row(blocked)["turbo_rev"] == rev + 1, "who read it while it was blocked must read it again"
    assert trail(blocked) == [("edited", "blocked", "pending")]
    assert (await claim_one(stores)).task_id == "t"


def test_blocked_task_put_off_runs_at_that_moment(blocked):
    update(blocked, "status = 'pending', run_after = '2999-01-01'")
    assert (row(blocked)["status"], row(blocked)["run_after"].year) == ("scheduled", 2999)
    insert(blocked, "u", needs=["plan"])
    update(blocked, "run_after = '2999-01-01'", "u")
    assert (row(blocked, "u")["status"], row(blocked, "u")["run_after"].year) == ("blocked", 2999)


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed"])
def test_blocked_task_is_closed_by_hand(blocked, status):
    update(blocked, f"status = '{status}'")
    assert (row(blocked)["status"], count(blocked, "t")) == (status, None)
    assert row(blocked)["completed_at"] is not None
    assert trail(blocked) == [("edited", "blocked", status)]


def test_needs_given_up_wait_for_nothing_more(blocked):
    insert(blocked, "held", status="waiting", needs=["plan"])
    insert(blocked, "over", needs=["plan"])
    tie(blocked, "over", "plan")
    update(blocked, "status = 'cancelled'", "over")
    for task_id in ("t", "held", "over"):
        update(blocked, "needs = null", task_id)
        assert (row(blocked, task_id)["needs"], count(blocked, task_id), edges(blocked, task_id)) == (None, None, [])
        assert last_detail(blocked, task_id)["columns"] == ["needs"]
    assert (row(blocked)["status"], notes(blocked)) == ("blocked", ["held", "t"]), "the settler lets it go"
    answer(blocked, "yes", "held")
    update(blocked, "status = 'pending'", "over")
    assert [row(blocked, name)["status"] for name in ("held", "over")] == ["pending", "pending"]


def test_retry_without_its_needs_runs_at_once(blocked):
    update(blocked, "status = 'cancelled'")
    update(blocked, "status = 'pending', needs = '{}'")
    assert (row(blocked)["status"], row(blocked)["needs"], edges(blocked, "t")) == ("pending", None, [])


def test_other_edits_of_what_it_waits_for_are_refused(blocked):
    insert(blocked, "other")
    for change in (
        "needs = '{other}'", "needs = '{plan,other}'", "continues = 'plan'", "on_needs_failed = 'run'",
        "status = 'pending', needs = '{other}'",
    ):  # fmt: skip
        with pytest.raises(errors.CheckViolation, match="of task t cannot change") as refused:
            update(blocked, change)
        assert "SET needs = NULL" in str(refused.value.diag.message_hint)
    with pytest.raises(errors.CheckViolation, match="of task other cannot change"):
        update(blocked, "needs = '{plan}'", "other")
    update(blocked, "on_needs_failed = 'cancel', needs = '{plan}', continues = null")  # a save of every column
    with pytest.raises(errors.ObjectInUse, match="its task_id cannot change"):
        update(blocked, "task_id = 'u'")
    with pytest.raises(errors.ObjectInUse, match="its task_id cannot change"):
        update(blocked, "task_id = 'u'", "plan")
    assert (row(blocked)["status"], edges(blocked, "t")) == ("blocked", [("plan", False)])
    assert notes(blocked) == []


def test_labels_may_be_edited_and_are_told(blocked):
    update(blocked, "parent_task_id = 'p', submitted_by = 'somebody'")
    assert last_detail(blocked)["columns"] == ["parent_task_id", "submitted_by"]


def test_task_is_blocked_by_hand_only_if_it_names_others(blocked):
    insert(blocked, "plain")
    for status in ("pending", "waiting", "cancelled"):
        update(blocked, f"status = '{status}'", "plain")
        with pytest.raises(errors.CheckViolation, match="waits for no other task"):
            update(blocked, "status = 'blocked'", "plain")
    for status in ("pending", "waiting", "cancelled"):
        update(blocked, f"status = '{status}'")
        assert (row(blocked)["status"], notes(blocked)) == (status, [])
        update(blocked, "status = 'blocked'")
        assert (row(blocked)["status"], notes(blocked), row(blocked)["question"]) == ("blocked", ["t"], None)
        blocked.execute("delete from agent_unsettled")


@pytest.mark.parametrize("release", ["answer = 'yes'", "status = 'pending'", "status = 'blocked'"])
def test_blocked_task_is_held_and_waits_again(blocked, release):
    blocked.execute("update agent_tasks set run_after = '2999-01-01' where task_id = 't'")
    update(blocked, "status = 'waiting'")
    assert (row(blocked)["status"], row(blocked)["run_after"].year, count(blocked, "t")) == ("waiting", 9000, None)
    update(blocked, release)
    assert (row(blocked)["status"], row(blocked)["run_after"].year, notes(blocked)) == ("blocked", 2999, ["t"])
    assert edges(blocked, "t") == [], "to be tied anew"


async def test_answer_to_its_question_goes_on_without_waiting(blocked, stores):
    released(blocked, "t")
    update(blocked, "status = 'cancelled'", "plan")
    record_question(blocked, await claim_one(stores))
    answer(blocked, "yes")
    assert (row(blocked)["status"], notes(blocked)) == ("pending", [])


def test_running_task_is_not_blocked_by_hand(blocked):
    past_the_judges(blocked, "update agent_tasks set status = 'running', fencing_token = 7 where task_id = 't'")
    with pytest.raises(errors.ObjectInUse, match="cannot be held"):
        update(blocked, "status = 'blocked'")
    past_the_judges(blocked, "update agent_tasks set status = 'blocked', fencing_token = null where task_id = 't'")
    with pytest.raises(errors.CheckViolation, match="cannot be set to running"):
        update(blocked, "status = 'running'")


def test_retried_graph_waits_in_its_order(db):
    insert(db, "plan")
    insert(db, "do", needs=["plan"])
    insert(db, "review", needs=["do", "plan"])
    tie(db, "do", "plan")
    tie(db, "review", "do", "plan")
    db.execute("update agent_tasks set status = 'cancelled'")
    db.execute("delete from agent_unsettled")
    db.execute("update agent_tasks set status = 'pending'")
    assert [row(db, name)["status"] for name in ("plan", "do", "review")] == ["pending", "blocked", "blocked"]
    assert set(notes(db)) >= {"do", "review"}
    assert (edges(db, "do"), edges(db, "review")) == ([], [])


def test_retry_keeps_settled_edges_to_what_is_gone(blocked):
    insert(blocked, "gone")
    insert(blocked, "u", needs=["gone", "plan"])
    tie(blocked, "u", "gone", "plan")
    blocked.execute("update agent_dependencies set settled = true where task_id = 'u'")
    update(blocked, "status = 'failed'", "u")
    past_the_judges(blocked, "delete from agent_tasks where task_id = 'gone'")
    update(blocked, "status = 'pending'", "u")
    assert (row(blocked, "u")["status"], edges(blocked, "u")) == ("blocked", [("gone", True)])


@pytest.mark.parametrize("status", ["pending", "completed"])
def test_need_that_is_mended_is_noted_and_told_anew(blocked, status):
    update(blocked, "status = 'failed'", "plan")
    past_the_judges(blocked, "update agent_tasks set needed = false where task_id = 'plan'")
    blocked.execute("listen turbo_ctl")
    update(blocked, f"status = '{status}'", "plan")
    assert (row(blocked, "plan")["needed"], notes(blocked)) == (True, ["plan"])
    assert "settle" in heard(blocked)
    insert(blocked, "alone")
    update(blocked, "status = 'failed'", "alone")
    update(blocked, f"status = '{status}'", "alone")
    assert (row(blocked, "alone")["needed"], notes(blocked)) == (None, ["plan"]), "nobody ever waited for that one"


def test_cancel_says_how_many_wait(blocked, told):
    blocked.execute("listen turbo_ctl")
    update(blocked, "task_description = 'y'", "plan")
    assert told == []
    update(blocked, "status = 'cancelled'", "plan")
    insert(blocked, "again")
    for n in range(3):
        insert(blocked, f"u{n}", needs=["again"])
        tie(blocked, f"u{n}", "again")
    past_the_judges(
        blocked,
        "update agent_tasks set status = 'running', fencing_token = 7, assigned_worker_id = 'w' where task_id = 'again'",
    )
    update(blocked, "status = 'cancelled'", "again")
    assert [m for m in told if "for task" in m] == [
        "1 task waits for task plan, which becomes cancelled",
        "3 tasks wait for task again, which becomes cancelled",
    ]
    assert "settle" in heard(blocked)


def test_denied_hold_that_others_wait_for_wakes_the_settler(db):
    insert(db, "plan", status="waiting")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    db.execute("listen turbo_ctl")
    answer(db, "no", "plan")
    assert heard(db) == ["settle"]


def test_follow_up_set_to_pending_is_noted_for_its_place(db):
    insert(db)
    insert(db, "u", continues="t")
    db.execute("delete from agent_unsettled")
    update(db, "status = 'pending'", "u")
    assert (row(db, "u")["status"], notes(db)) == ("pending", ["u"])
    insert(db, "v", continues="t")
    place(db, "t", "v")
    update(db, "status = 'cancelled'", "v")
    update(db, "status = 'pending'", "v")
    assert (row(db, "v")["status"], notes(db)) == ("blocked", ["u", "v"])


async def test_plain_retry_of_a_first_task_is_as_before(db, stores):
    insert(db)
    insert(db, "u", continues="t")
    place(db, "t", "u")
    await stores.results.finish([ended(await claim_one(stores), OutcomeKind.FAILED, final=True)])
    update(db, "status = 'pending'")
    assert (row(db)["status"], row(db)["conversation"] is not None) == ("pending", True)


@pytest.mark.parametrize("change", ["needs = null", "status = 'pending'", "status = 'cancelled'"])
def test_old_snapshot_does_not_go_on_without_the_count(db, dsn, change):
    """Its snapshot is from before the tie: it would leave the count behind, and not see why."""
    insert(db, "plan")
    insert(db, needs=["plan"])
    with psycopg.connect(dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from agent_tasks")
        tie(db, "t", "plan")
        with pytest.raises(errors.SerializationFailure):
            update(old, change)
    with psycopg.connect(dsn) as control:
        control.execute("set transaction isolation level repeatable read")
        update(control, change)
        control.commit()
    assert count(db, "t") is None


def test_edit_waits_for_the_settler_and_sees_its_tie(db, dsn):
    insert(db, "plan")
    insert(db, needs=["plan"])
    with psycopg.connect(dsn) as settler:
        settler.execute("select from agent_tasks where task_id = 't' for no key update")
        tie(settler, "t", "plan")
        thread, done = in_another_session(dsn, "update agent_tasks set needs = null where task_id = 't'")
        settler.commit()
        thread.join(10)
    assert (done, count(db, "t"), edges(db, "t"), notes(db)) == ([1], None, [], ["t"])
