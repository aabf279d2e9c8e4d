"""Messages to tasks of real workers: at each moment of a run, to programs and to the real Claude CLI, through kills."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import claude, messages_api
from tests.support.claude import bash
from tests.support.claude_asking import calls, question
from tests.support.messages_api import Answer, Request
from tests.support.open_messages import message
from tests.support.waiting import until
from tests.support.workers import Bench


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as agent:
        yield agent


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def rows(db: psycopg.Connection[Any]) -> list[tuple[str, bool, bool, bool]]:
    """(body, it is delivered or closed, to a run, as a follow-up), oldest first."""
    return db.execute(
        "select body, delivered_at is not null, fencing_token is not null, follow_up is not null"
        " from agent_messages order by message_id"
    ).fetchall()


def last_task(db: psycopg.Connection[Any]) -> str:
    row = db.execute("select task_id from agent_tasks order by created_at desc, task_id limit 1").fetchone()
    assert row is not None
    return str(row[0])


def receipts(bench: Bench, state: str) -> int:
    """How many messages, prompts included, the CLI has in this state, by its own account."""
    texts = [log.read_text() for log in (bench.path / "state").rglob("*.log")]
    return sum(text.count(f'"state":"{state}"') for text in texts)


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_program_has_messages_at_its_start_and_later_ones_follow(bench: Bench, db: psycopg.Connection[Any]) -> None:
    config = bench.config(poll_seconds=60)
    program = bench.path / "told.py"
    program.write_text(
        "import json, sys, time, os\n"
        "task = json.load(sys.stdin)\n"
        "open(sys.argv[1] + '.begun', 'w')\n"
        "while task['task_id'] == 't' and not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "print(json.dumps([m['body'] for m in task.get('messages', [])]))\n"
    )
    gate = bench.path / "gate"
    command = config["executors"]["ledger"]["command"]
    config["executors"]["ledger"]["command"] = [command[0], str(program), str(gate)]
    bench.insert("t", status="waiting")
    for number in range(3):
        message(db, "t", f"before {number}")
    bench.start(config).listening()
    db.execute("update agent_tasks set status = 'pending' where task_id = 't'")
    until((bench.path / "gate.begun").exists, 20, bench.logs)
    message(db, "t", "too late for a program")
    gate.touch()
    row = bench.wait("t")
    assert row["output_data"]["output"] == '["before 0", "before 1", "before 2"]\n'
    until(lambda: all(closed for _, closed, *_ in rows(db)), 20, lambda: f"{rows(db)}\n{bench.logs()}")
    assert rows(db) == [(f"before {n}", True, True, False) for n in range(3)] + [
        ("too late for a program", True, False, True)
    ]
    follow_up = last_task(db)
    row = bench.wait(follow_up)
    assert (row["continues"], row["task_description"]) == ("t", "too late for a program")


# ── Claude ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_message_reaches_claude_during_a_tool_call(
    bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any]
) -> None:
    agent.api.answer(
        bash(f"touch {bench.path}/seen; until [ -e {bench.path}/go ]; do sleep 0.05; done"), messages_api.text("done")
    )
    bench.start(agent.config(bench)).listening()
    bench.insert("t", timeout_seconds=100)
    until((bench.path / "seen").exists, 60, bench.logs)
    message(db, "t", "not that file")
    until(lambda: receipts(bench, "queued") == 2, 20, bench.logs)  # the CLI has it, and keeps it until the tool ends
    assert rows(db) == [("not that file", False, False, False)]
    (bench.path / "go").touch()
    row = bench.wait("t", seconds=60)
    assert (row["output_data"]["output"], row["output_data"]["messages"]) == ("done", 1)
    assert "not that file" in agent.api.requests[1].everything
    assert rows(db) == [("not that file", True, True, False)]
    assert len(agent.api.requests) == 2


@pytest.mark.parametrize("notify", ["on", "off"])
def test_message_in_the_last_moment_is_the_next_prompt(
    bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any], notify: str
) -> None:
    """It is committed while the last answer comes. Without its notification, the last look finds it."""
    answers = iter([messages_api.text("first"), messages_api.text("second")])
    db.execute(f"set turbo.notify = {notify}")

    def last_moment(_request: Request) -> Answer:
        answer = next(answers)
        if len(agent.api.requests) == 1:
            message(db, "t", "one more thing")
        return answer

    agent.api.decide = last_moment
    bench.start(agent.config(bench)).listening()
    bench.insert("t", timeout_seconds=100)
    row = bench.wait("t", seconds=60)
    assert (row["output_data"]["output"], row["retry_count"], row["infra_count"]) == ("second", 0, 0)
    assert uses(row) == [(22, 14)], "what both turns have used"
    assert "one more thing" in agent.api.requests[1].prompt
    assert rows(db) == [("one more thing", True, True, False)]
    assert bench.trail("t") == ["claimed", "finished"], "the same claim"


def uses(row: dict[str, Any]) -> list[tuple[int, int]]:
    return [(one["input_tokens"], one["output_tokens"]) for one in row["output_data"]["usage"]]


def test_poll_finds_a_message_whose_notification_is_lost(
    bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any]
) -> None:
    agent.api.answer(
        bash(f"touch {bench.path}/seen; until [ -e {bench.path}/go ]; do sleep 0.05; done"), messages_api.text("done")
    )
    config = agent.config(bench)
    config["worker"]["poll_seconds"] = 0.3
    bench.start(config).listening()
    bench.insert("t", timeout_seconds=100)
    until((bench.path / "seen").exists, 60, bench.logs)
    db.execute("set turbo.notify = off")
    message(db, "t", "unheard")
    until(lambda: receipts(bench, "queued") == 2, 20, bench.logs)
    (bench.path / "go").touch()
    bench.wait("t", seconds=60)
    assert rows(db) == [("unheard", True, True, False)]


def test_message_after_the_end_becomes_a_follow_up(
    bench: Bench, agent: claude.Bench, dsn: str, db: psycopg.Connection[Any]
) -> None:
    """Its transaction began while the task ran, and ends when the task is over: no look of the run could see it."""
    hold = threading.Event()
    agent.api.answer(messages_api.text("first"), messages_api.text("second"))
    agent.api.decide = lambda _request: (hold.wait(30), None)[1]
    bench.start(agent.config(bench)).listening()
    bench.insert("t", timeout_seconds=100)
    until(lambda: len(agent.api.requests) == 1, 60, bench.logs)
    with psycopg.connect(dsn) as slow:
        message(slow, "t", "/cost of it")
        hold.set()
        bench.wait("t", seconds=60)
    until(lambda: rows(db) == [("/cost of it", True, False, True)], 20, lambda: f"{rows(db)}\n{bench.logs()}")
    row = bench.wait(last_task(db), seconds=60)
    assert (row["continues"], row["output_data"]["output"]) == ("t", "second")
    assert "/cost of it" in agent.api.requests[1].prompt


def test_killed_worker_loses_no_message(bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any]) -> None:
    """One that its agent had, one that its CLI kept, one that nobody had read: the next run, in a new session, knows all."""
    agent.api.answer(
        bash("true"),
        bash(f"touch {bench.path}/seen; sleep 600"),
        messages_api.text("done"),
    )
    config = agent.config(bench)
    first = bench.start(config).listening()
    bench.insert("t", status="waiting", timeout_seconds=100)
    message(db, "t", "had")
    db.execute("update agent_tasks set status = 'pending' where task_id = 't'")
    until((bench.path / "seen").exists, 60, bench.logs)
    until(lambda: rows(db) == [("had", True, True, False)], 20, lambda: str(rows(db)))
    message(db, "t", "kept")
    until(lambda: receipts(bench, "queued") == 2, 20, bench.logs)
    first.kill(signal.SIGKILL)
    message(db, "t", "unread")
    bench.start(config).listening()
    row = bench.wait("t", seconds=90)
    assert row["output_data"]["output"] == "done"
    prompt = agent.api.requests[-1].prompt
    assert [prompt.count(f'"{said}"') for said in ("had", "kept", "unread")] == [1, 1, 1]
    assert [delivered for _, delivered, *_ in rows(db)] == [True] * 3
    assert [follow_up for *_, follow_up in rows(db)] == [False] * 3


def test_message_to_a_task_that_asks_comes_after_the_answer(
    bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any]
) -> None:
    hold = threading.Event()
    agent.api.answer(calls(question("Which database?")), messages_api.text("done"))
    agent.api.decide = lambda _request: (hold.wait(30), None)[1]
    bench.start(agent.config(bench, ask={})).listening()
    bench.insert("t", timeout_seconds=100)
    until(lambda: len(agent.api.requests) == 1, 60, bench.logs)
    message(db, "t", "before the question")
    until(lambda: receipts(bench, "queued") == 2, 20, bench.logs)
    hold.set()  # the CLI would make the message its next prompt, and drop the question
    bench.wait("t", "waiting", seconds=60)
    assert rows(db) == [("before the question", False, False, False)]
    message(db, "t", "while it waits")
    db.execute("update agent_tasks set answer = 'Postgres' where task_id = 't'")
    row = bench.wait("t", seconds=60)
    assert row["output_data"]["output"] == "done"
    told = agent.api.requests[-1].everything
    assert (
        told.index('Which database?\\"=\\"Postgres') < told.index("before the question") < told.index("while it waits")
    )
    assert [delivered for _, delivered, *_ in rows(db)] == [True, True]


def test_thousand_messages_reach_an_agent_that_ignores_them(
    bench: Bench, agent: claude.Bench, db: psycopg.Connection[Any]
) -> None:
    agent.api.answer(
        bash(f"touch {bench.path}/seen; until [ -e {bench.path}/go ]; do sleep 0.05; done"), messages_api.text("done")
    )
    bench.start(agent.config(bench)).listening()
    bench.insert("t", timeout_seconds=100)
    until((bench.path / "seen").exists, 60, bench.logs)
    db.execute(
        "insert into agent_messages (task_id, body) select 't', 'number <' || n || '>' from generate_series(1, 1000) n"
    )
    until(lambda: receipts(bench, "queued") == 2, 20, bench.logs)
    (bench.path / "go").touch()
    row = bench.wait("t", seconds=90)
    assert row["output_data"]["messages"] == 1000
    told = "".join(request.everything for request in agent.api.requests[-1:])
    assert [n for n in range(1, 1001) if told.count(f"number <{n}>") != 1] == []
    assert {closed for _, closed, *_ in rows(db)} == {True}
    assert last_task(db) == "t", "no follow-up"
