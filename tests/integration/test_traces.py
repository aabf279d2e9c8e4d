"""Traces: one from the inserter's span to the end of the task, at a real OTLP receiver; and nothing where none is configured."""

import sys
from pathlib import Path

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from tests.support.collectors import collector
from tests.support.shell import Shell
from tests.support.workers import Bench
from turbo import AsyncClient, Client, NewTask

SECRET = "the-prompt-must-not-travel"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PROGRAM = """
import json, os, pathlib, sys
home = pathlib.Path({home!r})
task = json.load(sys.stdin)
with open(home / (task["task_id"] + ".env"), "a") as file:
    print(os.environ.get("TRACEPARENT", "none"), file=file)
if task["task_id"] == "again" and not (home / "failed").exists():
    (home / "failed").touch()
    sys.exit(1)
print({secret!r})
"""


def traced(bench: Bench, tmp_path: Path, endpoint: str | None) -> None:
    program = PROGRAM.format(home=str(tmp_path), secret=SECRET)
    sections = {
        "executors": {
            "program": {"kind": "command", "command": [sys.executable, "-c", program]},
            "checked": {
                "kind": "command",
                "command": [sys.executable, "-c", program],
                "check": {"command": ["true"], "rounds": 0},
            },
        },
        "routes": {"default": "program", "checked": "checked"},
        "retry": {"base_seconds": 0.01, "max_seconds": 0.01},
        "telemetry": {"otlp": None if endpoint is None else {"endpoint": endpoint}},
    }
    bench.start(bench.config() | sections).listening()


def test_one_trace_from_the_insert_to_the_end(bench: Bench, tmp_path: Path) -> None:
    with collector() as collected:
        traced(bench, tmp_path, collected.endpoint)
        with (
            TracerProvider().get_tracer("app").start_as_current_span("request") as request,
            Client(bench.dsn) as client,
        ):
            inserter = request.get_span_context()
            client.submit(SECRET, task_id="again")
            client.submit(SECRET, task_id="unsampled", traceparent=PARENT.removesuffix("01") + "00")
        bench.sql(
            "insert into agent_tasks (task_id, task_description, task_type, traceparent)"
            " values ('work', %s, 'checked', %s), ('odd', %s, 'default', repeat('x', 100000))",
            SECRET, PARENT, SECRET,
        )  # fmt: skip
        for task_id in ("again", "unsampled", "work", "odd"):
            bench.wait(task_id)
        tasks = {str(span.attributes["turbo.task.id"]): span for span in collected.wait_for("turbo.task", 3)}

        # the program's span, the task, both runs: one trace
        again = tasks["again"]
        assert (again.trace_id, again.parent_id) == (f"{inserter.trace_id:032x}", f"{inserter.span_id:016x}")
        runs = [span for span in collected.wait_for("turbo.run", 4) if span.trace_id == again.trace_id]
        assert [(run.failed, run.attributes["turbo.attempt"]) for run in runs] == [(True, 1), (False, 2)]
        assert {run.parent_id for run in runs} == {again.span_id}
        assert again.start <= runs[0].start <= runs[0].end <= runs[1].start
        waits = [span for span in collected.of("turbo.wait") if span.trace_id == again.trace_id]
        assert [wait.parent_id for wait in waits] == [again.span_id] * 2
        handed = (tmp_path / "again.env").read_text().split()
        assert handed == [f"00-{run.trace_id}-{run.span_id}-01" for run in runs]

        # checked work has turns and checks below its run
        work = tasks["work"]
        assert (work.trace_id, work.parent_id) == (PARENT[3:35], PARENT[36:52])
        (run,) = [span for span in collected.of("turbo.run") if span.trace_id == work.trace_id]
        below = [span for span in collected.spans if span.parent_id == run.span_id]
        assert [span.name for span in below] == ["turbo.turn", "turbo.check"]
        assert below[1].attributes["turbo.check.result"] == "passed"

        # what is no traceparent counts as none, and what is not sampled stays so
        assert tasks["odd"].parent_id == ""
        assert "unsampled" not in tasks
        assert (tmp_path / "unsampled.env").read_text().endswith("-00\n")
        assert SECRET.encode() not in collected.raw


def test_dead_collector_costs_one_line(bench: Bench, tmp_path: Path) -> None:
    with collector() as gone:
        pass
    traced(bench, tmp_path, gone.endpoint)
    for number in range(3):
        bench.insert(f"t{number}")
    for number in range(3):
        bench.wait(f"t{number}")
    (worker,) = bench.workers
    worker.said("traces cannot be exported")
    assert worker.stop() == 0
    assert worker.log.count("traces cannot be exported") == 1
    assert "opentelemetry" not in worker.log


def test_nothing_is_handed_on_without_telemetry(bench: Bench, tmp_path: Path) -> None:
    traced(bench, tmp_path, None)
    bench.sql("insert into agent_tasks (task_id, task_description, traceparent) values ('t', 'x', %s)", PARENT)
    bench.wait("t")
    assert (tmp_path / "t.env").read_text() == "none\n"


async def test_both_clients_and_shell_take_the_current_trace(
    dsn: str, db: psycopg.Connection, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TracerProvider().get_tracer("app").start_as_current_span("request") as request:
        own = request.get_span_context()
        current = f"00-{own.trace_id:032x}-{own.span_id:016x}-01"
        with Client(dsn) as client:
            client.submit_many([NewTask("x", task_id="sync"), NewTask("x", task_id="given", traceparent=PARENT)])
        async with AsyncClient(dsn) as other:
            await other.submit("x", task_id="async", traceparent="nonsense")
    assert trace.get_current_span().get_span_context().is_valid is False
    with Client(dsn) as client:
        client.submit("x", task_id="none")
    monkeypatch.setenv("TRACEPARENT", PARENT)
    assert shell("submit", "x", "--id", "shell").code == 0
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert shell("submit", "x", "--id", "nonsense").code == 0
    refused = shell("submit", "x", "--traceparent", "nonsense")
    assert refused.code == 2
    assert "--traceparent" in refused.err
    found = dict(db.execute("select task_id, traceparent from agent_tasks").fetchall())
    assert found == {
        "sync": current, "given": PARENT, "async": current, "none": None, "shell": PARENT, "nonsense": None,
    }  # fmt: skip
