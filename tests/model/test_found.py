"""What the model found, each in its smallest case."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.rig import finished
from tests.support.stores import Stores
from turbo.db.lane import Lane
from turbo.db.worker_registry import WorkerRow
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason, WorkerState
from turbo.sql import statement

ME = WorkerRow("w", "alpha", 1, "0", 3, ("default",), {}, (), None, 10, 60, 30)


@pytest.fixture
def db(dsn: str) -> "Iterator[psycopg.Connection[dict[str, object]]]":
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def stores(dsn: str) -> AsyncIterator[Stores]:
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    one = Stores("w-1-abcdef", *lanes, host="alpha")
    await one.registry.register(ME, WorkerState.UP)
    yield one
    for lane in lanes:
        await lane.close()


async def claimed(db, stores: Stores, **columns: object) -> ClaimRef:
    names = ["task_id", "task_description", *columns]
    db.execute(
        f"insert into agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        ["t", "x", *columns.values()],
    )
    task = (await stores.claims.claim("default", 1, may_idle=True)).tasks[0]
    return ClaimRef(task.task_id, task.fencing_token)


def trail(db) -> list[tuple[str, str, str]]:
    rows = db.execute("select * from agent_actions order by action_id").fetchall()
    return [(r["action_type"], r["from_status"], r["to_status"]) for r in rows]


async def rescued(db, stores: Stores) -> None:
    db.execute("update agent_workers set state = 'dead'")
    assert await stores.registry.rescue(RescueReason.WORKER_SILENT)
    await stores.registry.register(ME, WorkerState.UP)


async def test_reassertion_reports_the_previous_status(db, stores):
    held = await claimed(db, stores)
    await rescued(db, stores)
    assert (await stores.claims.reassert({held: None})).taken == (held,)
    assert trail(db)[-2:] == [("rescued", "running", "scheduled"), ("reasserted", "scheduled", "running")]


async def test_only_copy_of_an_output_survives_an_earlier_hand_edit(db, stores):
    held = await claimed(db, stores)
    await rescued(db, stores)
    db.execute("update agent_tasks set status = 'pending'")
    result = finished(held, stores.worker_id)
    assert [a.verdict for a in await stores.results.finish([result])] == ["late"]
    kept = db.execute("select detail -> 'output' as output from agent_actions where action_type = 'late'").fetchall()
    assert kept == [{"output": {"output": "done"}}]
    assert db.execute("select status from agent_tasks").fetchone() == {"status": "pending"}
    assert [a.verdict for a in await stores.results.finish([result])] == ["already"], "told once"


async def test_reschedule_by_hand_uses_no_attempt(db, stores):
    held = await claimed(db, stores, max_retries=0)
    db.execute("update agent_tasks set status = 'scheduled', run_after = now() + interval '1 hour'")
    await stores.results.finish([finished(held, stores.worker_id, OutcomeKind.FAILED)])
    row = db.execute("select status, retry_count from agent_tasks").fetchone()
    assert row == {"status": "scheduled", "retry_count": 0}


async def test_invented_registration_is_rewritten(db, stores):
    await claimed(db, stores)
    db.execute("delete from agent_workers")  # lost by a failover
    await stores.registry.prune()
    assert db.execute("select queues from agent_workers").fetchone() == {"queues": []}, "the fault bit"
    beat = {"worker": stores.worker_id, "busy": 1, "problems": "[]", "may_lead": True, "leader_lease": 30}
    beat |= {"asking": [], "asking_schema": 12}
    assert db.execute(statement("workers/beat"), beat).fetchone()["alive"] is False
    await stores.registry.register(ME, WorkerState.UP)
    assert db.execute(statement("workers/beat"), beat).fetchone()["alive"] is True
    row = db.execute("select host, queues, slots from agent_workers").fetchone()
    assert row == {"host": "alpha", "queues": ["default"], "slots": 3}


async def test_result_lost_by_a_failover_is_recorded_after_reconciling(db, stores):
    held = await claimed(db, stores)
    result = finished(
        held, stores.worker_id
    )  # recorded and forgotten by its worker; the new primary has not heard of it
    assert (await stores.claims.reconcile([])).orphans == (held,)
    assert [(a.verdict, a.becomes) for a in await stores.results.finish([result])] == [("recorded", "completed")]
    row = db.execute("select status, output_data from agent_tasks").fetchone()
    assert row == {"status": "completed", "output_data": {"output": "done"}}
    assert [a.verdict for a in await stores.results.finish([result])] == ["already"]
