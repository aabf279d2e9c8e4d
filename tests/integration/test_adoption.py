"""Moving in: five differently odd old tables are adopted while they are in use, and the whole life of a task runs on each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import prefork
from tests.support.adoption import LOCK_TIMEOUT, PATIENCE, contents, each, make, old_columns, places
from tests.support.migrations import Background, everything, open_transaction, query
from tests.support.odd_tables import PARTITIONED, POLLER, PREDECESSOR, OddTable, OldPoller
from tests.support.prefork import TURBO
from tests.support.rig import Rig, finished
from tests.support.waiting import until
from tests.support.workers import Bench, bench
from turbo.client.client import Client
from turbo.db.lane import Lane
from turbo.db.retention_store import RetentionAges, RetentionStore
from turbo.domain.claim import ClaimRef
from turbo.domain.states import WorkerState
from turbo.host.spool import Spool
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.row_retention import RowRetention
from turbo.migrate import SCHEMA_VERSION, Patience, migrate
from turbo.observability.metrics import Metrics


@each
def test_table_is_adopted_beside_an_open_reader_and_a_poller(empty_dsn: str, table: OddTable, tmp_path: Path) -> None:
    dsn = empty_dsn
    make(dsn, table)
    columns = old_columns(dsn)
    before, where = contents(dsn, columns), places(dsn)
    waiting = {str(t) for (t,) in query(dsn, "select task_id::text from agent_tasks where status = 'pending'")}
    assert len(before) == table.rows
    with OldPoller(dsn, table, patience=LOCK_TIMEOUT + 3) as poller:
        with open_transaction(dsn, "select count(*) from agent_tasks") as reader:
            run = Background(dsn, PATIENCE).start()
            run.heard("adoption: waiting for a lock", f"pid {reader.info.backend_pid}")  # the fault bites
            poller.does(3)
        assert run.result().version == SCHEMA_VERSION

        # no row lost, none changed but by the poller; nothing written anew
        poller.does(2)
        after = contents(dsn, columns)
        assert before.keys() - after.keys() == set()
        done = set(poller.ran)
        changed = {task for task in before if after[task] != before[task]} - done
        in_hand = {
            str(t)
            for (t,) in query(dsn, f"select task_id::text from agent_tasks where assigned_worker_id = '{POLLER}'")
        }
        assert changed <= in_hand
        assert [place for place in places(dsn) if place in where] == where

        # a real worker beside the poller: each runs what it claims
        with bench(dsn, tmp_path) as one:
            one.start().listening()
            until(lambda: sum(one.runs().values()) >= 5, what=lambda: f"turbo runs old rows\n{one.logs()}")
            poller.does(3)
            poller.stop()
            everyone = waiting | set(poller.inserted)
            until(
                lambda: query(dsn, "select count(*) from agent_tasks where status = 'pending' or fencing_token > 0"
                                   f" or status::text = '{table.claimed}' and assigned_worker_id = '{POLLER}'") == [(0,)],
                what=f"every waiting row ends\n{one.logs()}",
                seconds=60,
            )  # fmt: skip
            until(lambda: set(one.runs()) | set(poller.ran) >= everyone, what="the ledgers know every row", seconds=60)
            assert poller.errors == [], (
                "no statement of the poller's waited longer than lock_timeout, and none was refused"
            )
            assert set(one.runs()) & set(poller.ran) == set(), "no row was run by both"
            assert set(one.runs().values()) == {1}
            assert set(poller.ran.values()) == {1}
            owners = query(
                dsn, "select task_id::text, fencing_token is null from agent_tasks where status = 'completed'"
            )
            assert {str(t) for t, theirs in owners if not theirs} == set(one.runs())
            assert set(poller.ran) <= {str(t) for t, theirs in owners if theirs}

    known = (
        everything(dsn),
        query(dsn, "select * from turbo_meta order by 1"),
        query(dsn, "select * from turbo_migrations"),
    )
    assert migrate(dsn).applied == ()
    assert (
        everything(dsn),
        query(dsn, "select * from turbo_meta order by 1"),
        query(dsn, "select * from turbo_migrations"),
    ) == known


def test_without_giving_way_a_migration_blocks_the_poller(empty_dsn: str) -> None:
    """The same scene without the guard: one wait of a minute instead of many short ones."""
    make(empty_dsn, PREDECESSOR, rows=200)
    with OldPoller(empty_dsn, PREDECESSOR, patience=1) as poller:
        with open_transaction(empty_dsn, "select count(*) from agent_tasks") as reader:
            run = Background(empty_dsn, Patience(lock_timeout=60)).start()
            run.heard("adoption: waiting for a lock", f"pid {reader.info.backend_pid}")
            until(lambda: poller.errors, what="the poller waits behind the migration for longer than it will")
        run.result()
    assert "lock timeout" in poller.errors[0]


# ── the whole life of a task on each ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def moved_in(empty_dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    table: OddTable = request.getfixturevalue("table")
    make(empty_dsn, table, rows=200)
    migrate(empty_dsn)
    query(empty_dsn, "delete from agent_tasks where status = 'pending'")
    with bench(empty_dsn, tmp_path) as one:
        yield one


def turbo(one: Bench, *arguments: str, code: int = 0) -> Any:
    done = prefork.run_text([TURBO, *arguments, "--dsn", one.dsn])
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def insert(one: Bench, table: OddTable, data: dict[str, Any] | None = None, **values: object) -> str:
    """As any client does, with the least columns; returns the id that the table made."""
    values = {"task_description": "x", "input_data": json.dumps(data or {})} | values
    if table.adds:
        values[table.adds] = 1
    names = ", ".join(values)
    row = one.sql(
        f"insert into agent_tasks ({names}) values ({', '.join(['%s'] * len(values))}) returning task_id::text",
        *values.values(),
    )
    return str(row[0][0])


def status(one: Bench, task: str) -> str:
    return str(one.sql("select status::text from agent_tasks where task_id::text = %s", task)[0][0])


def wait(one: Bench, task: str, wanted: str) -> None:
    until(lambda: status(one, task) == wanted, 30, f"{task} {wanted}, not {status(one, task)}\n{one.logs()}")


def trail(one: Bench, task: str) -> list[str]:
    with Client(one.dsn) as client:
        return [action.action_type for action in client.trail(task)]


@each
def test_adopted_table_supports_the_whole_life_of_a_task(table: OddTable, moved_in: Bench) -> None:
    one = moved_in
    one.start(slots=4).listening()

    submitted = turbo(one, "submit", "from the command line", "--wait", "--json")
    assert submitted["status"] == "completed", submitted
    task = str(submitted["task_id"])
    assert [action["action_type"] for action in turbo(one, "show", task, "--json")["trail"]] == ["claimed", "finished"]
    assert any(
        str(line["task_id"]) == task
        for line in turbo(one, "tasks", "--status", "completed", "--limit", "500", "--json")
    )

    failing = insert(one, table, {"exit": 1}, max_retries=1)
    wait(one, failing, "failed")
    assert one.runs()[failing] == 2
    assert trail(one, failing) == ["claimed", "finished", "promoted", "claimed", "finished"]
    one.sql("update agent_tasks set status = 'pending' where task_id::text = %s", failing)  # a retry by hand
    until(lambda: one.runs()[failing] == 4, what="it runs again, from its first try")
    wait(one, failing, "failed")
    turbo(one, "retry", failing)
    until(lambda: one.runs()[failing] == 6, what="it runs again")

    running = insert(one, table, {"seconds": 60}, concurrency_key="one at a time")
    follower = insert(one, table, {}, concurrency_key="one at a time")
    wait(one, running, "running")
    with pytest.raises(psycopg.errors.ObjectInUse):
        one.sql("delete from agent_tasks where task_id::text = %s", running)
    with pytest.raises(psycopg.errors.ObjectInUse, match="is running on"):
        one.sql("update agent_tasks set assigned_worker_id = 'me' where task_id::text = %s", running)
    assert status(one, follower) == "pending"
    one.sql("update agent_tasks set status = 'cancelled' where task_id::text = %s", running)
    wait(one, running, "cancelled")
    wait(one, follower, "completed")

    later = insert(one, table, {}, run_after="tomorrow")
    assert status(one, later) == "scheduled"
    turbo(one, "cancel", later)
    assert status(one, later) == "cancelled"
    assert trail(one, later) == ["edited"]

    keyed = insert(one, table, {}, idempotency_key="only once")
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(one, table, {}, idempotency_key="only once")
    wait(one, keyed, "completed")
    one.sql("delete from agent_actions where task_id::text = %s", keyed)
    one.sql("delete from agent_tasks where task_id::text = %s", keyed)
    assert one.workers[0].stop() == 0
    assert "Traceback" not in one.logs()
    assert "ERROR" not in one.logs()


# ── beside an old poller ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_old_poller_may_claim_a_task_that_turbo_gave_back(empty_dsn: str) -> None:
    make(empty_dsn, PREDECESSOR, rows=50)
    migrate(empty_dsn)
    async with Rig(empty_dsn, slots_size=1, poll_seconds=1) as rig:
        task, _ = await rig.claimed()
        await rig.stores.registry.set_state(WorkerState.DRAINING)
        await rig.stores.results.release([(ClaimRef(task.task_id, task.fencing_token), None)], "drain")
        where = f"where task_id = '{task.task_id}'"
        query(empty_dsn, f"update agent_tasks set status = 'assigned', assigned_worker_id = 'old-1' {where}")
        for status in ("in_progress", "completed"):
            query(empty_dsn, f"update agent_tasks set status = '{status}' {where}")
        assert query(empty_dsn, f"select status, fencing_token from agent_tasks {where}") == [("completed", None)]
        assert (await rig.stores.results.finish([finished(task, rig.worker_id)]))[0].verdict != "recorded"
        assert query(empty_dsn, f"select output_data from agent_tasks {where}") == [(None,)]


async def test_old_poller_cannot_take_a_running_task(empty_dsn: str) -> None:
    """It read 'pending', turbo claimed, and it writes without looking again: it gets an error, the task keeps its worker."""
    make(empty_dsn, PREDECESSOR, rows=50)
    migrate(empty_dsn)
    async with Rig(empty_dsn, slots_size=1) as rig:
        task, _ = await rig.claimed()
        for status in ("running", "assigned"):
            with pytest.raises((psycopg.errors.ObjectInUse, psycopg.errors.CheckViolation)):
                query(
                    empty_dsn,
                    f"update agent_tasks set status = '{status}', assigned_worker_id = 'old-1' where task_id = '{task.task_id}'",
                )
        assert (await rig.stores.claims.reconcile([ClaimRef(task.task_id, task.fencing_token)])).lost == ()
        assert (await rig.finish(task)).verdict == "recorded"


async def test_result_of_a_deleted_task_does_not_block_others(empty_dsn: str, tmp_path: Path) -> None:
    """The old agent_actions has a foreign key to agent_tasks: of a task that was deleted no trail can be written."""
    make(empty_dsn, PREDECESSOR, rows=50)
    migrate(empty_dsn)
    async with Rig(empty_dsn, slots_size=2) as rig:
        one, _ = await rig.claimed()
        other, _ = await rig.claimed()
        with psycopg.connect(empty_dsn, autocommit=True) as past_the_triggers:
            past_the_triggers.execute("set session_replication_role = replica")
            past_the_triggers.execute("delete from agent_actions where task_id = %s", (one.task_id,))
            past_the_triggers.execute("delete from agent_tasks where task_id = %s", (one.task_id,))
        answers: dict[str, str] = {}
        completer = rig.completer(Spool(tmp_path / "spool"))
        with completer.recorded.watch() as recorded:
            for task in (one, other):
                await completer.submit(finished(task, rig.worker_id), durable=False)
            completer.start(lambda name, error: None)
            assert await completer.flushed(20)
            for _ in (one, other):
                result, answer = recorded.get_nowait()
                answers[result.task_id] = answer.verdict
        await completer.stop()
        assert answers == {one.task_id: "gone", other.task_id: "recorded"}


async def test_retention_skips_a_partitioned_audit_trail(empty_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its rows are not told apart by their place alone: those of another partition would go with them."""
    make(empty_dsn, PARTITIONED, rows=200)
    migrate(empty_dsn)
    query(
        empty_dsn,
        "insert into agent_actions (task_id, action_type, actor, executed_at) values (1, 'finished', 'w', '2025-01-01')",
    )
    lane, leads = Lane(empty_dsn, "retention"), Leadership()
    leads.update(True)
    one = RowRetention(RetentionStore(lane, RetentionAges(actions=86_400.0)), leads, Metrics(), pause=0)
    await one.once()
    assert query(empty_dsn, "select count(*) from agent_actions") == [(201,)]
    assert "drop its old partitions" in caplog.text
