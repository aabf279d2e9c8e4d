"""Holds, deadlines, and what else people do to rows that wait: each edit has one meaning, and nothing that was asked is lost."""

import datetime

import psycopg
import pytest
from psycopg import errors

from tests.support.steps import claim_one, ended, registered
from tests.support.waiting_rows import (
    APPROVAL,
    HOST,
    ONE,
    answer,
    insert,
    last_detail,
    record_question,
    row,
    trail,
    waiting,
)
from turbo.domain.outcome import OutcomeKind

FOREVER = datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC)
LATER = datetime.datetime(2999, 1, 1, 12, tzinfo=datetime.UTC)


def update(db, change: str) -> None:
    db.execute(f"update agent_tasks set {change}")


# ── holds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_inserted_hold_runs_once_it_is_released(db, stores):
    insert(db, status="waiting")
    insert(db, "long", status="waiting", task_description="y" * 2001)
    cut = row(db, "long")["question"]["text"]
    assert (cut[:2000], cut[2000:]) == ("y" * 2000, " … (the rest is in task_description)")
    db.execute("delete from agent_tasks where task_id = 'long'")
    held = row(db)
    assert (held["status"], held["run_after"], held["question"]["kind"]) == ("waiting", FOREVER, "hold")
    assert (held["question"]["text"], "run_after" in held["question"]) == ("x", False)
    assert (await stores.claims.claim("default", 1, may_idle=True)).tasks == ()
    for wrong in ("always", "maybe", "yes, but later"):
        with pytest.raises(errors.CheckViolation, match="neither yes nor no") as refused:
            answer(db, wrong)
        assert refused.value.diag.message_hint == "Write yes or no."
    answer(db, "Yes")
    now = row(db)
    assert (now["status"], now["due"], now["question"], now["answer"]) == ("pending", True, None, None)
    assert last_detail(db)["answer"] == "Yes"
    await claim_one(stores)


@pytest.mark.parametrize("release", ["answer = 'yes'", "status = 'pending'", "status = 'scheduled'"])
def test_released_hold_runs_at_its_own_moment(db, release):
    insert(db, status="waiting", run_after=LATER)
    assert (row(db)["status"], row(db)["run_after"]) == ("waiting", FOREVER)
    update(db, release)
    assert (row(db)["status"], row(db)["run_after"], row(db)["question"]) == ("scheduled", LATER, None)


def test_moment_of_a_hold_moves_with_run_after(db):
    insert(db, status="waiting", run_after=LATER)
    moved = LATER + datetime.timedelta(days=1)
    db.execute("update agent_tasks set run_after = %s", [moved])
    assert (row(db)["status"], row(db)["run_after"]) == ("waiting", FOREVER)
    db.execute("update agent_tasks set run_after = %s, answer = 'yes'", [moved + datetime.timedelta(days=1)])
    assert (row(db)["status"], row(db)["run_after"]) == ("scheduled", moved + datetime.timedelta(days=1))
    assert trail(db) == [("edited", None, None), ("edited", None, None), ("answered", "waiting", "scheduled")]


async def test_deadline_before_the_question_is_refused(db, stores):
    """As a save of every column writes it, that was read while the task waited for the answer before."""
    await waiting(db, stores)
    before = row(db)
    with pytest.raises(errors.CheckViolation, match="has asked at") as refused:
        db.execute("update agent_tasks set run_after = (question ->> 'asked_at')::timestamptz - interval '1 second'")
    assert "SET status = 'pending'" in refused.value.diag.message_hint
    assert row(db) == before
    db.execute("update agent_tasks set run_after = (question ->> 'asked_at')::timestamptz + interval '1 second'")
    assert row(db)["run_after"] != before["run_after"]


@pytest.mark.parametrize(
    "release", ["status = 'pending', run_after = '2001-01-01'", "status = 'scheduled', run_after = now()"]
)
def test_hold_released_into_the_past_is_due_now(db, release):
    insert(db, status="waiting", run_after=LATER)
    update(db, release)
    assert (row(db)["status"], row(db)["run_after"] > datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)) == (
        "pending",
        True,
    )


async def test_denied_hold_is_cancelled_with_the_reason(db, stores):
    insert(db, status="waiting")
    answer(db, "no, wait for the release")
    now = row(db)
    assert (now["status"], now["error_message"]) == ("cancelled", "not released: wait for the release")
    assert now["completed_at"] is not None
    assert trail(db) == [("answered", "waiting", "cancelled")]
    update(db, "status = 'pending'")
    now = row(db)
    assert (now["status"], now["question"], now["answer"], now["error_message"]) == ("pending", None, None, None)


