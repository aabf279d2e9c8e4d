"""An answer against the deadline of its question, stepped in both orders; the poll is the worker's own statement."""

import psycopg
import pytest
from psycopg import errors

from tests.support.waiting import until
from tests.support.waiting_rows import APPROVAL, ONE, answer, in_another_session, row, trail, waiting


def pass_deadline(db) -> None:
    db.execute("update agent_tasks set run_after = now()")


async def test_poll_leaves_a_row_that_is_being_answered(dsn, db, stores):
    await waiting(db, stores, ONE | {"then": "fail"}, within=3600)
    pass_deadline(db)
    with psycopg.connect(dsn) as person:
        answer(person, "16")
        assert (await stores.claims.poll(["default"])).due == 0
        person.commit()
    assert (await stores.claims.poll(["default"])).due == 0
    assert (row(db)["status"], row(db)["answer"]) == ("pending", "16")


async def test_answer_that_is_taken_back_leaves_the_row_to_expire(dsn, db, stores):
    """The control: its deadline had passed."""
    await waiting(db, stores, ONE | {"then": "fail"}, within=3600)
    pass_deadline(db)
    with psycopg.connect(dsn) as person:
        answer(person, "16")
        person.rollback()
    assert (await stores.claims.poll(["default"])).due == 1
    assert (row(db)["status"], row(db)["failure_kind"]) == ("failed", "unanswered")


@pytest.mark.parametrize(("then", "becomes"), [("proceed", "pending"), ("deny", "pending"), ("fail", "failed")])
async def test_answer_that_waits_for_an_expiry_is_told(dsn, db, stores, then, becomes):
    await waiting(db, stores, APPROVAL | {"then": then}, within=3600)
    pass_deadline(db)
    with psycopg.connect(dsn) as poll:
        poll.execute("select from agent_tasks for no key update")  # the poll, between its lock and its commit
        thread, done = in_another_session(dsn, "update agent_tasks set answer = 'yes' where task_id = 't'")
        poll.execute(
            "update agent_tasks set status = %s, question = question || '{\"expired\": true}', turbo_rev = turbo_rev + 1",
            [becomes],
        )
        poll.commit()
    thread.join(10)
    assert isinstance(done[0], errors.ObjectNotInPrerequisiteState), done
    assert f"it is {becomes}" in str(done[0])
    assert (row(db)["status"], row(db)["answer"]) == (becomes, None)
    assert ("answered", "waiting", "pending") not in trail(db)


async def test_answer_after_an_expiry_is_refused(db, stores):
    await waiting(db, stores, APPROVAL, within=3600)
    pass_deadline(db)
    until(lambda: row(db)["due"])
    assert (await stores.claims.poll(["default"])).due == 1
    assert (row(db)["status"], row(db)["question"]["expired"]) == ("pending", True)
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        answer(db, "yes")
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert [(a.answer, a.approved) for a in task.answers] == [(None, False)]
