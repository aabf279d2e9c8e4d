"""Retention leaves what others wait for, and what a task that is not over still needs."""

import pytest

from tests.support.work_rows import insert, past_the_triggers, placed
from turbo.db.lane import Lane
from turbo.db.retention_store import RetentionAges, RetentionStore

DAY = 86_400.0


@pytest.fixture
async def retention(dsn):
    lane = Lane(dsn, "retention")
    yield RetentionStore(lane, RetentionAges(DAY, DAY, DAY, DAY))
    await lane.close()


def over(db, status: str = "completed", **columns: object) -> None:
    sets = ", ".join(f"{name} = %s" for name in columns)
    past_the_triggers(
        db,
        "update agent_tasks set status = %s, completed_at = now() - interval '9 days', run_after = now() - interval '9 days',"
        f" fencing_token = -1{', ' + sets if sets else ''} where status = 'pending'",
        status,
        *columns.values(),
    )


async def delete_all(retention: RetentionStore) -> list[str]:
    due = await retention.due_tasks("1970-01-01", None, 100)
    await retention.delete_tasks(due.task_ids)
    return due.task_ids


def left(db) -> list[str]:
    return [row[0] for row in db.execute("select task_id from agent_tasks order by 1").fetchall()]


async def test_task_that_others_wait_for_stays(db, retention):
    insert(db, "need")
    insert(db, "plain")
    over(db, "failed")
    past_the_triggers(db, "update agent_tasks set needed = true where task_id = 'need'")
    assert await delete_all(retention) == ["plain"]
    await retention.delete_tasks(["need"])
    assert left(db) == ["need"]


async def test_need_of_a_task_that_is_not_over_stays(db, retention):
    insert(db, "need")
    over(db)
    insert(db, "open", needs=["need"])
    past_the_triggers(db, "insert into agent_dependencies (task_id, needs, settled) values ('open', 'need', true)")
    for status in ("pending", "scheduled", "running", "waiting"):
        past_the_triggers(db, "update agent_tasks set status = %s where task_id = 'open'", status)
        await delete_all(retention)
        assert left(db) == ["need", "open"]
    past_the_triggers(
        db,
        "update agent_tasks set status = 'completed', completed_at = now() - interval '9 days',"
        " run_after = now() - interval '9 days', fencing_token = -1 where task_id = 'open'",
    )
    await delete_all(retention)
    assert left(db) == []


async def test_first_task_stays_while_its_conversation_goes_on(db, retention):
    for task_id in ("first", "one", "two"):
        insert(db, task_id)
    over(db)
    insert(db, "three", continues="two")
    placed(db, "first", "one", "two", "three")
    await delete_all(retention)
    assert left(db) == ["first", "three"], "the follow-ups work where its input says"
    over(db)
    await delete_all(retention)
    assert left(db) == []


async def test_task_cancelled_by_a_need_is_deleted_in_time(db, retention):
    insert(db, "need")
    over(db, "failed")
    insert(db, "cancelled", needs=["need"])
    insert(db, "poller's")
    past_the_triggers(
        db,
        "update agent_tasks set status = 'cancelled', completed_at = now() - interval '9 days',"
        " run_after = now() - interval '9 days', fencing_token = null where status <> 'failed'",
    )
    db.execute(
        "insert into agent_actions (task_id, action_type, success, actor, from_status, to_status)"
        " values ('cancelled', 'needs_failed', false, 'w', 'blocked', 'cancelled')"
    )
    await delete_all(retention)
    assert left(db) == ["poller's"], "what turbo never claimed, and did not cancel, may be another's"


async def test_need_stays_thirty_days_longer_at_most(db, retention):
    """Anybody may name it, and wait for ever."""
    insert(db, "need")
    over(db)
    insert(db, "open", needs=["need"])
    past_the_triggers(db, "insert into agent_dependencies (task_id, needs, settled) values ('open', 'need', true)")
    for days, gone in ((30, []), (32, ["need"])):
        aged = f"now() - interval '{days} days'"
        past_the_triggers(
            db, f"update agent_tasks set completed_at = {aged}, run_after = {aged} where task_id = 'need'"
        )
        await delete_all(retention)
        assert [task_id for task_id in ("need", "open") if task_id not in left(db)] == gone