@pytest.mark.parametrize("release", ["answer = 'yes'", "status = 'pending'"])
async def test_hold_gives_back_what_the_row_had_asked(db, stores, release):
    """With the nulls in it: the next run compares the call of an approval with its own."""
    await waiting(db, stores, APPROVAL)
    answer(db, "always")
    asked = row(db)
    update(db, "status = 'waiting'")
    held = row(db)
    assert (held["status"], held["question"]["kind"], held["answer"]) == ("waiting", "hold", None)
    assert held["prefer_host"] == HOST
    update(db, release)
    now = row(db)
    assert (now["status"], now["question"], now["answer"]) == ("pending", asked["question"], "always")
    again = await claim_one(stores)
    record_question(db, again, ONE)
    assert row(db)["question"]["number"] == 2


async def test_scheduled_row_is_held_and_keeps_its_moment(db, stores):
    insert(db, run_after=LATER)
    update(db, "status = 'waiting'")
    answer(db, "yes")
    assert (row(db)["status"], row(db)["run_after"]) == ("scheduled", LATER)


async def test_running_or_finished_row_cannot_be_held(db, stores):
    insert(db)
    held = await claim_one(stores)
    with pytest.raises(errors.ObjectInUse, match="it cannot be held"):
        update(db, "status = 'waiting'")
    await stores.results.finish([ended(held)])
    with pytest.raises(errors.CheckViolation, match="it cannot be held"):
        update(db, "status = 'waiting'")


async def test_blocked_cannot_be_written_by_hand(db, stores):
    with pytest.raises(errors.CheckViolation, match="waits for no other"):
        insert(db, status="blocked")
    insert(db)
    with pytest.raises(errors.CheckViolation, match="waits for no other task"):
        update(db, "status = 'blocked'")
    await claim_one(stores)
    with pytest.raises(errors.ObjectInUse):
        update(db, "status = 'blocked'")


# ── a question ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_deadline_moved_by_hand_is_repeated_for_people(db, stores):
    await waiting(db, stores, within=60)
    db.execute("update agent_tasks set run_after = %s", [LATER])
    now = row(db)
    assert (now["status"], now["run_after"]) == ("waiting", LATER)
    assert datetime.datetime.fromisoformat(now["question"]["answer_by"]) == LATER
    answer(db, "16")
    assert (row(db)["status"], row(db)["due"]) == ("pending", True)


@pytest.mark.parametrize("question", [ONE, APPROVAL], ids=lambda question: question["kind"])
async def test_pending_by_hand_goes_on_without_an_answer(db, stores, question):
    """An approval is denied by it: the question says that nobody answered."""
    await waiting(db, stores, question, within=3600)
    asked = row(db)["question"]
    update(db, "status = 'pending'")
    now = row(db)
    assert (now["status"], now["due"], now["answer"]) == ("pending", True, None)
    assert now["question"] == asked | {"expired": True}
    assert (trail(db), last_detail(db)["question"]) == ([("edited", "waiting", "pending")], asked)
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        answer(db, "yes")
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    (answered,) = task.answers
    assert (answered.answer, answered.question.expired, answered.approved) == (None, True, False)


async def test_waiting_row_may_be_run_later(db, stores):
    await waiting(db, stores, within=60)
    db.execute("update agent_tasks set status = 'pending', run_after = %s", [LATER])
    assert (row(db)["status"], row(db)["run_after"], row(db)["question"]["expired"]) == ("scheduled", LATER, True)


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed"])
async def test_waiting_row_is_closed_by_hand_and_kept_no_longer(db, stores, status):
    """Its run_after is no deadline any more: retention counts from it."""
    held = await waiting(db, stores)
    assert row(db)["run_after"] == FOREVER
    db.execute("update agent_tasks set status = %s", [status])
    now = row(db)
    assert (now["status"], now["due"], now["completed_at"] is not None) == (status, True, True)
    assert now["question"]["text"] == "Which?"
    assert record_question(db, held)[0] in ("already", "late")
    assert row(db) == now


async def test_retry_by_hand_forgets_what_was_asked(db, stores):
    await waiting(db, stores, APPROVAL)
    answer(db, "yes")
    again = await claim_one(stores)
    await stores.results.finish([ended(again, OutcomeKind.FAILED, final=True)])
    failed = row(db)
    assert (failed["status"], failed["answer"], failed["prefer_host"]) == ("failed", "yes", HOST)
    update(db, "status = 'pending'")
    now = row(db)
    assert (now["question"], now["answer"], now["prefer_host"]) == (None, None, None)
    record_question(db, await claim_one(stores))
    assert row(db)["question"]["number"] == 1


