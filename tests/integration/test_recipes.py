"""docs/sql.md and docs/client.md: every program of theirs, as it stands there, against a real worker."""

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pg8000.native
import psycopg
import pytest
from psycopg import conninfo

from tests.support.clients import TOOLS, uri
from tests.support.markdown import blocks
from tests.support.requirements import missing, require
from tests.support.workers import Bench
from turbo import embedded

DOCS = Path(__file__).parents[2] / "docs"
JDBC = Path("/usr/share/java/postgresql.jar")


@pytest.fixture
def counting(bench: Bench) -> Bench:
    """A worker whose executor `words` is wc -w, as in config/worker.yaml."""
    config = bench.config()
    config["executors"]["words"] = {"kind": "command", "command": ["wc", "-w"]}
    config["routes"] = {"default": "words"}
    bench.start(config).listening()
    return bench


def programs(page: str, language: str) -> list[str]:
    found = [block.text for block in blocks(DOCS / page) if block.language == language]
    assert found, f"{page} has no {language}"
    return found


def statements(text: str) -> list[str]:
    return [one.strip() for one in text.split(";\n") if one.strip()]


def run(command: list[str | Path], **environment: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_sql_statement_of_the_page_works(counting: Bench) -> None:
    before = {"review_1": "completed", "tonight": "scheduled"}
    with psycopg.connect(counting.dsn, autocommit=True) as db:
        for text in programs("sql.md", "sql"):
            for statement in statements(text):
                for task_id, status in before.items():
                    if statement.startswith("SELECT") and f"task_id = '{task_id}'" in statement:
                        counting.wait(task_id, status)
                cursor = db.execute(statement.encode())
                if "order-17" in statement and statement.startswith("SELECT"):
                    assert cursor.rowcount == 1
                elif "review_1" in statement and statement.startswith("SELECT"):
                    assert cursor.fetchone()
                elif statement.startswith("UPDATE"):
                    assert cursor.rowcount == 1
    counting.wait("tonight")
    assert counting.sql("select count(*) from agent_tasks where idempotency_key = 'order-17'") == [(1,)]
    assert counting.sql("select queue from agent_queues") == []


def test_psql_recipe_works(counting: Bench) -> None:
    [text] = programs("sql.md", "psql")
    program = require(str(embedded.binaries() / "psql"))  # 18: \watch min_rows
    file = counting.path / "recipe.sql"
    file.write_text(text)
    out = run([program, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-At", "-f", file, uri(counting.dsn)])
    assert re.search(r'^"\d+\\n"$', out.splitlines()[-1])


def test_node_postgres_recipe_works(counting: Bench) -> None:
    if not (TOOLS / "pg").exists():
        missing("node-postgres is not there: npm install in tests/.tools")
    [text] = programs("sql.md", "javascript")
    file = counting.path / "recipe.js"
    file.write_text(text)
    out = run([require("node"), file], NODE_PATH=str(TOOLS), DATABASE_URL=uri(counting.dsn))
    assert re.fullmatch(r"completed \d+\n+completed\n", out)


def test_jdbc_recipe_works(counting: Bench) -> None:
    if not JDBC.exists():
        missing("the JDBC driver is not there: apt-get install libpostgresql-jdbc-java")
    [text] = programs("sql.md", "java")
    file = counting.path / "Submit.java"
    file.write_text(text)
    known = conninfo.conninfo_to_dict(counting.dsn)
    url = f"jdbc:postgresql://{known['host']}:{known['port']}/{known['dbname']}?user={known['user']}"
    out = run([require("java"), "-cp", JDBC, file], JDBC_URL=url)
    assert re.fullmatch(r"completed \d+\n+1 cancelled\n", out)
    assert counting.row("from_jdbc")["status"] == "cancelled"


SUBMIT = "INSERT INTO agent_tasks (task_id, task_type, task_description) VALUES ({}, {}, {})"
LOOK = "SELECT status FROM agent_tasks WHERE task_id = {}"


async def test_asyncpg_recipe_works(counting: Bench) -> None:
    connection = await asyncpg.connect(uri(counting.dsn))
    await connection.execute(SUBMIT.format("$1", "$2", "$3"), "from_asyncpg", "words", "How many words")
    async with asyncio.timeout(30):
        while await connection.fetchval(LOOK.format("$1"), "from_asyncpg") != "completed":
            await asyncio.sleep(0.05)
    await connection.close()


def test_pg8000_recipe_works(counting: Bench) -> None:
    known = conninfo.conninfo_to_dict(counting.dsn)
    db = pg8000.native.Connection(
        str(known["user"]), host=str(known["host"]), port=int(str(known["port"])), database=str(known["dbname"])
    )
    db.run(SUBMIT.format(":id", ":type", ":text"), id="from_pg8000", type="words", text="How many words")
    end = time.monotonic() + 30
    while db.run(LOOK.format(":id"), id="from_pg8000") != [["completed"]]:
        assert time.monotonic() < end
        time.sleep(0.05)
    db.close()


def test_every_program_of_the_python_page_works(counting: Bench) -> None:
    texts = programs("client.md", "python")
    assert len(texts) >= 7
    file = counting.path / "page.py"
    file.write_text("\n".join(texts))
    out = run([sys.executable, file], TURBO_DSN=uri(counting.dsn))
    assert out.splitlines()[0].isdigit()
    counting.wait("ship_17")
