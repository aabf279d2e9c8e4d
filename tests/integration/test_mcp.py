"""`turbo mcp`: its tools, what it refuses, and how it ends."""

import asyncio
import json
import sys

import psycopg
import pytest

from tests.support.logins import login
from tests.support.mcp_clients import inside, started
from tests.support.open_questions import PUSH, ask, question
from tests.support.prefork import TURBO
from tests.support.waiting import until_async
from turbo.client.async_client import AsyncClient
from turbo.mcp import tools
from turbo.mcp.tools import Rights
from turbo.migrate import grant_roles


def finish(db: psycopg.Connection, task_id: str, output: object = "done", status: str = "completed") -> None:
    """By hand, as any SQL client may."""
    db.execute(
        "update agent_tasks set status = %s, output_data = %s where task_id = %s",
        [status, json.dumps({"output": output}), task_id],
    )


@pytest.mark.parametrize(
    ("options", "tools"),
    [
        ([], {"status", "wait", "result", "diff", "questions", "submit", "reply", "tell", "cancel"}),
        (["--read-only"], {"status", "wait", "result", "diff", "questions"}),
        (
            ["--allow-answer"],
            {"status", "wait", "result", "diff", "questions", "submit", "reply", "tell", "cancel", "answer"},
        ),
    ],
)
async def test_command_offers_what_its_options_allow(dsn, options, tools):
    async with started(dsn, *options) as call:
        offered = (await call.client.list_tools()).tools
        assert {one.name for one in offered} == tools
        assert all(one.description for one in offered)
        assert "turbo" in (call.client.instructions or "")


async def test_agent_hands_over_work_and_collects_it(db, dsn):
    async with started(dsn) as call:
        made = await call(
            "submit", text="Review it", type="review", queue="q", priority=8, input={"a": [1]}, timeout=60
        )
        task = made["task_id"]
        assert made["created"]
        row = db.execute(
            "select task_description, task_type, queue, task_priority, input_data, timeout_seconds from agent_tasks"
        ).fetchone()
        assert row == ("Review it", "review", "q", 8, {"a": [1]}, 60)
        assert (await call("wait", task_ids=[task], timeout=0.1))["finished"] is False
        waits = asyncio.create_task(call("wait", task_ids=[task[:-1]], timeout=60))
        finish(db, task, {"verdict": "good"})
        done = await waits
        assert (done["finished"], done["tasks"][0]["status"]) == (True, "completed")
        result = await call("result", task_id=task)
        assert (result["output"], result["status"]) == ({"verdict": "good"}, "completed")
        await call("submit", text="Another", id="other")
        follow_up = await call("reply", task_id="other", text="Now the docs", id="next")
        assert follow_up == {"task_id": "next", "created": True, "continues": "other"}
        assert await call("cancel", task_ids=["other", task]) == {
            "cancelled": [{"task_id": "other", "status": "cancelled"}],
            "already_over": [task],
        }


