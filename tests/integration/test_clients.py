"""Any SQL client inserts, and an idle worker wakes: nothing of turbo is in these programs."""

import asyncio
import subprocess

import asyncpg
import pg8000.native
import psycopg
import pytest
from psycopg import conninfo

from tests.support import database
from tests.support.clients import TOOLS, uri
from tests.support.requirements import missing, require
from tests.support.rig import Rig
from tests.support.settling import settling
from tests.support.waiting import until
from turbo import embedded
from turbo.migrate import migrate

NODE = """
const {Client} = require(process.argv[2]);
(async () => {
  const client = new Client({connectionString: process.argv[3]});
  await client.connect();
  await client.query("INSERT INTO agent_tasks (task_id, task_description, input_data) VALUES ($1, $2, $3)",
                     ['from-client', "it's 100% %s \\\\ $1", {a: [1, null]}]);
  await client.end();
})();
"""


async def psql(dsn: str) -> None:
    program = require(str(embedded.binaries() / "psql"))
    query = "INSERT INTO agent_tasks (task_id, task_description) VALUES ('from-client', 'it''s 100% %s \\ $1')"
    await asyncio.to_thread(subprocess.run, [program, "-q", uri(dsn), "-c", query], check=True)


async def node_postgres(dsn: str) -> None:
    if not (TOOLS / "pg").exists():
        missing("node-postgres is not there: npm install in tests/.tools")
    await asyncio.to_thread(subprocess.run, [require("node"), "-e", NODE, "x", str(TOOLS / "pg"), uri(dsn)], check=True)


async def asyncpg_insert(dsn: str) -> None:
    connection = await asyncpg.connect(uri(dsn))
    await connection.execute(
        "INSERT INTO agent_tasks (task_id, task_description) VALUES ($1, $2)", "from-client", "it's 100% %s \\ $1"
    )
    await connection.close()


async def pg8000_insert(dsn: str) -> None:
    known = conninfo.conninfo_to_dict(dsn)
    connection = pg8000.native.Connection(
        str(known["user"]), host=str(known["host"]), port=int(str(known["port"])), database=str(known["dbname"])
    )
    connection.run(
        "INSERT INTO agent_tasks (task_id, task_description) VALUES (:id, :text)",
        id="from-client",
        text="it's 100% %s \\ $1",
    )
    connection.close()


async def copy(dsn: str) -> None:
    with psycopg.connect(dsn) as db, db.cursor().copy("copy agent_tasks (task_id, task_description) from stdin") as out:
        out.write_row(("from-client", "it's 100% %s \\ $1"))


@pytest.mark.parametrize("insert", [psql, node_postgres, asyncpg_insert, pg8000_insert, copy], ids=lambda f: f.__name__)
async def test_insert_from_any_client_wakes_and_keeps_its_text(dsn, insert):
    async with Rig(dsn) as rig:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db:
            while (await (await db.execute("select idle from agent_workers")).fetchone()) != (True,):
                pass
        await insert(dsn)
        task, _ = await rig.claimed()
        assert task.task_id == "from-client"
        assert task.task_description == "it's 100% %s \\ $1"
        async with asyncio.timeout(5):  # the ladder may have found the row first; the notification arrives all the same
            while rig.wakeups.heard != ["default"]:
                await asyncio.sleep(0.01)


async def test_postgres_fdw_insert_wakes_in_repeatable_read():
    """The wheel has no contrib: Debian's PostgreSQL."""
    require(str(database.DEBIAN / "postgres"))
    with embedded.temporary(trust=True, bin_dir=database.DEBIAN) as server:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as db:
            db.execute("create database elsewhere")
            db.execute("create extension postgres_fdw")  # here only to fail early where it is missing
        elsewhere = psycopg.conninfo.make_conninfo(server.dsn, dbname="elsewhere")
        with psycopg.connect(elsewhere, autocommit=True) as db:
            db.execute("create extension postgres_fdw")
            db.execute(
                "create server home foreign data wrapper postgres_fdw"
                f" options (host '127.0.0.1', port '{server.port}', dbname 'postgres')"
            )
            db.execute("create user mapping for current_user server home options (user 'postgres')")
            db.execute(
                "create foreign table agent_tasks (task_id text, task_description text, needs text[], status text)"
                " server home options (schema_name 'public')"
            )
            async with Rig(server.dsn) as rig:
                db.execute(
                    "insert into agent_tasks (task_id, task_description, status) values ('from-afar', 'x', 'pending')"
                )
                task, _ = await rig.claimed()
                assert task.task_id == "from-afar"
                async with asyncio.timeout(5):
                    while "default" not in rig.wakeups.heard:
                        await asyncio.sleep(0.01)
            with psycopg.connect(elsewhere) as afar, psycopg.connect(server.dsn, autocommit=True) as home:
                afar.execute(
                    "insert into agent_tasks (task_id, task_description, status, needs)"
                    " values ('then', 'x', 'pending', '{from-afar}')"
                )
                then = "select status, needs from agent_tasks where task_id = 'then'"
                assert afar.execute(then).fetchone() == ("blocked", ["from-afar"])
                home.execute(
                    "update agent_tasks set status = 'completed', turbo_rev = turbo_rev + 1 where task_id = 'from-afar'"
                )
                async with settling(server.dsn) as hand:
                    assert (await hand.one_pass()).moved == 0, (
                        "the control: its end found nobody, and its insert is open"
                    )
                    afar.commit()
                    await hand.one_pass()
                assert db.execute(then).fetchone() == ("pending", ["from-afar"])


def test_other_time_zones_mean_the_same_time(bench):
    bench.start().listening()
    bench.sql("insert into agent_tasks (task_id, task_type, task_description, run_after) values ('past', 'noop', 'x', %s)",
              "2026-01-01 00:00:00+14")  # fmt: skip
    bench.wait("past")
    with psycopg.connect(bench.dsn, autocommit=True, options="-c timezone=Pacific/Kiritimati") as db:
        db.execute("insert into agent_tasks (task_id, task_type, task_description, run_after)"
                   " values ('soon', 'noop', 'x', localtimestamp + interval '1 second')")  # fmt: skip
    assert until(lambda: bench.row("soon").get("status") == "completed", 10)
