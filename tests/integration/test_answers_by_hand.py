"""A person answers with an UPDATE: each answer is taken once, and each wrong one is refused with the form of a right one."""

import json
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support.logins import login
from tests.support.steps import claim_one, ended
from tests.support.waiting_rows import (
    APPROVAL,
    HOST,
    ONE,
    TWO,
    answer,
    in_another_session,
    insert,
    last_detail,
    record_question,
    row,
    trail,
    waiting,
)
from turbo.domain.outcome import OutcomeKind
from turbo.domain.visible import visible
from turbo.migrate import grant_roles

FOREVER = 9000


async def test_answer_makes_the_row_pending_and_is_told(db, stores):
    insert(db)
    held = await claim_one(stores)
    assert record_question(db, held, APPROVAL, within=3600) == ("recorded", "waiting")
    before = row(db)
    answer(db, "no, because the branch is protected")
    now = row(db)
    assert (now["status"], now["answer"], now["due"]) == ("pending", "no, because the branch is protected", True)
    assert (now["question"], now["prefer_host"]) == (before["question"], HOST)
    assert now["turbo_rev"] == before["turbo_rev"] + 1
    assert trail(db) == [("answered", "waiting", "pending")]
    detail = last_detail(db)
    assert (detail["question"], detail["answer"]) == (before["question"], now["answer"])
    assert detail["question"]["input"] == APPROVAL["input"], "with its nulls: the next run compares it with its call"
    assert db.execute("select actor from agent_actions where action_type = 'answered'").fetchone() == (db.info.user,)


async def test_answer_wakes_the_queue(dsn, db, stores):
    """Where a worker is idle, unless the server's notification queue fills up."""
    await waiting(db, stores)
    db.execute("update agent_workers set idle = true")
    db.execute("listen turbo_q_default")
    answer(db, "16")
    assert [n.channel for n in db.notifies(timeout=5, stop_after=1)] == ["turbo_q_default"]
    db.execute("create or replace function public.turbo_wake(queue text) returns void language plpgsql as 'begin end'")
    held = await claim_one(stores)
    record_question(db, held)
    db.execute("update agent_workers set idle = true")
    answer(db, "17")
    assert list(db.notifies(timeout=0.1)) == [], "the control: it is this trigger that tells"


GIVEN: list[tuple[dict[str, Any], str | None, str]] = [
    (ONE, "", "is empty"),
    (ONE, " \n\t", "is empty"),
    (ONE, "x" * 262_145, "more than 262144"),
    (ONE, "x" * 10_000_000, "more than 262144"),
    (TWO, "PostgreSQL", "no JSON object"),
    (TWO, '{"Which database?": "PostgreSQL"', "no JSON object"),
    (TWO, '["PostgreSQL", "16"]', "no JSON object"),
    (TWO, '{"a":' * 40_000, "no JSON object"),
    (TWO, "[" * 100_000 + "]" * 100_000, "no JSON object"),
    (TWO, '{"Which database?": "\\u0000", "Which version?": "16"}', "no JSON object"),
    (TWO, '{"Which database?": "PostgreSQL"}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": " "}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": null}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": []}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": [""]}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": {"a": 1}}', "leaves out 'Which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": "16", "which version?": "16"}', "does not ask 'which version?'"),
    (TWO, '{"Which database?": "x", "Which version?": "16", "Which database?": "y"}', "answers a question twice"),
    (APPROVAL, "sure", "neither yes nor no"),
    (APPROVAL, "yes please", "neither yes nor no"),
    (APPROVAL, "yes\nno", "neither yes nor no"),
    (APPROVAL, "not now", "neither yes nor no"),
]


async def test_bad_answer_is_refused_with_its_form(db, stores):
    hints = set()
    for question, text, reason in GIVEN:
        db.execute("delete from agent_tasks")
        await waiting(db, stores, question)
        before = row(db)
        with pytest.raises(errors.CheckViolation) as refused:
            answer(db, text)
        assert reason in str(refused.value.diag.message_primary), (text or "")[:40]
        hints.add(str(refused.value.diag.message_hint).split("Write ")[1])
        assert len(str(refused.value)) < 1000
        assert row(db) == before
    assert trail(db) == []
    assert '{"Which database?": "...", "Which version?": "..."}.' in hints
    assert hints > {"the answer as text.", "yes, always, no, or no with a reason."}


async def test_refusal_shows_hostile_text_as_escapes_and_cut(db, stores):
    """psql prints what a server says as it is: task ids, keys, and the agent's questions."""
    steers = "\x1b[2J\x1b]0;x\x07\x9b2J\u202e\u200b\U000e0041"
    name = "t\x1b[2J"
    long = {"question": "y" * 200_000}
    insert(db, name)
    record_question(db, await claim_one(stores), TWO | {"questions": [{"question": f'{steers} "a\\b"'}, long]})
    for given in ("no object", json.dumps({"other" + steers: 1}), json.dumps({long["question"]: "x"})):
        with pytest.raises(errors.CheckViolation) as refused:
            answer(db, given, name)
        said = refused.value.diag
        shown = f"{said.message_primary} {said.message_hint}"
        assert visible(shown) == shown
        assert len(shown) < 700
        assert "t\\u001b[2J" in shown
    assert """leaves out '\\u001b[2J\\u001b]0;x\\u0007\\u009b2J\\u202e\\u200b? \\"a\\\\b\\"'""" in shown
    assert '": "...", "yyy' in shown
    assert 'y…": "..."}.' in shown


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (ONE, "a label that nobody offered"),
        (ONE, "x" * 262_144),
        (ONE, "{"),
        (TWO, '{"Which database?": ["a", "b"], "Which version?": 16}'),
        (APPROVAL, " Always\n"),
        (APPROVAL, "NO: it is protected"),
    ],
)
async def test_good_answer_is_taken_as_written(db, stores, question, text):
    await waiting(db, stores, question)
    answer(db, text)
    assert (row(db)["status"], row(db)["answer"]) == ("pending", text)