async def test_message_reaches_a_task_that_is_not_over(db, dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", id="a")
        await call("tell", task_id="a", text="not that file")
        assert db.execute("select body from agent_messages").fetchall() == [("not that file",)]
        finish(db, "a")
        assert "over" in await call.refused("tell", task_id="a", text="more")


async def test_wait_ends_when_a_task_asks_a_person(db, dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", id="a")
        waits = asyncio.create_task(call("wait", task_ids=["a"], timeout=60))
        ask(dsn, "a", question())
        done = await waits
        assert (done["finished"], done["waits_for_a_person"]) == (False, ["a"])
        assert done["tasks"][0]["question"] == "Which database?"
        assert (await call("result", task_id="a"))["question"]["text"] == "Which database?"


@pytest.mark.parametrize(
    ("rights", "asked", "option"),
    [
        (Rights(approve=True), question(), "--allow-answer"),
        (Rights(answer=True), PUSH, "--allow-approve"),
    ],
)
async def test_answer_that_was_not_allowed_is_refused(db, dsn, rights, asked, option):
    async with inside(dsn, rights) as call:
        await call("submit", text="x", id="a")
        ask(dsn, "a", asked)
        assert [one["may_answer"] for one in (await call("questions"))["questions"]] == [False]
        assert option in await call.refused("answer", task_id="a", answer="yes")
        assert db.execute("select status, answer from agent_tasks").fetchall() == [("waiting", None)]


@pytest.mark.parametrize(
    ("rights", "asked", "answer"),
    [(Rights(answer=True), question(), "SQLite"), (Rights(approve=True), PUSH, "no, because it is Friday")],
)
async def test_allowed_answer_lets_the_task_go_on(db, dsn, rights, asked, answer):
    async with inside(dsn, rights) as call:
        await call("submit", text="x", id="a")
        ask(dsn, "a", asked)
        assert [one["may_answer"] for one in (await call("questions"))["questions"]] == [True]
        assert await call("answer", task_id="a", answer=answer) == {"task_id": "a", "status": "pending"}
        assert "does not wait" in await call.refused("answer", task_id="a", answer=answer)


async def test_approval_that_comes_after_the_look_is_not_given(db, dsn, monkeypatch):
    """The server looks what the task asks, and only then it asks."""
    look = AsyncClient.questions

    async def looks_too_early(client, *arguments, **named):
        found = await look(client, *arguments, **named)
        ask(dsn, "a", PUSH)
        return found

    async with inside(dsn, Rights(answer=True)) as call:
        await call("submit", text="x", id="a")
        monkeypatch.setattr(AsyncClient, "questions", looks_too_early)
        await call.refused("answer", task_id="a", answer="yes")
        assert db.execute("select status, answer from agent_tasks").fetchall() == [("waiting", None)]


async def test_held_task_is_an_approval_too(db, dsn):
    async with inside(dsn, Rights(answer=True)) as call:
        await call("submit", text="x", id="a", hold=True)
        assert "--allow-approve" in await call.refused("answer", task_id="a", answer="yes")
    async with inside(dsn, Rights(approve=True)) as call:
        assert (await call("answer", task_id="a", answer="yes"))["status"] == "pending"


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("submit", {"text": "x", "dsn": "host=elsewhere"}, "submit has no argument 'dsn'"),
        ("submit", {"text": "x", "database": "other"}, "submit has no argument 'database'"),
        ("submit", {"text": ""}, "empty"),
        ("submit", {"text": "x", "priority": "high"}, "priority"),
        ("submit", {"text": "x", "timeout": -1}, "timeout_seconds"),
        ("submit", {"text": "x", "after": "soon"}, "after 'soon' is not a time: write 10m"),
        ("submit", {"text": "x", "needs": ["gone"]}, "gone"),
        ("submit", {"text": "a\x00b"}, "NUL"),
        ("submit", {}, "text"),
        ("result", {"task_id": "gone"}, "no task 'gone'"),
        ("wait", {"task_ids": []}, "task_ids"),
        ("wait", {"task_ids": ["gone"], "timeout": 1e9}, "timeout"),
        ("cancel", {"task_ids": ["gone"]}, "no task 'gone'"),
        ("forget", {}, "forget"),
    ],
)
async def test_bad_call_gets_one_error_that_says_what_to_do(dsn, db, tool, arguments, says):
    async with inside(dsn) as call:
        error = await call.refused(tool, **arguments)
        assert says in error
        assert "Traceback" not in error
        assert db.execute("select count(*) from agent_tasks").fetchone() == (0,)
        assert (await call("status"))["queues"] == [], "the server goes on"


