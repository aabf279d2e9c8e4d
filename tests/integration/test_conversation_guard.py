"""One run at a time in a conversation, whatever its tasks are, and whatever a person writes by hand. Stepped, each with a
control without the guard."""

from contextlib import ExitStack
from unittest.mock import patch

import psycopg

from tests.support.rig import finished
from tests.support.work_rows import claim_of, insert, past_the_triggers, placed
from turbo import sql
from turbo.domain.states import RescueReason

GUARD = """and case when t.conversation is null then t.continues is null
else public.turbo_take_conversation(t.conversation::bigint) end"""
ONE_A_BATCH = "or b.conversation = c.conversation)"
INDEX = "drop index agent_tasks_one_running_per_conversation"


def without(*parts: tuple[str, str]) -> ExitStack:
    """The claim without parts of its text; each must be there."""

    def statement(name: str, variant: sql.Variant | None = None) -> str:
        text = str(sql.statement(name, variant))
        if name == "tasks/claim":
            for part, instead in parts:
                part = " ".join(part.split())
                assert part in text, part
                text = text.replace(part, instead)
        return text

    stack = ExitStack()
    stack.enter_context(patch("turbo.db.store.statement", statement))
    return stack


async def claim(stores, limit: int = 9) -> list[str]:
    claimed = await stores.claims.claim("default", limit, may_idle=False)
    return sorted(task.task_id for task in claimed.tasks)


def running(db) -> list[str]:
    rows = db.execute("select task_id from agent_tasks where status = 'running' order by 1").fetchall()
    return [row[0] for row in rows]


async def started(db, stores) -> None:
    """A first task runs, and a follow-up of it is there."""
    insert(db, "first")
    assert await claim(stores) == ["first"]
    insert(db, "next", continues="first")


async def test_follow_up_without_a_place_is_never_claimed(db, stores):
    await started(db, stores)
    for status in ("pending", "scheduled"):
        db.execute("update agent_tasks set status = %s, run_after = now() where task_id = 'next'", [status])
        assert db.execute("select status, conversation from agent_tasks where task_id = 'next'").fetchone() == (
            "pending",
            None,
        )
        assert await claim(stores) == []
    with without((GUARD, "")):
        assert await claim(stores) == ["next"], "the control: it runs beside its conversation"


async def test_pending_by_hand_waits_for_the_run_of_its_conversation(db, stores):
    await started(db, stores)
    placed(db, "first", "next")
    assert await claim(stores) == []
    with without((GUARD, "")):
        assert await claim(stores) == [], "the index refuses what the look missed"
        db.execute(INDEX)
        assert await claim(stores) == ["next"], "the control: nothing else does"


async def test_end_of_a_run_lets_the_next_one_of_its_conversation_run(db, stores):
    insert(db, "first")
    (first,) = (await stores.claims.claim("default", 9, may_idle=False)).tasks
    insert(db, "next", continues="first")
    placed(db, "first", "next")
    await stores.results.finish([finished(first, stores.worker_id)])
    assert await claim(stores) == ["next"]


async def test_batch_takes_one_task_of_a_conversation(db, stores):
    insert(db, "first")
    insert(db, "next", continues="first")
    insert(db, "third", continues="first")
    insert(db, "alone")
    placed(db, "first", "next", "third")
    with without(
        (ONE_A_BATCH, ")"), ("c.concurrency_key is null and c.conversation is null", "c.concurrency_key is null")
    ):
        assert await claim(stores) == [], "the control: the index refuses the whole batch"
    assert len(running(db)) == 0
    assert await claim(stores) == ["alone", "first"]


async def test_keys_of_their_own_do_not_part_a_conversation(db, stores):
    insert(db, "first", concurrency_key="a")
    insert(db, "next", continues="first")
    insert(db, "same key", concurrency_key="b")
    placed(db, "first", "next")
    db.execute("update agent_tasks set concurrency_key = 'b', task_priority = 99 where task_id = 'next'")
    assert await claim(stores) == ["next"], "of one key, and of one conversation, the first in the order of claims"
    assert await claim(stores) == []


async def test_claims_at_once_take_one_task_of_a_conversation(dsn, db, stores):
    insert(db, "first")
    insert(db, "next", continues="first")
    placed(db, "first", "next")
    parameters = {
        "worker": stores.worker_id, "queue": "default", "only_types": None, "skip_types": None, "characters": 9,
        "place": '{"host": "", "labels": {}, "stay": 60}', "n": 1, "may_idle": False,
    }  # fmt: skip
    with psycopg.connect(dsn) as sibling:
        row = sibling.execute(sql.statement("tasks/claim"), parameters).fetchone()
        assert row is not None
        assert row[0] == "first"
        assert await claim(stores) == [], "it passes, and waits for nobody"
        sibling.commit()
    assert running(db) == ["first"]


async def test_retry_of_the_first_task_waits_for_the_follow_up(db, stores):
    insert(db, "first")
    (first,) = (await stores.claims.claim("default", 9, may_idle=False)).tasks
    await stores.results.finish([finished(first, stores.worker_id)])
    insert(db, "next", continues="first")
    placed(db, "first", "next")
    assert await claim(stores) == ["next"]
    db.execute("update agent_tasks set status = 'pending' where task_id = 'first'")
    assert await claim(stores) == []
    with without((GUARD, "")):
        db.execute(INDEX)
        assert await claim(stores) == ["first"], "the control"


async def test_reassertion_leaves_a_conversation_that_runs_alone(db, stores):
    insert(db, "first")
    (first,) = (await stores.claims.claim("default", 9, may_idle=False)).tasks
    insert(db, "next", continues="first")
    placed(db, "first", "next")
    db.execute("update agent_workers set state = 'dead'")
    assert [one.task_id for one in await stores.registry.rescue(RescueReason.WORKER_SILENT)] == ["first"]
    db.execute("update agent_workers set state = 'up'")
    assert await claim(stores) == ["next"]
    held = claim_of(first)
    assert (await stores.claims.reassert({held: None})).taken == ()
    assert running(db) == ["next"]
    past_the_triggers(db, "update agent_tasks set status = 'completed' where task_id = 'next'")
    assert (await stores.claims.reassert({held: None})).taken == (held,)