async def test_answer_to_a_row_that_does_not_wait_is_refused(db, stores):
    """In every other status, with one clear error; nothing is changed."""
    insert(db)
    states = []

    def refused() -> None:
        before = row(db)
        states.append(before["status"])
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="does not wait for an answer") as error:
            answer(db, "16")
        assert f"it is {before['status']}" in str(error.value)
        assert "WHERE status = 'waiting'" in str(error.value.diag.message_hint)
        with pytest.raises(errors.ObjectNotInPrerequisiteState):
            db.execute(
                "update agent_tasks set answer = '16', run_after = now() + interval '1 hour', status = 'pending'"
            )
        assert row(db) == before

    refused()
    held = await claim_one(stores)
    refused()
    await stores.results.finish([ended(held, OutcomeKind.FAILED, retry_delay_seconds=3600)])
    refused()
    for status in ("cancelled", "completed", "failed"):
        db.execute("update agent_tasks set status = %s", [status])
        refused()
    assert set(states) == {"pending", "running", "scheduled", "cancelled", "completed", "failed"}


async def test_answer_and_other_columns_are_both_told(db, stores):
    await waiting(db, stores, within=3600)
    db.execute("update agent_tasks set answer = '16', task_priority = 9, task_description = 'y'")
    assert trail(db) == [("edited", None, None), ("answered", "waiting", "pending")]
    told = db.execute("select detail -> 'columns' from agent_actions where action_type = 'edited'").fetchone()
    assert told == (["task_description", "task_priority"],)
    assert (row(db)["task_priority"], row(db)["answer"]) == (9, "16")


async def test_answer_with_a_status_is_refused(db, stores):
    await waiting(db, stores)
    before = row(db)
    for status in ("pending", "cancelled", "completed"):
        with pytest.raises(errors.CheckViolation, match="or change its status, not both"):
            db.execute("update agent_tasks set answer = '16', status = %s", [status])
    assert row(db) == before


async def test_submitter_may_not_answer_and_an_approver_may(dsn, db, stores):
    grant_roles(dsn)
    await waiting(db, stores)
    with (
        login(dsn, "turbo_submitter") as submitter,
        psycopg.connect(submitter, autocommit=True) as session,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        answer(session, "16")
    assert row(db)["status"] == "waiting"
    with login(dsn, "turbo_approver") as approver, psycopg.connect(approver, autocommit=True) as session:
        for other in (
            "status = 'cancelled'",
            "run_after = now()",
            "prefer_host = null",
            "answer = '16', status = 'pending'",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(f"update agent_tasks set {other}")
        answer(session, "16")
        insert(db, "held", status="waiting")
        answer(session, "yes", "held")
        name = session.info.user
    assert [row(db, task)["status"] for task in ("t", "held")] == ["pending", "pending"]
    assert db.execute("select distinct actor from agent_actions where action_type = 'answered'").fetchall() == [(name,)]


async def test_second_of_two_answers_at_once_is_told(dsn, db, stores):
    await waiting(db, stores)
    with psycopg.connect(dsn) as first:
        answer(first, "mine")
        thread, done = in_another_session(dsn, "update agent_tasks set answer = 'yours' where task_id = 't'")
        first.commit()
    thread.join(10)
    assert isinstance(done[0], errors.ObjectNotInPrerequisiteState), done
    assert "Somebody answered before" in str(done[0].diag.message_hint)
    assert row(db)["answer"] == "mine"
    assert trail(db) == [("answered", "waiting", "pending")]


async def test_answer_taken_back_leaves_the_next_one(dsn, db, stores):
    """The control: the second waited for the first one's row, not for its text."""
    await waiting(db, stores)
    with psycopg.connect(dsn) as first:
        answer(first, "mine")
        thread, done = in_another_session(dsn, "update agent_tasks set answer = 'yours' where task_id = 't'")
        first.rollback()
    thread.join(10)
    assert done == [1]
    assert row(db)["answer"] == "yours"


async def test_next_question_takes_the_answer_away(db, stores):
    await waiting(db, stores)
    answer(db, "16")
    again = await claim_one(stores)
    assert record_question(db, again, APPROVAL) == ("recorded", "waiting")
    now = row(db)
    assert (now["answer"], now["question"]["number"], now["question"]["kind"]) == (None, 2, "approval")
    answer(db, "yes")
    assert row(db)["status"] == "pending"
