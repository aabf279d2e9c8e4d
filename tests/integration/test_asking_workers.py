"""Runs that ask a person, with real workers: commands and python handlers, and what comes between question and answer."""

import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support import workers
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import embedded

PROGRAM = """
import json, os, sys
task = json.load(sys.stdin)
number = len(task["answers"])
with open(sys.argv[1], "a") as ledger:
    entry = {"task": task["task_id"], "cwd": os.getcwd(), "answers": task["answers"]}
    ledger.write(json.dumps(entry | {"last": [task["question"], task["answer"]]}) + "\\n")
if number < (task["input_data"] or {}).get("times", 1):
    print(f"run {number}")
    options = ["yes", {"label": "no", "description": "not now"}]
    print(json.dumps({"ask": {"text": f"Question {number}?", "options": options}}))
    sys.exit(76)
print(json.dumps({"given": [one["answer"] for one in task["answers"]]}))
"""


def asking(bench: Bench, ask: dict[str, Any] | None = None, **worker: object) -> dict[str, Any]:
    """A configuration whose default executor asks as often as `input_data.times` says [default: once]."""
    program = bench.path / "asking.py"
    program.write_text(PROGRAM)
    config = bench.config(**({"slots": 1, "poll_seconds": 3600} | worker))
    config["executors"] = {
        "program": {"kind": "command", "command": [sys.executable, str(program), str(bench.ledger)], "ask": ask or {}},
        "handler": {"kind": "python", "handler": "turbo.testing:ask", "ask": ask or {}},
        "denied": {"kind": "python", "handler": "turbo.testing:ask"},
    }
    config["routes"] = {"default": "program", "handler": "handler", "denied": "denied"}
    return config


def answer(bench: Bench, task_id: str, text: str) -> None:
    bench.sql("update agent_tasks set answer = %s where task_id = %s", text, task_id)


def asked(bench: Bench, task_id: str, number: int, seconds: float = 20.0) -> dict[str, Any]:
    """The row once its question of this number waits."""

    def waits() -> bool:
        row = bench.row(task_id)
        return row["status"] == "waiting" and row["question"]["number"] == number

    until(waits, seconds, lambda: f"{bench.row(task_id)}\n{bench.logs()}")
    return bench.row(task_id)


def test_command_asks_and_goes_on_with_each_answer(bench: Bench) -> None:
    worker = bench.start(asking(bench, {"remind_seconds": 3600})).listening()
    bench.insert("t", {"times": 3}, concurrency_key="k", max_retries=0)
    row = asked(bench, "t", 1)
    options = [{"label": "yes", "description": ""}, {"label": "no", "description": "not now"}]
    question = row["question"]
    assert (question["kind"], question["text"], question["then"]) == ("question", "Question 0?", "proceed")
    assert question["questions"] == [{"question": "Question 0?", "header": "", "options": options, "multi": False}]
    assert (question["remind_seconds"], "answer_by" in question, row["run_after"].year) == (3600, False, 9000)
    assert (row["output_data"]["output"], row["retry_count"], row["fencing_token"] < 0) == ("run 0", 0, True)
    # The only slot and the key are free.
    bench.insert("other", {"times": 0}, concurrency_key="k")
    bench.wait("other")
    texts = ["first", "second", 'third: "ü"\n']
    for number, text in enumerate(texts, 1):
        asked(bench, "t", number)
        at = time.monotonic()
        answer(bench, "t", text)
        until(lambda: len([e for e in bench.entries() if e["task"] == "t"]) > number)  # noqa: B023
        assert time.monotonic() - at < 10, "woken by the answer, not by a poll"
    row = bench.wait("t")
    assert row["output_data"]["output"] == {"given": texts}
    assert (row["retry_count"], row["infra_count"], row["failure_kind"]) == (0, 0, None)
    entries = [entry for entry in bench.entries() if entry["task"] == "t"]
    assert len({entry["cwd"] for entry in entries}) == 1
    pairs = [{"question": f"Question {n}?", "answer": text} for n, text in enumerate(texts)]
    assert [entry["answers"] for entry in entries] == [pairs[:n] for n in range(4)]
    assert entries[0]["last"] == [None, None]
    assert entries[3]["last"] == ["Question 2?", texts[2]]
    assert bench.trail("t") == ["claimed", "asked", "answered"] * 3 + ["claimed", "finished"]
    labels = {"queue": "default", "executor": "program", "outcome": "asked"}
    assert worker.metric(bench.dsn, "turbo_tasks_finished_total", **labels) == 3
    assert worker.metric(bench.dsn, "turbo_retries_total", reason="error") == 0
    worker.said("asked in ", times=3)
    assert ": Question 2?" in worker.log


def test_handler_asks_twenty_times_and_fails_at_the_next(bench: Bench) -> None:
    bench.start(asking(bench)).listening()
    bench.insert("ends", {"times": 2}, task_type="handler")
    bench.insert("goes-on", {"times": 99}, task_type="handler")
    for number in (1, 2):
        asked(bench, "ends", number)
        answer(bench, "ends", f"yes {number}")
    assert bench.wait("ends")["output_data"]["output"] == ["yes 1", "yes 2"]
    for number in range(1, 21):
        asked(bench, "goes-on", number)
        answer(bench, "goes-on", "no")
    row = bench.wait("goes-on", "failed")
    assert (row["failure_kind"], row["error_message"]) == (
        "unanswered",
        "it has asked 20 questions, and asks another one",
    )


