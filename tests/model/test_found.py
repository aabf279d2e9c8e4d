"""What the model found, each in its smallest case."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.rig import finished
from turbo.db.claim_store import Queue, WorkerRow
from turbo.db.connect import Lane
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.sql import statement

ME = WorkerRow("w", "alpha", 1, "0", 3, ("default",), {}, (), None, 10, 60, 30)


@pytest.fixture
def db(dsn: str) -> "Iterator[psycopg.Connection[dict[str, object]]]":
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def queue(dsn: str) -> AsyncIterator[Queue]:
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    one = Queue("w-1-abcdef", *lanes, host="alpha")
    await one.register(ME, "up")
    yield one
    for lane in lanes:
        await lane.close()


async def claimed(db, queue: Queue, **columns: object) -> ClaimRef:
    names = ["task_id", "task_description", *columns]
    db.execute(
        f"insert into agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        ["t", "x", *columns.values()],
    )
    task = (await queue.claim("default", 1, may_idle=True)).tasks[0]
    return ClaimRef(task.task_id, task.fencing_token)


def trail(db) -> list[tuple[str, str, str]]:
    rows = db.execute("select * from agent_actions order by action_id").fetchall()
    return [(r["action_type"], r["from_status"], r["to_status"]) for r in rows]


async def rescued(db, queue: Queue) -> None:
    db.execute("update agent_workers set state = 'dead'")
    assert await queue.rescue("worker_silent")
    await queue.register(ME, "up")


async def test_reassertion_reports_the_previous_status(db, queue):
    held = await claimed(db, queue)
    await rescued(db, queue)
    assert await queue.reassert([held]) == [held]
    assert trail(db)[-2:] == [("rescued", "running", "scheduled"), ("reasserted", "scheduled", "running")]


async def test_only_copy_of_an_output_survives_an_earlier_hand_edit(db, queue):
    held = await claimed(db, queue)
    await rescued(db, queue)
    db.execute("update agent_tasks set status = 'pending'")
    result = finished(held, queue.worker_id)
    assert [a.verdict for a in await queue.finish([result])] == ["late"]
    kept = db.execute("select detail -> 'output' as output from agent_actions where action_type = 'late'").fetchall()
    assert kept == [{"output": {"output": "done"}}]
    assert db.execute("select status from agent_tasks").fetchone() == {"status": "pending"}
    assert [a.verdict for a in await queue.finish([result])] == ["already"], "told once"


async def test_reschedule_by_hand_uses_no_attempt(db, queue):
    held = await claimed(db, queue, max_retries=0)
    db.execute("update agent_tasks set status = 'scheduled', run_after = now() + interval '1 hour'")
    await queue.finish([finished(held, queue.worker_id, OutcomeKind.FAILED)])
    row = db.execute("select status, retry_count from agent_tasks").fetchone()
    assert row == {"status": "scheduled", "retry_count": 0}


async def test_invented_registration_is_rewritten(db, queue):
    await claimed(db, queue)
    db.execute("delete from agent_workers")  # lost by a failover
    await queue.prune_workers()
    assert db.execute("select queues from agent_workers").fetchone() == {"queues": []}, "the fault bit"
    beat = {"worker": queue.worker_id, "busy": 1, "may_lead": True, "leader_lease": 30}
    assert db.execute(statement("workers/beat"), beat).fetchone()["alive"] is False
    await queue.register(ME, "up")
    assert db.execute(statement("workers/beat"), beat).fetchone()["alive"] is True
    row = db.execute("select host, queues, slots from agent_workers").fetchone()
    assert row == {"host": "alpha", "queues": ["default"], "slots": 3}


async def test_result_lost_by_a_failover_is_recorded_after_reconciling(db, queue):
    held = await claimed(db, queue)
    result = finished(
        held, queue.worker_id
    )  # recorded and forgotten by its worker; the new primary has not heard of it
    assert (await queue.reconcile([])).orphans == (held,)
    assert [(a.verdict, a.becomes) for a in await queue.finish([result])] == [("recorded", "completed")]
    row = db.execute("select status, output_data from agent_tasks").fetchone()
    assert row == {"status": "completed", "output_data": {"output": "done"}}
    assert [a.verdict for a in await queue.finish([result])] == ["already"]
