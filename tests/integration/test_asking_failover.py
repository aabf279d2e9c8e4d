"""A failover to an asynchronous standby under a task that asks: it loses the question, the answer, or the claim after it. Whoever
still knows of them puts them back; each guard has a control."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.model.mutations import Mutation
from tests.support.asking import asks
from tests.support.standby import Standby
from tests.support.steps import claim_one, ended, registered
from tests.support.stores import Stores
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import Answered

from .test_asking import Connection, answer, asked, row_of, trail_of, without

FORGETS = Mutation(
    "a failover may have lost the answer together with the claim",
    "tasks/reassert",
    (("t.status in ('pending', 'scheduled', 'waiting', 'blocked')", "t.status in ('pending', 'scheduled')"),),
)
NO_SUCCESS = Mutation(
    "a success after a lost answer counts",
    "tasks/finish",
    (("c.was in ('pending', 'scheduled', 'waiting', 'blocked') and", "c.was in ('pending', 'scheduled') and"),),
)
NO_SECOND = Mutation(
    "a question after a lost answer counts",
    "tasks/ask",
    (("or c.was in ('pending', 'scheduled', 'waiting', 'blocked')", "or c.was in ('pending', 'scheduled')"),),
)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def stores(dsn: str) -> AsyncIterator[Stores]:
    async with registered(dsn) as found:
        yield found


async def goes_on_without_its_answer(dsn: str, db: Connection, stores: Stores) -> tuple[ClaimRef, Answered]:
    """The answer and the claim after it are lost, while the run goes on: its row waits as if nobody had answered."""
    standby = Standby(dsn)
    await asked(db, stores)
    standby.caught_up()
    await answer(db)
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    standby.takes_over()
    assert ((await row_of(db))["status"], (await row_of(db))["answer"]) == ("waiting", None), "the fault bit"
    assert task.last_answered is not None
    return ClaimRef("t", task.fencing_token), task.last_answered


@pytest.mark.parametrize("guard", [None, FORGETS])
async def test_worker_takes_back_a_run_with_its_answer(dsn, db, stores, guard):
    held, given = await goes_on_without_its_answer(dsn, db, stores)
    assert (await stores.claims.reconcile([held])).lost == (held,)
    with without(guard):
        taken = (await stores.claims.reassert({held: given})).taken
    assert taken == (() if guard else (held,))
    if guard is None:
        row = await row_of(db)
        assert (row["status"], row["answer"]) == ("running", "PostgreSQL")
        assert row["run_after"].year < 9000
        # a later run is told of it, though nobody has answered in this line of history
        await stores.results.finish([asks(held, "Which version?")])
        await answer(db, "18")
        (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
        assert [(a.question.number, a.answer) for a in task.answers] == [(1, "PostgreSQL"), (2, "18")]
        assert await trail_of(db) == ["claimed", "asked", "reasserted", "asked", "answered", "claimed"]


@pytest.mark.parametrize(("guard", "verdict"), [(None, "recorded"), (NO_SUCCESS, "late")])
async def test_success_after_a_lost_answer_is_recorded(dsn, db, stores, guard, verdict):
    held, _ = await goes_on_without_its_answer(dsn, db, stores)
    assert [a.verdict for a in await stores.results.finish([ended(held, OutcomeKind.FAILED)])] == ["late"]
    assert (await row_of(db))["status"] == "waiting", "a failure is told to nobody: the person is asked again"
    await db.execute("delete from agent_actions where action_type = 'late'")
    with without(guard):
        (found,) = await stores.results.finish([ended(held)])
    assert found.verdict == verdict
    if guard is None:
        row = await row_of(db)
        assert (row["status"], row["fencing_token"]) == ("completed", -held.token)
        assert row["run_after"].year < 9000, "retention counts from it"
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            await answer(db)


@pytest.mark.parametrize(("guard", "verdict"), [(None, "recorded"), (NO_SECOND, "late")])
async def test_second_question_after_a_lost_answer_is_asked(dsn, db, stores, guard, verdict):
    held, _ = await goes_on_without_its_answer(dsn, db, stores)
    with without(guard):
        (found,) = await stores.results.finish([asks(held, "Which version?")])
    assert found.verdict == verdict
    if guard is None:
        row = await row_of(db)
        assert (row["question"]["text"], row["question"]["number"]) == ("Which version?", 2)


async def test_lost_question_is_asked_again_by_its_replay(dsn, db, stores):
    standby = Standby(dsn)
    await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    held = await claim_one(stores)
    standby.caught_up()
    await stores.results.finish([asks(held)])
    await answer(db)
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    second = ClaimRef("t", task.fencing_token)
    standby.takes_over()
    assert ((await row_of(db))["status"], (await row_of(db))["question"]) == ("running", None), "the fault bit"
    assert [a.verdict for a in await stores.results.finish([asks(held)])] == ["recorded"]
    assert (await stores.claims.reconcile([second])).lost == (second,)
    assert (await stores.claims.reassert({second: task.last_answered})).taken == (second,)
    assert (await row_of(db))["answer"] == "PostgreSQL"
    assert (await stores.results.finish([ended(second)]))[0].becomes == "completed"


async def test_question_of_a_deleted_row_reaches_no_other_of_its_id(dsn, db, stores):
    held = await asked(db, stores)
    await db.execute("delete from agent_tasks")
    await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'another')")
    assert [a.verdict for a in await stores.results.finish([asks(held)])] == ["already"]
    row = await row_of(db)
    assert (row["status"], row["question"]) == ("pending", None)


async def test_released_hold_that_was_lost_stays_released(dsn, db, stores):
    standby = Standby(dsn)
    await db.execute("insert into agent_tasks (task_id, task_description, status) values ('t', 'x', 'waiting')")
    standby.caught_up()
    await answer(db, "yes")
    held = await claim_one(stores)
    standby.takes_over()
    assert (await row_of(db))["question"]["kind"] == "hold", "the fault bit"
    assert (await stores.claims.reassert({held: None})).taken == (held,)
    row = await row_of(db)
    assert (row["status"], row["question"], row["answer"]) == ("running", None, None)
