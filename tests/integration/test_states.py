"""Retries, promotion, priorities, late results: every state a task can be in, reached by the real statements."""

import asyncio
import time

import psycopg
import pytest

from tests.support.rig import Rig, finished
from turbo.db.result_store import INFRA_CAP
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import TRANSITIONS, RescueReason, TaskState


@pytest.fixture
async def db(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


async def one(db, sql, *parameters):
    return await (await db.execute(sql, parameters)).fetchone()


async def test_failed_run_is_retried_max_retries_times_then_fails(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 2)")
    async with Rig(dsn) as rig:
        for attempt in (1, 2, 3):
            task, _ = await rig.claimed()
            assert task.attempt == attempt
            answer = await rig.finish(
                task, OutcomeKind.FAILED, error="no", failure_kind="error", retry_delay_seconds=0.01
            )
            if answer.becomes == "scheduled":
                rig.wakeups.due_in(0.01)
        assert await one(db, "select status, retry_count, failure_kind, error_message from agent_tasks") == (
            "failed",
            2,
            "error",
            "no",
        )


@pytest.mark.parametrize("outcome", [OutcomeKind.AUTH_FAILED, OutcomeKind.USAGE_LIMITED, OutcomeKind.UNAVAILABLE])
async def test_account_trouble_uses_no_attempt(dsn, db, outcome):
    await db.execute("insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 0)")
    async with Rig(dsn) as rig:
        task, _ = await rig.claimed()
        assert (await rig.finish(task, outcome)).becomes == "pending"
        again, _ = await rig.claimed()
        assert again.attempt == 1
        assert again.fencing_token > task.fencing_token


async def test_task_that_rests_is_scheduled_uncounted(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 0)")
    async with Rig(dsn) as rig:
        for _ in range(INFRA_CAP + 1):
            task, _ = await rig.claimed()
            more = {"uncounted": True, "retry_delay_seconds": 300.0, "failure_kind": "unavailable", "error": "check 1"}
            assert (await rig.finish(task, OutcomeKind.UNAVAILABLE, **more)).becomes == "scheduled"
            row = await one(db, "select retry_count, infra_count, failure_kind, error_message from agent_tasks")
            assert row == (0, 0, "unavailable", "check 1")
            waits = "select run_after - now() between interval '290 s' and interval '300 s' from agent_tasks"
            assert await one(db, waits) == (True,)
            await db.execute("update agent_tasks set status = 'pending'")


async def test_infrastructure_is_uncounted_until_the_poison_cap(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 0)")
    async with Rig(dsn) as rig:
        for count in range(1, INFRA_CAP + 1):
            task, _ = await rig.claimed()
            assert task.attempt == 1
            answer = await rig.finish(task, OutcomeKind.INFRASTRUCTURE, error="no such program")
            assert answer.becomes == ("failed" if count == INFRA_CAP else "scheduled")
            rig.wakeups.due_in(0.0)
        assert await one(db, "select status, failure_kind, retry_count from agent_tasks") == ("failed", "poison", 0)


async def test_final_failure_is_not_retried(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 3)")
    async with Rig(dsn) as rig:
        task, _ = await rig.claimed()
        assert (await rig.finish(task, OutcomeKind.FAILED, final=True, failure_kind="no_route")).becomes == "failed"


async def test_priority_decides_and_null_comes_last(dsn, db):
    await db.execute(
        "insert into agent_tasks (task_id, task_description, task_priority)"
        " values ('null', 'x', null), ('low', 'x', 1), ('high', 'x', 9), ('minus', 'x', -5)"
    )
    async with Rig(dsn) as rig:
        order = []
        for _ in range(4):
            task, _ = await rig.claimed()
            order.append(task.task_id)
            await rig.finish(task)
        assert order == ["high", "low", "minus", "null"]


async def test_future_task_starts_when_due_without_a_poll(dsn, db):
    async with Rig(dsn) as rig:
        await db.execute(
            "insert into agent_tasks (task_description, run_after) values ('x', clock_timestamp() + interval '300 ms')"
        )
        due = time.monotonic() + 0.3
        _, at = await rig.claimed()
        assert -0.05 < at - due < 10.0, "the poll is 30 s away"


async def test_poll_finds_a_row_that_bypassed_the_triggers(dsn, db):
    """Replica role, logical apply and partition inserts skip triggers: correctness does not rest on them."""
    async with Rig(dsn, poll_seconds=0.2) as rig:
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute("insert into agent_tasks (task_id, task_description) values ('quiet', 'x')")
        task, _ = await rig.claimed()
        assert task.task_id == "quiet"
        assert rig.wakeups.heard == []


async def test_late_success_of_a_rescued_task_counts_until_a_new_claim(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description) values ('a', 'x'), ('b', 'x')")
    async with Rig(dsn, slots_size=2) as rig:
        first, second = (await rig.claimed())[0], (await rig.claimed())[0]
        await rig.claimer.stop()
        await db.execute("update agent_workers set state = 'dead'")
        assert len(await rig.stores.registry.rescue(RescueReason.WORKER_SILENT)) == 2
        assert await one(db, "select count(*) from agent_tasks where status = 'scheduled' and run_after > now()") == (
            2,
        )
        assert (await rig.stores.results.finish([finished(first, rig.worker_id)]))[0].becomes == "completed"
        await db.execute("update agent_workers set state = 'up'")
        await db.execute("update agent_tasks set status = 'pending' where status = 'scheduled'")
        again = (await rig.stores.claims.claim("default", 2, may_idle=True)).tasks
        assert [t.task_id for t in again] == [second.task_id]
        assert (await rig.stores.results.finish([finished(second, rig.worker_id)]))[0].verdict == "late"
        assert await one(db, "select status from agent_tasks where task_id = %s", second.task_id) == ("running",)
        kept = await one(db, "select detail -> 'output' from agent_actions where action_type = 'late'")
        assert kept == ({"output": "done"},), "a result nobody could use is kept in the trail"


async def test_replayed_batch_changes_nothing(dsn, db):
    await db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 5)")
    async with Rig(dsn, slots_size=5) as rig:
        tasks = [(await rig.claimed())[0] for _ in range(5)]
        results = [finished(t, rig.worker_id) for t in tasks]
        assert {a.verdict for a in await rig.stores.results.finish(results)} == {"recorded"}
        before = await one(db, "select array_agg(t order by task_id)::text from agent_tasks t")
        assert {a.verdict for a in await rig.stores.results.finish(list(reversed(results)))} == {"already"}
        assert await one(db, "select array_agg(t order by task_id)::text from agent_tasks t") == before
        assert await one(db, "select count(*) from agent_actions where action_type = 'finished'") == (5,)


