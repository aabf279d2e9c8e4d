"""A worker that is told to stop leaves within the service manager's time, whether or not the database answers."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import workers
from tests.support.database import migrated_server
from tests.support.processes import freeze, thaw
from tests.support.waiting import gone, until
from turbo.embedded import Server
from turbo.fleet.instance import STOP_MARGIN_SECONDS
from turbo.worker.shutdown_deadline import END_SECONDS

TALKS = """
import json, os, sys, time
task = json.load(sys.stdin)
with open(sys.argv[1], "a") as ledger:
    ledger.write(json.dumps({"task": task["task_id"], "pid": os.getpid()}) + "\\n")
while task["input_data"]["talks"]:
    print("still here, at", time.monotonic(), flush=True)
    time.sleep(0.05)
"""

IGNORES_TERM = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
task = json.load(sys.stdin)
with open(sys.argv[1], "a") as ledger:
    ledger.write(json.dumps({"task": task["task_id"], "pid": os.getpid()}) + "\\n")
time.sleep(600)
"""

LIGHT = """
import asyncio, pathlib

async def when_told(task):
    path = pathlib.Path(task.input_data["path"])
    path.with_suffix(".began").touch()
    while not path.exists():
        await asyncio.sleep(0.01)
    path.with_suffix(".over").touch()
    return {"light": True}
"""


@pytest.fixture(scope="module")
def server():
    with migrated_server({"autovacuum": "off"}) as server:
        yield server


@pytest.fixture
def bench(server, tmp_path):
    with workers.bench(server.dsn, tmp_path) as bench:
        bench.sql("truncate agent_tasks, agent_actions, agent_workers, agent_progress cascade")
        yield bench


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Its sockets stay open, and nothing answers: to the end of the block, which the block shows."""
    processes = freeze(server.pid)
    try:
        yield
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(server.dsn, connect_timeout=2)
    finally:
        thaw(processes)


def with_program(bench: workers.Bench, text: str, **worker: object) -> dict[str, Any]:
    program = bench.path / "agent.py"
    program.write_text(text)
    config = bench.config(**worker)
    config["executors"]["ledger"]["command"][1] = str(program)
    return config


def leaves_in_time(worker: workers.WorkerProcess, told_at: float, drain_seconds: float) -> None:
    end = told_at + drain_seconds + STOP_MARGIN_SECONDS
    assert worker.process.wait(end - time.monotonic()) == 0, worker.log


def test_shutdown_deadline_fits_the_service_managers():
    assert END_SECONDS < STOP_MARGIN_SECONDS


@pytest.mark.parametrize("terms", [1, 2])
def test_drain_in_an_outage_ends_in_time_and_hands_over_its_task(server, bench, terms):
    """Every lane has a statement that waits for the frozen server, the progress of the run included."""
    drain_seconds = 1 if terms == 1 else 300
    config = with_program(bench, TALKS, drain_seconds=drain_seconds)
    worker = bench.start(config).listening()
    bench.insert("t", {"talks": True})
    until(lambda: bench.sql("select 1 from agent_progress"))
    program = until(bench.entries)[0]["pid"]
    with frozen(server):
        told_at = time.monotonic()
        worker.process.terminate()
        worker.said("draining: 1 runs")
        if terms == 2:
            assert not gone(program)
            told_at = time.monotonic()
            worker.process.terminate()
        until(lambda: gone(program), 5, "the agent is told as soon as its time is over")
        leaves_in_time(worker, told_at, drain_seconds if terms == 1 else 0)
        worker.said("could not release")
    assert bench.row("t")["status"] == "running", "the fault bit: nothing of the drain was written"
    bench.sql("""update agent_tasks set input_data = '{"talks": false}'""")
    bench.start(config).listening()
    bench.wait("t")
    assert bench.runs()["t"] == 2
    assert bench.trail("t").count("finished") == 1


def test_small_result_of_an_outage_reaches_the_next_worker(server, bench, monkeypatch):
    (bench.path / "light.py").write_text(LIGHT)
    monkeypatch.setenv("PYTHONPATH", f"{bench.path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    config = bench.config(drain_seconds=1)
    config["executors"]["light"] = {"kind": "python", "handler": "light:when_told"}
    config["routes"]["light"] = "light"
    worker = bench.start(config).listening()
    go = bench.path / "go"
    bench.insert("t", {"path": str(go)}, task_type="light")
    until(go.with_suffix(".began").exists)
    with frozen(server):
        go.touch()
        until(go.with_suffix(".over").exists)
        told_at = time.monotonic()
        worker.process.terminate()
        leaves_in_time(worker, told_at, 1)
    assert bench.row("t")["status"] == "running", "the fault bit"
    go.unlink()
    bench.start(config).listening()
    assert bench.wait("t")["output_data"]["output"] == {"light": True}
    assert bench.trail("t").count("claimed") == 1, "its handler did not run again"


def test_worker_without_a_database_stops_in_time(server, bench):
    with frozen(server):
        worker = bench.start(drain_seconds=0)
        worker.said("metrics on")
        told_at = time.monotonic()
        worker.process.terminate()
        leaves_in_time(worker, told_at, 0)


def test_agent_with_too_long_a_grace_is_killed_and_released(bench):
    """The database is there: its row goes, too."""
    config = with_program(bench, IGNORES_TERM, drain_seconds=0)
    config["executors"]["ledger"]["grace_seconds"] = 120
    worker = bench.start(config).listening()
    bench.insert("t")
    until(lambda: bench.runs()["t"] == 1)
    told_at = time.monotonic()
    worker.process.terminate()
    leaves_in_time(worker, told_at, 0)
    assert gone(bench.entries()[0]["pid"])
    assert bench.row("t")["status"] == "pending"
    assert bench.row("t")["retry_count"] == 0
    assert bench.trail("t") == ["claimed", "released"]
    assert bench.sql("select count(*) from agent_workers") == [(0,)]