async def test_diff_of_a_run_is_shown_and_cut(db, dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", id="a", requires={"os": "macos"})
        assert db.execute("select requires from agent_tasks").fetchone() == ({"os": "macos"},)
        assert await call("diff", task_id="a") == {"task_id": "a", "diff": None}
        db.execute(
            "insert into agent_files (task_id, fencing_token, path, bytes, sha256) "
            "select task_id, 1, '.turbo/diff.patch', d, sha256(d) from agent_tasks, convert_to(repeat('+ä', 1000), 'UTF8') d"
        )
        assert await call("diff", task_id="a", max_characters=100) == {"task_id": "a", "diff": "+ä" * 50, "cut": 1900}


async def test_id_that_is_taken_is_named(dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", id="a")
        assert (await call.refused("submit", text="y", id="a")).endswith(": task a already exists")


async def test_after_is_read_as_the_command_line_reads_it(db, dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", after="2h")
        late = "select status, run_after between now() + interval '1h 59m' and now() + interval '2h' from agent_tasks"
        assert db.execute(late).fetchone() == ("scheduled", True)


async def test_role_decides_what_a_tool_may_do(dsn):
    grant_roles(dsn)
    with login(dsn, "turbo_reader") as reader:
        async with inside(reader) as call:
            assert (await call("status"))["problems"] is not None
            assert "turbo_submitter may" in await call.refused("submit", text="x")


async def test_long_output_is_cut_and_a_resource_has_it_whole(db, dsn):
    async with inside(dsn) as call:
        await call("submit", text="x", id="a")
        finish(db, "a", "o" * 100_000)
        result = await call("result", task_id="a", max_characters=1000)
        assert (len(result["output"]), result["cut"]) == (1000, 99_000)
        whole = await call.client.read_resource("turbo://tasks/a")
        assert len(json.loads(whole.model_dump()["contents"][0]["text"])["output"]) == 100_000


@pytest.mark.parametrize("uri", ["turbo://tasks/gone", "turbo://elsewhere/tasks/a", "postgresql://localhost/other"])
async def test_resource_of_nothing_is_an_error(dsn, uri):
    async with inside(dsn) as call:
        with pytest.raises(Exception, match=r"gone|[Uu]nknown resource|not found"):
            await call.client.read_resource(uri)
        assert (await call("status"))["queues"] == [], "the server goes on"


async def test_text_of_ten_megabytes_is_taken_or_refused_whole(db, dsn):
    async with started(dsn) as call:
        made = await call("submit", text="x" * 10_000_000)
        assert db.execute("select length(task_description) from agent_tasks").fetchone() == (10_000_000,)
        assert (await call("status", task_ids=[made["task_id"]]))["tasks"][0]["status"] == "pending"


def _sessions(db: psycopg.Connection) -> int:
    (count,) = db.execute(
        "select count(*) from pg_stat_activity where application_name = 'turbo client' and datname = current_database()"
    ).fetchone()
    return count


async def test_waits_of_clients_that_are_gone_hold_up_nothing(db, dsn, monkeypatch):
    monkeypatch.setattr(tools, "WAITS_AT_ONCE", 2)
    async with inside(dsn) as call:
        await call("submit", text="x", id="a")
        waits = [asyncio.create_task(call("wait", task_ids=["a"], timeout=3000)) for _ in range(2)]
        await until_async(lambda: open_waits(db) == 2)
        last = asyncio.create_task(call("wait", task_ids=["a"], timeout=3000))
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        assert [one.result()["finished"] for one in done] == [False], "the oldest ends, and its client may call again"
        assert (await call("cancel", task_ids=["a"]))["cancelled"]
        assert (await last)["finished"]
        await asyncio.gather(*waits)


def open_waits(db: psycopg.Connection) -> int:
    (count,) = db.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        "and application_name like 'turbo%%'",
        [],
    ).fetchone() or (0,)
    return int(count)


async def test_error_and_progress_steer_no_terminal(db, dsn):
    async with inside(dsn) as call:
        for name in ("a\x1b[2Jx", "a\x1b[2Jy"):
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [name])
        error = await call.refused("result", task_id="a\x1b")
        assert "\\x1b" in error
        assert "\x1b" not in error


async def test_idle_server_holds_no_connection(db, dsn):
    async with started(dsn) as call:
        await call("status")
        assert _sessions(db) == 0


async def test_client_that_disappears_ends_server_and_wait(db, dsn, shell):
    db.execute("insert into agent_tasks (task_id, task_description) values ('a', 'x')")
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(TURBO), "mcp", env={"TURBO_DSN": dsn, "PATH": "/usr/bin:/bin", "HOME": str(shell.cwd)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin is not None
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call",
         "params": {"name": "wait", "arguments": {"task_ids": ["a"], "timeout": 3600}}},
    ):  # fmt: skip
        server.stdin.write(json.dumps(message).encode() + b"\n")
    await server.stdin.drain()
    await until_async(lambda: _sessions(db) > 0, what="the wait has a connection")
    server.stdin.close()
    async with asyncio.timeout(30):
        _, err = await server.communicate()
    assert (server.returncode, err) == (0, b"")
    await until_async(lambda: _sessions(db) == 0, what="the wait is over")
