"""A worker whose event loop stands still: it says so everywhere, and does not stand for longer than its lease."""

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import gone, until
from tests.support.workers import Bench, WorkerProcess

HANDLERS = '''
import hashlib, os, re, socket, time
from pathlib import Path

def begun(task):
    with open(task.input_data["ledger"], "a") as ledger:
        ledger.write(f"{task.task_id} {os.getpid()}\\n")

async def sleeps(task):
    begun(task)
    time.sleep(task.input_data.get("seconds", 300))

async def spins(task):
    begun(task)
    while True:
        pass

async def computes(task):
    """One call of C code that holds the interpreter's lock from its beginning to its end."""
    begun(task)
    re.compile("(a|b|ab)*c").match("ab" * 40 + "d")

async def waits_in_c(task):
    """One call of C code that lets the interpreter's lock go, and heeds no signal."""
    begun(task)
    hashlib.pbkdf2_hmac("sha512", b"x", b"y", 2_000_000_000)

def blocks(task):
    """Not async: for a thread or a process."""
    begun(task)
    while not os.path.exists(task.input_data["gate"]):
        time.sleep(0.01)
'''

LEASE = 4
"""So a worker may stand for 2.7 s, and says so after 0.9 s."""


@pytest.fixture
def start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkerProcess]:
    """Starts a worker whose task types are the handlers above; `ledger` is the command of tests.support.workers."""
    modules = bench.path / "modules"
    modules.mkdir()
    (modules / "standstill_handlers.py").write_text(HANDLERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")]))
    names = ("sleeps", "spins", "computes", "waits_in_c")

    def start(**worker: Any) -> WorkerProcess:
        config = bench.config(**({"slots": 3, "lease_seconds": LEASE, "name": "w"} | worker))
        for name in names:
            config["executors"][name] = {"kind": "python", "handler": f"standstill_handlers:{name}"}
            config["routes"][name] = name
        for isolation in ("thread", "process"):
            section = {"kind": "python", "handler": "standstill_handlers:blocks", "isolation": isolation}
            config["executors"][isolation] = section | {"grace_seconds": 0.1}
            config["routes"][isolation] = isolation
        return bench.start(config)

    return start


def insert(bench: Bench, kind: str, **more: Any) -> None:
    data = {"ledger": str(bench.path / "begun"), "gate": str(bench.path / "gate"), **more}
    bench.insert(kind, data, task_type=kind, timeout_seconds=2, max_retries=0)


def begun(bench: Bench) -> list[str]:
    ledger = bench.path / "begun"
    return ledger.read_text().split() if ledger.exists() else []


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


def problems(bench: Bench) -> list[dict[str, str]]:
    return [problem for (found,) in bench.sql("select problems from agent_workers") for problem in found]


def test_blocked_loop_is_named_everywhere_then_recovers(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(lease_seconds=12).listening()
    url = worker.log.split("metrics on ")[1].split("/metrics")[0]
    insert(bench, "sleeps", seconds=5)
    worker.said("the event loop has not answered for")
    line = next(line for line in worker.log.splitlines() if "the event loop has not answered for" in line)
    assert "executor sleeps" in line
    assert "sleeps (" in line
    assert "standstill_handlers.py:11" in line
    assert "task=sleeps" in line
    assert 'time.sleep(task.input_data.get("seconds", 300))' in worker.log, "the stack"
    status, text = get(f"{url}/healthz")
    assert (status, "executor sleeps" in text) == (503, True)
    assert get(f"{url}/readyz")[0] == 503
    lag = worker.metric(bench.dsn, "turbo_event_loop_lag_seconds")
    assert lag > 1
    (problem,) = until(lambda: problems(bench), 10, "the beat says so")
    assert problem["kind"] == "loop_blocked"
    assert "executor sleeps" in problem["what"]
    worker.said("the event loop answers again after")
    until(lambda: problems(bench) == [])
    assert get(f"{url}/healthz") == (200, "ok")
    assert worker.process.poll() is None


@pytest.mark.parametrize("kind", ["sleeps", "spins", "waits_in_c"])
def test_standing_worker_is_ended_within_its_lease(
    bench: Bench, start: Callable[..., WorkerProcess], kind: str
) -> None:
    worker = start().listening()
    bench.insert("program", {"seconds": 60, "children": 2})
    until(lambda: bench.runs()["program"])
    insert(bench, kind)
    until(lambda: begun(bench))
    assert worker.process.wait(LEASE + 1) == 1  # and what a busy machine takes
    assert "ending this worker" in worker.log.splitlines()[-1]
    assert f"task={kind}" in worker.log.splitlines()[-1]
    pids = [entry["pid"] for entry in bench.entries()]
    until(lambda: all(gone(pid) for pid in pids), 10, "the watcher ends its programs")


def test_worker_that_holds_the_interpreter_is_ended(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    """No thread of it can act, so the kernel does, and the stack is in its log."""
    worker = start().listening()
    insert(bench, "computes")
    until(lambda: begun(bench))
    assert worker.process.wait(30) == -signal.SIGPROF  # computing time: a busy machine takes longer
    assert "standstill_handlers.py" in worker.log
    assert "in computes" in worker.log


def test_tasks_of_a_standing_worker_are_done_by_the_next(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(slots=1).listening()
    insert(bench, "sleeps")
    until(lambda: begun(bench))
    bench.insert("waiting")
    assert worker.process.wait(LEASE + 1) == 1  # and what a busy machine takes
    start(slots=2)
    bench.wait("waiting")
    until(lambda: bench.trail("sleeps").count("rescued") == 1)


def test_second_term_ends_a_worker_whose_loop_stands(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(lease_seconds=300, drain_seconds=100).listening()
    insert(bench, "waits_in_c")
    until(lambda: begun(bench))
    worker.kill(signal.SIGTERM)
    worker.said("the event loop has not answered for")
    assert worker.process.poll() is None
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(10) == 1
    assert "second signal" in worker.log.splitlines()[-1]


def test_stopped_worker_is_not_taken_for_a_standing_one(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    """SIGSTOP stops the watch with the loop: a suspended machine must not cost its runs."""
    worker = start(lease_seconds=3).listening()
    bench.insert("long", {"gate": str(bench.path / "gate")})
    until(lambda: bench.runs()["long"])
    worker.kill(signal.SIGSTOP)
    until(
        lambda: bench.sql("select 1 from agent_workers where state = 'dead' or heartbeat_at < now() - interval '6 s'")
    )
    worker.kill(signal.SIGCONT)
    (bench.path / "gate").touch()
    bench.wait("long")
    assert worker.process.poll() is None
    assert "event loop" not in worker.log


def test_signals_still_reach_a_healthy_worker(
    bench: Bench, start: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = start(drain_seconds=60).listening()
    bench.insert("long", {"seconds": 60})
    until(lambda: bench.runs()["long"])
    worker.kill(signal.SIGTERM)
    worker.said("draining")
    worker.kill(signal.SIGTERM)
    worker.said("second signal: ending all runs now")
    assert worker.process.wait(20) == 0
    assert bench.row("long")["status"] == "pending"


# ── isolation ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_thread_keeps_its_timeout_and_its_slot(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(slots=2).listening()
    insert(bench, "thread")
    row = bench.wait("thread", "failed")
    assert (row["failure_kind"], "its thread goes on" in row["error_message"]) == ("timed_out", True)
    until(lambda: [problem["kind"] for problem in problems(bench)] == ["stuck_run"])
    assert worker.metric(bench.dsn, "turbo_slots", state="busy") == 1
    bench.insert("another")
    bench.wait("another")
    (bench.path / "gate").touch()
    until(lambda: problems(bench) == [])
    assert worker.metric(bench.dsn, "turbo_slots", state="busy") == 0


def test_worker_whose_slots_are_all_stuck_begins_anew(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    """Three rows of a handler that hangs must not stop a worker for good."""
    worker = start(slots=1).listening()
    insert(bench, "thread")
    bench.wait("thread", "failed")
    assert worker.process.wait(20) == 1
    assert "NoSlotLeft" in worker.log
    start(slots=1)
    bench.insert("another")
    bench.wait("another")


def test_process_keeps_its_timeout_and_frees_its_slot(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(slots=1).listening()
    insert(bench, "process")
    until(lambda: begun(bench))
    pid = int(begun(bench)[1])
    assert pid != worker.pid
    row = bench.wait("process", "failed")
    assert row["failure_kind"] == "timed_out"
    assert gone(pid)
    assert problems(bench) == []
    bench.insert("another")
    bench.wait("another")


def test_process_of_a_killed_worker_is_ended(bench: Bench, start: Callable[..., WorkerProcess]) -> None:
    worker = start(slots=1).listening()
    insert(bench, "process")
    until(lambda: begun(bench))
    worker.kill()
    until(lambda: gone(int(begun(bench)[1])), 10)