@pytest.mark.parametrize("then", ["proceed", "fail"])
def test_question_without_an_answer_in_time(then: str, bench: Bench) -> None:
    """The worker looks at the deadline, long before its next poll."""
    bench.start(asking(bench, {"within_seconds": 0.3, "then": then}, poll_seconds=600)).listening()
    bench.insert("t", task_type="handler")
    row = bench.wait("t", "completed" if then == "proceed" else "failed")
    trail = bench.sql("select detail -> 'question' ->> 'answer_by' from agent_actions where action_type = 'unanswered'")
    assert len(trail) == 1
    if then == "proceed":
        assert row["output_data"]["output"] == [None]
        assert (row["question"]["expired"], row["answer"], row["retry_count"]) == (True, None, 0)
    else:
        assert row["failure_kind"] == "unanswered"


def test_question_without_ask_is_denied_and_counted(bench: Bench) -> None:
    worker = bench.start(asking(bench)).listening()
    bench.insert("t", task_type="denied", max_retries=1)
    row = bench.wait("t", "failed")
    assert row["question"] is None
    assert row["error_message"].startswith("turbo.testing:ask asks a person, and its executor has no ask:")
    assert row["output_data"]["questions_denied"] == 1
    assert worker.metric(bench.dsn, "turbo_questions_denied_total", executor="denied") == 2
    assert worker.metric(bench.dsn, "turbo_questions_denied_total", executor="handler") == 0


def test_held_task_runs_when_it_is_released(bench: Bench) -> None:
    bench.start(asking(bench)).listening()
    for task in ("yes", "no"):
        bench.insert(task, {"times": 0}, status="waiting")
    bench.insert("free", {"times": 0})
    bench.wait("free")
    assert set(bench.runs()) == {"free"}
    for task in ("yes", "no"):
        answer(bench, task, task)
    bench.wait("yes")
    bench.wait("no", "cancelled")
    assert set(bench.runs()) == {"free", "yes"}
    assert bench.entries()[-1]["answers"] == []


def test_answer_outlives_its_worker_and_a_server_crash(own_server: embedded.Server, tmp_path: Path) -> None:
    with workers.bench(own_server.dsn, tmp_path) as bench:
        config = asking(bench, slots=2)
        first = bench.start(config).listening()
        for task in ("t", "drained"):
            bench.insert(task, max_retries=0)
            asked(bench, task, 1)
        first.kill(signal.SIGKILL)
        own_server.stop("immediate")
        bench.sessions.close()
        own_server.start_again()
        answer(bench, "t", "yes")
        second = bench.start(config).listening()
        row = bench.wait("t")
        assert row["output_data"]["output"] == {"given": ["yes"]}
        assert row["assigned_worker_id"] == second.worker_id != first.worker_id
        # A worker whose task waits has nothing to wait for when it drains.
        at = time.monotonic()
        assert second.stop() == 0
        assert time.monotonic() - at < 15
        assert bench.row("drained")["status"] == "waiting"
        elsewhere = {**config, "worker": {**config["worker"], "host": "elsewhere"}}
        bench.start(elsewhere).listening()
        answer(bench, "drained", "no")
        bench.insert("last", {"times": 0})
        bench.wait("last")
        assert bench.row("drained")["status"] == "pending", "it waits for the host that has its directory"
        bench.start(config).listening()
        bench.wait("drained")
        for task in ("t", "drained"):
            entries = [entry for entry in bench.entries() if entry["task"] == task]
            assert [len(entry["answers"]) for entry in entries] == [0, 1]
            assert len({entry["cwd"] for entry in entries}) == 1
            assert bench.trail(task)[-5:] == ["claimed", "asked", "answered", "claimed", "finished"]


def test_older_worker_turns_questions_off(bench: Bench) -> None:
    older = (
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, state, heartbeat_seconds, lease_seconds,"
        " poll_seconds) values ('old-1-abcdef', 'old', 'h', 7, '0', 1, %s, 'up', 300, 3600, 30)"
    )
    bench.sql(older, ["other", "default"])
    config = asking(bench, heartbeat_seconds=0.3, queues=["default", "free"])
    worker = bench.start(config).listening()
    bench.insert("off", task_type="handler", max_retries=0)
    bench.insert("on", task_type="handler", queue="free")
    row = bench.wait("off", "failed")
    assert "questions are off while an older worker serves queue default" in row["error_message"]
    asked(bench, "on", 1)

    def problems() -> list[dict[str, str]]:
        query = "select problems from agent_workers where worker_id = %s"
        return cast(list[dict[str, str]], bench.sql(query, worker.worker_id)[0][0])

    until(lambda: bool(problems()))
    (problem,) = problems()
    assert problem["kind"] == "older_worker"
    assert "questions are off for queue default: worker old-1-abcdef is older" in problem["what"]
    assert worker.metric(bench.dsn, "turbo_questions_denied_total", executor="handler") == 1
    bench.sql("update agent_workers set state = 'dead' where worker_id = 'old-1-abcdef'")
    until(lambda: not problems())
    bench.insert("again", task_type="handler")
    asked(bench, "again", 1)
    assert bench.sql("select schema >= 12 from agent_workers where worker_id = %s", worker.worker_id) == [(True,)]