# ── columns of turbo's own ───────────────────────────────────────────────────────────────────────────────────────────


async def test_question_cannot_be_written_by_hand(db, stores):
    await waiting(db, stores)
    before = row(db)
    for change in (
        "question = null",
        'question = question || \'{"then": "proceed"}\'',
        "question = '{}', answer = '16'",
    ):
        with pytest.raises(errors.CheckViolation, match="question is turbo's own"):
            update(db, change)
    assert row(db) == before


@pytest.mark.parametrize("column", ["question", "answer", "prefer_host"])
def test_insert_may_not_set_a_column_of_questions(db, column):
    for more in ({}, {"status": "waiting"}, {"run_after": LATER}):
        with pytest.raises(errors.CheckViolation, match="question, answer or prefer_host"):
            insert(db, **{column: "{}"}, **more)
    insert(db, question=None, answer=None, prefer_host=None)


def test_json_null_of_a_mapper_counts_as_no_question(db):
    insert(db, question="null")
    update(db, "question = 'null', task_priority = 9")
    assert (row(db)["question"], row(db)["task_priority"], row(db)["status"]) == (None, 9, "pending")


async def test_pin_taken_away_wakes_other_hosts_and_is_told(db, stores):
    await waiting(db, stores)
    answer(db, "16")
    db.execute("update agent_workers set idle = true")
    db.execute("listen turbo_q_default")
    update(db, "prefer_host = null, agent_session_id = null")
    assert [n.channel for n in db.notifies(timeout=5, stop_after=1)] == ["turbo_q_default"]
    assert last_detail(db)["columns"] == ["prefer_host"]
    assert row(db)["status"] == "pending"


async def test_pinned_row_is_claimed_by_its_host_alone(dsn, db, stores):
    await waiting(db, stores)
    answer(db, "16")
    async with registered(dsn, "elsewhere") as others:
        assert (await others.claims.claim("default", 1, may_idle=True)).tasks == ()
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert task.answer == "16"


# ── a save of every column ───────────────────────────────────────────────────────────────────────────────────────────


def save(db, entity: dict, *without: str) -> None:
    """As a mapper does: every column but `without`, its columns of JSON as text."""
    left = {k: v for k, v in entity.items() if k not in ("due", *without)}
    values = [psycopg.types.json.Jsonb(v) if isinstance(v, dict) else v for v in left.values()]
    db.execute(f"update agent_tasks set {', '.join(f'{name} = %s' for name in left)}", values)


@pytest.mark.parametrize("within", [None, 3600])
async def test_full_save_over_a_waiting_row_changes_nothing(db, stores, within):
    await waiting(db, stores, APPROVAL, within=within)
    entity = row(db)
    save(db, entity)
    save(db, entity | {"task_priority": 9}, "turbo_rev")
    assert row(db) == entity | {"task_priority": 9}
    save(db, entity | {"answer": "yes"})
    assert (row(db)["status"], row(db)["answer"]) == ("pending", "yes")


OLD = ("turbo_rev", "fencing_token", "question", "answer", "prefer_host")


@pytest.mark.parametrize(
    ("within", "columns"), [(None, OLD), (3600, OLD), (3600, ("turbo_rev", "fencing_token")), (3600, ())]
)
async def test_stale_save_does_not_hold_an_answered_row(db, stores, within, columns):
    """Read while the task waited, by a mapper that knows all of the columns or only old ones, and saved after the answer."""
    await waiting(db, stores, within=within)
    stale = row(db)
    answer(db, "16")
    now = row(db)
    with pytest.raises((errors.SerializationFailure, errors.ObjectNotInPrerequisiteState)):
        save(db, stale, *columns)
    assert row(db) == now


async def test_retry_by_a_full_save_forgets_the_answer(db, stores):
    """The answer goes with the question, and is no second answer."""
    await waiting(db, stores)
    answer(db, "16")
    await stores.results.finish([ended(await claim_one(stores), OutcomeKind.FAILED, final=True)])
    save(db, row(db) | {"status": "pending"})
    assert (row(db)["status"], row(db)["question"], row(db)["answer"]) == ("pending", None, None)


async def test_hold_by_a_full_save_keeps_the_answer(db, stores):
    await waiting(db, stores)
    answer(db, "16")
    save(db, row(db) | {"status": "waiting"})
    assert (row(db)["question"]["kind"], row(db)["answer"]) == ("hold", None)
    save(db, row(db) | {"status": "pending"})
    assert (row(db)["status"], row(db)["answer"], row(db)["question"]["text"]) == ("pending", "16", "Which?")
