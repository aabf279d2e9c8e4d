"""A status that is not turbo's, written by a trigger of the table's owner or past turbo's triggers: no defect of the worker."""

import psycopg
import pytest

from tests.support.rig import Rig, finished
from tests.support.workers import Bench
from turbo.domain.states import RescueReason, Verdict

PARKING = """
create function park() returns trigger language plpgsql as $$ begin new.status := 'parked'; return new; end $$;
create trigger park before update on agent_tasks for each row
  when (old.status = 'running' and new.status <> 'running') execute function park()
"""


@pytest.fixture
def owner(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True)


async def test_owners_trigger_parks_a_rescued_task(dsn: str, owner: psycopg.Connection) -> None:
    async with Rig(dsn, slots_size=1) as rig:
        owner.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        await rig.claimed()
        owner.execute(PARKING)
        owner.execute("update agent_workers set state = 'dead'")
        rescued = await rig.stores.registry.rescue(RescueReason.WORKER_SILENT)
        assert [(task.task_id, task.status) for task in rescued] == [("t", "parked")]


async def test_result_of_a_row_that_came_past_the_triggers(dsn: str, owner: psycopg.Connection) -> None:
    async with Rig(dsn, slots_size=1) as rig:
        owner.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        task, _ = await rig.claimed()
        owner.execute("set session_replication_role = replica")
        owner.execute("update agent_tasks set cancel_to = 'parked', cancel_requested_at = now()")
        (answer,) = await rig.stores.results.finish([finished(task, rig.worker_id)])
        assert (answer.verdict, answer.becomes) == (Verdict.RECORDED, None)


def test_worker_starts_although_a_trigger_parks_what_it_rescues(bench: Bench, owner: psycopg.Connection) -> None:
    first = bench.start().listening()
    bench.insert("t", {"sleep": 60})
    bench.wait("t", "running")
    owner.execute(PARKING)
    first.kill()
    second = bench.start().listening()
    second.said("rescued from dead worker")
    assert second.stop() == 0
