"""A submitter who may create in public, the default before PostgreSQL 15, cannot make a session of turbo run a function."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.logins import login
from tests.support.pgbouncer import pgbouncer
from tests.support.shell import Shell
from tests.support.traps import SPRUNG, disarm, set_traps, sprung
from tests.support.workers import bench
from turbo import AsyncClient, Client
from turbo.migrate import grant_roles
from turbo.sql import statement, statement_names


@pytest.fixture
def trapped(dsn: str) -> Iterator[str]:
    """The database after a submitter has set his traps."""
    grant_roles(dsn)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("grant create on schema public to public")
    with login(dsn, "turbo_submitter") as submitter:
        set_traps(dsn, submitter, [statement(name) for name in statement_names()])
        yield dsn
        disarm(dsn)


def test_trap_springs_in_a_session_with_the_usual_path(trapped: str) -> None:
    with psycopg.connect(trapped, autocommit=True) as db, pytest.raises(psycopg.errors.RaiseException, match=SPRUNG):
        db.execute("select 'a'::varchar = 'a'::text")
    assert sprung(trapped) == 1


def use(dsn: str, shell: Shell) -> None:
    """A client's calls and the commands of the CLI."""
    with Client(dsn) as client:
        client.submit("x", task_id="late", run_after="tomorrow", queue="q", input_data={"a": [1]}, idempotency_key="k")
        client.submit("x", task_id="done", task_type="noop")
        client.pause_queue("q", "r")
        client.resume_queue("q")
        client.cancel("late")
        client.retry("late")
        client.fleet()
        assert client.resolve("la") == "late"
        assert client.trail("late")

    async def other() -> None:
        async with AsyncClient(dsn) as client:
            assert (await client.get("late")).task_id == "late"
            await client.tasks(queue="q")

    asyncio.run(other())
    for command in (
        ("status",), ("tasks", "--since", "1h"), ("show", "late"), ("top", "--once"), ("migrate", "--check"),
        ("migrate", "--plan"), ("migrate",), ("migrate", "--roles"), ("pause", "--account", "a"), ("resume", "--account", "a"),
        ("submit", "y", "--after", "2h", "--priority", "3"), ("cancel", "late"),
    ):  # fmt: skip
        done = shell(*command)
        assert SPRUNG not in done.out + done.err, (command, done)
        assert done.code == 0 or (command[0] == "migrate" and "pooler" in done.err), (command, done)
    examined = shell("doctor")
    assert SPRUNG not in examined.out + examined.err


def test_traps_are_not_sprung_by_turbo(trapped: str, tmp_path: Path) -> None:
    with bench(trapped, tmp_path) as fleet:
        worker = fleet.start(poll_seconds=1).listening()
        use(trapped, Shell(trapped, tmp_path))
        with Client(trapped) as client:
            for task_id, data in (("ok", {}), ("bad", {"exit": 3})):
                client.submit("x", task_id=task_id, input_data=data, max_retries=0)
            client.submit("x", task_id="stopped", input_data={"seconds": 60})
            assert client.wait("ok", 20).status == "completed"
            assert client.wait("bad", 20).status == "failed"
            for _ in client.progress("stopped", 20):
                client.cancel("stopped")
            assert client.get("stopped").status == "cancelled"
            client.submit("x", task_id="kill", input_data={"seconds": 60})
            next(run for run in client.progress("kill", 20) if run.status == "running")
            worker.kill()
            fleet.start(poll_seconds=1).listening()
            next(run for run in client.progress("kill", 20) if run.status != "running")
        assert SPRUNG not in fleet.logs()
    assert sprung(trapped) == 0


def test_pooler_in_transaction_mode_opens_no_trap(trapped: str, tmp_path: Path) -> None:
    with pgbouncer(trapped, "transaction", pool_size=4) as pool, bench(pool.dsn, tmp_path) as fleet:
        fleet.start(poll_seconds=1).said("notifications do not arrive")
        use(pool.dsn, Shell(pool.dsn, tmp_path))
        with Client(pool.dsn) as client:
            assert client.wait("done", 20).status == "completed"
        with psycopg.connect(trapped) as holder, Client(pool.dsn, lock_seconds=0.3) as client:
            holder.execute("insert into public.agent_tasks (task_id, task_description) values ('held', 'x')")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                client.submit("x", task_id="held")
        assert SPRUNG not in fleet.logs()
        with psycopg.connect(pool.dsn) as neighbour:
            assert neighbour.execute("show search_path").fetchone() == ("public, pg_catalog",), (
                "and its backend is as it was"
            )
    assert sprung(trapped) == 0