async def test_result_of_a_deleted_task_stays_in_the_audit_trail(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    async with Rig(dsn) as rig:
        task, _ = await rig.claimed()
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute("delete from agent_tasks")
        assert (await rig.stores.results.finish([finished(task, rig.worker_id)]))[0].verdict == "gone"
        assert await one(db, "select count(*) from agent_actions where action_type = 'late'") == (1,)


async def test_two_batches_in_opposite_order_do_not_deadlock(dsn, db):
    await db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 200)")
    async with Rig(dsn, name="one", slots_size=200) as one_rig, Rig(dsn, name="two", slots_size=1) as other:
        tasks = [(await one_rig.claimed())[0] for _ in range(200 - len(other.slots.running))]
        results = [finished(t, one_rig.worker_id) for t in tasks]
        for _ in range(10):
            await asyncio.gather(
                one_rig.stores.results.finish(results), other.stores.results.finish(list(reversed(results)))
            )


async def test_paused_queue_is_not_claimed_until_resumed(dsn, db):
    async with Rig(dsn) as rig:
        await db.execute("insert into agent_queues (queue) values ('default')")
        await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        rig.wakeups.wake_all()
        with pytest.raises(TimeoutError):
            await rig.claimed(0.3)
        await db.execute("delete from agent_queues")
        assert (await rig.claimed(2))[0].task_id == "t"


async def test_worker_believed_dead_claims_nothing(dsn, db):
    async with Rig(dsn) as rig:
        await db.execute("update agent_workers set state = 'dead'")
        await db.execute("insert into agent_tasks (task_description) values ('x')")
        assert (await rig.stores.claims.claim("default", 1, may_idle=True)).tasks == ()


async def test_orphans_are_released_and_lost_claims_reasserted(dsn, db):
    await db.execute("insert into agent_tasks (task_id, task_description) values ('mine', 'x'), ('orphan', 'x')")
    async with Rig(dsn, slots_size=2) as rig:
        held = {
            t.task_id: ClaimRef(t.task_id, t.fencing_token)
            for t in ((await rig.claimed())[0], (await rig.claimed())[0])
        }
        await rig.claimer.stop()
        found = await rig.stores.claims.reconcile([held["mine"]])
        assert [h.task_id for h in found.orphans] == ["orphan"]
        assert await one(db, "select status, retry_count from agent_tasks where task_id = 'orphan'") == ("pending", 0)
        # a failover lost the claim, and its trail with it: the row is as it was before
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute(
                "update agent_tasks set status = 'pending', fencing_token = null, assigned_worker_id = null where task_id = 'mine'"
            )
            await db.execute("delete from agent_actions where task_id = 'mine'")
        assert (await rig.stores.claims.reconcile([held["mine"]])).lost == (held["mine"],)
        assert (await rig.stores.claims.reassert({held["mine"]: None})).taken == (held["mine"],)
        assert (await rig.stores.results.finish([finished(held["mine"], rig.worker_id)]))[0].verdict == "recorded"
        assert (await rig.stores.claims.reassert({held["mine"]: None})).taken == (), "a finished task is not taken back"


async def test_every_audited_transition_is_a_known_one(dsn, db):
    """Drives a task through much of its life, then reads the trail against states.py."""
    await db.execute(
        "insert into agent_tasks (task_id, task_description, run_after) values ('t', 'x', clock_timestamp() + interval '50 ms')"
    )
    async with Rig(dsn) as rig:
        for outcome in (OutcomeKind.FAILED, OutcomeKind.AUTH_FAILED, OutcomeKind.INFRASTRUCTURE, OutcomeKind.SUCCEEDED):
            task, _ = await rig.claimed()
            await rig.finish(task, outcome)
            rig.wakeups.due_in(0.0)
        await db.execute("update agent_tasks set status = 'pending'")
        task, _ = await rig.claimed()
        await db.execute("update agent_tasks set status = 'cancelled'")
        await rig.finish(task, OutcomeKind.CANCELLED)
        rows = await (
            await db.execute("select from_status, to_status from agent_actions where from_status <> to_status")
        ).fetchall()
        assert len(rows) >= 10
        for before, after in rows:
            assert (TaskState(before), TaskState(after)) in TRANSITIONS
