"""Ordinary DDL under connected sessions: plans and triggers from before the change do not stop a worker or a client."""

import asyncio

import psycopg
import pytest

from tests.support.steps import ME
from tests.support.stores import Stores
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import AsyncClient, Client, db
from turbo.db.lane import Lane
from turbo.domain.states import WorkerState

CHANGES = [
    "alter table agent_tasks alter column timeout_seconds type bigint",
    "alter table agent_tasks alter column retry_count type bigint",
    "alter table agent_tasks alter column task_type type varchar(100)",
    "alter table agent_tasks alter column queue type varchar(100)",
    "alter table agent_tasks alter column error_message type varchar(5000)",
    "drop trigger turbo_bound_worker on agent_workers; alter table agent_workers alter column queues type varchar(100)[]",
    "alter table agent_tasks add column extra text default 'x'",
    "alter table agent_tasks drop column extra",
    "alter table agent_actions alter column actor type varchar(200)",
    "drop domain turbo_status; create domain turbo_status as text",
    "drop function turbo_stopped_status; create function turbo_stopped_status(requested text, run_after timestamptz)"
    " returns text language sql as $$ select coalesce(requested, 'cancelled') $$",
]


def test_worker_goes_on_after_each_change(bench: Bench) -> None:
    worker = bench.start(poll_seconds=1, slots=1).listening()

    def run(task_id: str) -> None:
        bench.insert(task_id, task_type="noop")
        bench.insert(f"{task_id} later", task_type="noop")
        bench.sql("update agent_tasks set run_after = now() + interval '0.1 s' where task_id = %s", f"{task_id} later")
        ended = "select count(*) from agent_tasks where starts_with(task_id, %s) and status = 'completed'"
        until(lambda: bench.sql(ended, task_id) == [(2,)], what=f"{task_id} runs\n{bench.logs()}")

    run("0")  # now every statement is prepared, and every trigger has its plans
    for number, change in enumerate(CHANGES, start=1):
        bench.sessions.close()  # this test's own sessions know the schema as it was
        for part in change.split("; "):
            bench.sql(part)
        bench.sessions.close()
        run(f"n{number}")
    assert "cached plan" not in worker.log
    assert "does not match that when preparing" not in worker.log
    assert worker.stop() == 0


@pytest.fixture
def change(dsn):
    def execute(statement: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    return execute


TYPES = ("bigint", "smallint", "bigint", "integer")


@pytest.mark.parametrize("whose", ["its own", "the caller's"])
def test_client_goes_on_after_a_change(dsn, change, whose) -> None:
    with psycopg.connect(dsn, autocommit=True) as given:
        with Client(dsn) if whose == "its own" else Client(connection=given) as client:
            client.submit("x", task_id="t")
            for kind in TYPES:
                for _ in range(7):  # psycopg prepares a statement at its fifth execution
                    client.get("t")
                change(f"alter table agent_tasks alter column retry_count type {kind}")
                assert client.get("t").retry_count == 0
            if whose == "its own":
                client.submit("x", task_id="u")
                change("alter table agent_tasks alter column task_type type varchar(100)")
                client.submit("x", task_id="v")
        given.execute("select 1")


async def test_async_clients_go_on_after_a_change(dsn, change) -> None:
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as given,
        AsyncClient(dsn) as own,
        AsyncClient(connection=given) as callers,
    ):
        await own.submit("x", task_id="t")
        waiting = asyncio.ensure_future(own.wait("t", 20))
        for kind in TYPES:
            for _ in range(7):
                await callers.get("t")
            await asyncio.sleep(0.1)
            await asyncio.to_thread(change, f"alter table agent_tasks alter column retry_count type {kind}")
            assert (await callers.get("t")).retry_count == 0
        await callers.cancel("t")
        assert (await waiting).status == "cancelled"


def test_open_transaction_of_a_caller_is_not_given_up(dsn, change) -> None:
    with psycopg.connect(dsn) as given:
        client = Client(connection=given)
        client.submit("x", task_id="t")
        given.commit()
        for _ in range(7):
            client.get("t")
        given.commit()
        change("alter table agent_tasks alter column retry_count type bigint")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan"):
            client.get("t")
        given.rollback()


async def backend(lane: Lane) -> int:
    async with lane.use() as connection:
        return connection.info.backend_pid


@pytest.mark.parametrize("code", ["XX000", "26000", "42P05"])
async def test_lane_of_an_outdated_session_is_renewed(dsn, change, code) -> None:
    """An extension's object that is gone (XX000), a prepared statement that a pooler dropped."""
    lane = Lane(dsn, "claims")
    stores = Stores("w-1-abc", lane, lane)
    await stores.registry.register(ME, WorkerState.UP)
    before = await backend(lane)
    change(f"""
        create function fail_once() returns trigger language plpgsql as $$ begin
          if pg_backend_pid() = {before} then raise 'cache lookup failed for type 4711' using errcode = '{code}'; end if;
          return new;
        end $$;
        create trigger fail_once before update on agent_workers for each row execute function fail_once()""")
    await stores.registry.set_state(WorkerState.PAUSED)
    assert await backend(lane) != before
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select state from agent_workers").fetchone() == ("paused",)
    change(
        "create or replace function fail_once() returns trigger language plpgsql as $$ begin raise using errcode = 'XX000'; end $$"
    )
    with pytest.raises(psycopg.errors.InternalError_):
        await stores.registry.set_state(WorkerState.UP)
    await lane.close()


async def test_stale_plan_is_told_apart_from_other_refusals(dsn) -> None:
    """By the function of the server that refuses: 0A000 and 42804 have many other meanings."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in (
            "create table t (a int) partition by list (a); alter table t add exclude using gist (a with =)",
            "select 1 from agent_tasks for update of nothing",
            "select coalesce(1, '2026-01-01'::date)",
        ):
            with pytest.raises(psycopg.Error) as refused:
                await connection.execute(statement)
            assert not db.is_outdated(refused.value), refused.value.sqlstate


def test_documented_remedy_keeps_other_sessions_inserting(dsn, change) -> None:
    """docs/operations.md: touch the trigger's function in the transaction that changes a column's type."""
    insert = "insert into agent_tasks (task_description) values ('x')"
    with psycopg.connect(dsn, autocommit=True) as application:
        application.execute(insert)
        change("alter table agent_tasks alter column task_type type varchar(100)")
        with pytest.raises(psycopg.errors.DatatypeMismatch, match="does not match that when preparing the plan"):
            application.execute(insert)
        change("alter function public.turbo_judge_insert() cost 100")
        application.execute(insert)
