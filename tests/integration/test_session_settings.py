"""What a session inherits from the environment, the role, the database or a standby: nothing of it decides what turbo does."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.support.logins import login, user
from tests.support.migrations import query
from tests.support.passing_pooler import passing_pooler
from tests.support.pgbouncer import pgbouncer
from tests.support.replication import nodes
from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import AsyncClient, Client, db
from turbo.db.lane import Lane
from turbo.migrate import grant_roles

ODD = {
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1s",
    "lock_timeout": "100ms",
    "idle_session_timeout": "900ms",
    "quote_all_identifiers": "on",
    "timezone": "Pacific/Kiritimati",
}


@pytest.fixture
def odd(dsn: str) -> str:
    """Each setting of the database is an odd one, as ALTER DATABASE or ALTER ROLE leaves them."""
    name = str(conninfo.conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(dsn, autocommit=True) as admin:
        for setting, value in ODD.items():
            change = sql.SQL("alter database {} set {} = {}")
            admin.execute(change.format(sql.Identifier(name), sql.Identifier(setting), value))
    return dsn


def test_worker_runs_under_odd_settings(odd: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGDATESTYLE", "German")
    worker = bench.start(poll_seconds=1).listening()
    arrow = (
        "insert into agent_tasks (task_id, task_description, task_type, input_data)"
        " values (%s, chr(8594), 'echo', jsonb_build_object('to', chr(8594)))"
    )
    status = "select status, output_data::text ~ chr(8594) from agent_tasks where task_id = %s"
    for task_id in ("a", "b"):
        bench.sql(arrow, task_id)
        until(lambda t=task_id: bench.sql(status, t) == [("completed", True)], what=f"it ends\n{bench.logs()}")
        until(lambda: bench.sql("select count(*) from agent_workers where idle") == [(1,)])
        bench.sql("select pg_sleep(0.95)")  # longer than a session of this database may be idle
    assert "idle-session timeout" not in worker.log
    assert "lost its session" not in worker.log
    assert worker.stop() == 0


async def test_worker_session_sets_what_it_depends_on(odd: str) -> None:
    lane = Lane(odd, "settings")
    async with lane.use() as connection:
        found = {
            name: (await (await connection.execute("select current_setting(%s)", [name])).fetchone() or ("",))[0]
            for name in ODD
        }
    await lane.close()
    assert found["datestyle"].startswith("ISO")
    assert {k: v for k, v in found.items() if k not in ("datestyle", "quote_all_identifiers", "timezone")} == {
        "client_encoding": "UTF8",
        "intervalstyle": "postgres",
        "extra_float_digits": "1",
        "array_nulls": "on",
        "standard_conforming_strings": "on",
        "row_security": "on",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_session_timeout": "0",
    }


def test_commands_work_under_odd_settings(odd: str, shell: Shell) -> None:
    environment = {"PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German", "TZ": "Europe/Berlin"}
    assert shell("submit", "an → arrow", "--id", "a", "--after", "2h", **environment).code == 0
    assert shell("submit", "x", "--id", "b", "--after", "July 1 2099 09:00", **environment).code == 0
    assert "an → arrow" in shell("tasks", **environment).out
    assert "2099-07-01 09:00:00" in shell("show", "b", **environment).out
    for command in (("status",), ("migrate", "--check"), ("migrate",), ("top", "--once"), ("cancel", "a")):
        done = shell(*command, **environment)
        assert done.code == 0, (command, done)
    assert shell("tasks", "--status", "cancelled", "--since", "1h", "--json", **environment).json[0]["task_id"] == "a"


@pytest.mark.parametrize("whose", ["its own", "the caller's"])
async def test_clients_read_times_in_any_date_style(odd: str, whose: str) -> None:
    with psycopg.connect(odd, autocommit=True) as other, Client(**_given(odd, whose, other)) as client:
        other.execute("set array_nulls = on")
        client.submit("x", task_id="t", run_after=datetime(2099, 7, 1, 9, tzinfo=UTC), input_data={"a": [1, None]})
        other.execute(
            "insert into agent_tasks (task_id, task_description, completed_at) values ('u', 'x', '-infinity')"
        )
        assert client.get("t").run_after == datetime(2099, 7, 1, 9, tzinfo=UTC)
        assert client.get("t").input_data == {"a": [1, None]}
        assert client.get("u").completed_at is not None
        assert {line.task_id for line in client.tasks()} == {"t", "u"}
        client.cancel("t")
        assert client.wait("t", 5).status == "cancelled"
        assert client.trail("t")[0].executed_at.year >= 2020
    async with AsyncClient(odd) as client:
        assert (await client.wait("t", 5)).run_after == datetime(2099, 7, 1, 9, tzinfo=UTC)


def _given(dsn: str, whose: str, other: psycopg.Connection) -> dict[str, Any]:
    return {"dsn": dsn} if whose == "its own" else {"connection": other}


def test_client_leaves_a_shared_backend_as_it_is(dsn: str) -> None:
    """A pooler in transaction mode lends the backend to others, and they may depend on what the role has set."""
    name = str(conninfo.conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("alter database {} set default_transaction_isolation = serializable").format(sql.Identifier(name))
        )
        admin.execute(sql.SQL("alter database {} set datestyle = 'German'").format(sql.Identifier(name)))
    with pgbouncer(dsn, "transaction", pool_size=1) as pool, psycopg.connect(pool.dsn, autocommit=True) as neighbour:
        with Client(pool.dsn) as client:
            client.submit("x", task_id="t")
            assert client.get("t").run_after.year >= 2020
        shown = neighbour.execute("select current_setting('default_transaction_isolation')").fetchone()
        assert shown == ("serializable",)


LOOKS = (("status",), ("tasks",), ("show", "t"), ("logs", "t"), ("top", "--once"))


def looks(shell: Shell) -> None:
    for command in LOOKS:
        done = shell(*command)
        assert done.code == 0 or "no log" in done.err, (command, done)
        assert "read-only" not in done.err, (command, done)
    shell("cancel", "t").one_line(1, "read-only transaction: this server is a standby")


async def test_pooler_that_passes_on_a_real_key_is_noticed(dsn: str) -> None:
    """Its backends stay as they were, and each statement has its path on whichever backend it runs."""
    show = "select pg_catalog.current_setting('search_path'), pg_catalog.pg_backend_pid()"
    where = conninfo.conninfo_to_dict(dsn)
    (usual,) = query(dsn, "show search_path")[0]
    with passing_pooler(str(where["host"]), int(str(where["port"]))) as pooler:
        pooled = conninfo.make_conninfo(dsn, host="127.0.0.1", port=pooler.port)
        with db.open_client(pooled, "turbo") as client:
            seen = [client.execute(show, prepare=False).fetchone() or () for _ in range(4)]
            left = [psycopg.Cursor(client).execute(show, prepare=False).fetchone() or () for _ in range(4)]
            told = client.info.backend_pid
        worker = await db.connect(pooled, "turbo")
        async with worker:
            theirs = [await (await worker.execute(show)).fetchone() or () for _ in range(4)]
            left += [await (await psycopg.AsyncCursor(worker).execute(show)).fetchone() or () for _ in range(4)]
    assert len({row[1] for row in (*seen, *theirs)}) == 4, "the control: each statement has another backend"
    assert told in {row[1] for row in seen}, "the control: the key is a real one's"
    assert {row[0] for row in (*seen, *theirs)} == {"pg_catalog, pg_temp"}
    assert {row[0] for row in left} == {usual}


def test_role_that_may_only_read_can_look(dsn: str, tmp_path, bench: Bench) -> None:
    grant_roles(dsn)
    bench.start().listening()
    bench.insert("t", task_type="noop")
    bench.wait("t")
    with login(dsn, "turbo_reader", "turbo_admin") as reader:
        with psycopg.connect(dsn, autocommit=True) as admin:
            change = sql.SQL("alter role {} set default_transaction_read_only = on")
            admin.execute(change.format(sql.Identifier(user(reader))))
        looks(Shell(reader, tmp_path))
        with Client(reader) as client:
            assert client.wait("t", 5).status == "completed"
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                client.cancel("t")
            assert client.get("t").finished, "and the client goes on"


async def test_standby_can_be_looked_at_until_it_is_promoted(tmp_path) -> None:
    with nodes() as pair:
        with Client(pair.dsn) as client:
            client.submit("x", task_id="t")
        pair.caught_up()
        await asyncio.to_thread(looks, Shell(pair.standby.dsn, tmp_path))
        with Client(pair.standby.dsn) as client:
            async with AsyncClient(pair.standby.dsn) as other:
                assert client.get("t").status == (await other.get("t")).status == "pending"
                pair.kill()
                pair.promote()
                assert client.cancel("t")[0].status == "cancelled"
                assert (await other.retry("t"))[0].status == "pending"


def test_dsn_that_asks_for_a_primary_is_obeyed(dsn: str) -> None:
    grant_roles(dsn)
    with login(dsn, "turbo_reader") as reader:
        with psycopg.connect(dsn, autocommit=True) as admin:
            change = sql.SQL("alter role {} set default_transaction_read_only = on")
            admin.execute(change.format(sql.Identifier(user(reader))))
        with pytest.raises(psycopg.OperationalError, match="session is read-only"):
            db.open_client(conninfo.make_conninfo(reader, target_session_attrs="read-write"), "x")
