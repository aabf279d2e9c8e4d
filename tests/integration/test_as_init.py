"""A worker that is the first process of a container, or a subreaper: it collects the orphans, and no child's status."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.prefork import TURBO
from tests.support.requirements import missing, require
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

SUBREAPER = """if True:
    import ctypes, os, sys
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER, which survives an exec
    os.execv(sys.argv[1], sys.argv[1:])
"""

ORPHANS = """
import os, subprocess, sys, json, time
task = json.load(sys.stdin)
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os._exit(0)  # an orphan, or its parent's zombie until that ends
        os._exit(0)
kept = subprocess.Popen(["sleep", "600"], start_new_session=True)  # left to turbo, which ends it
with open(sys.argv[1], "a") as ledger:
    ledger.write(f"{kept.pid}\\n")
os._exit(task["input_data"]["exit"])
"""


@pytest.fixture
def in_container(bench: Bench) -> Bench:
    """Its workers are PID 1 of a namespace of their own."""
    if sys.platform != "linux":
        pytest.skip("PID namespaces exist on Linux only")
    prefix = (require("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child")
    if os.system(" ".join((*prefix, "true >/dev/null 2>&1"))) != 0:
        missing("unshare cannot make a PID namespace here")
    bench.program = (*prefix, TURBO, "worker", "--config")
    return bench


def init_of(worker: WorkerProcess) -> psutil.Process:
    (first,) = psutil.Process(worker.pid).children()
    assert isinstance(first, psutil.Process)
    return first


def zombies(init: psutil.Process) -> list[psutil.Process]:
    return [child for child in init.children() if child.status() == psutil.STATUS_ZOMBIE]


def work(bench: Bench) -> None:
    """Tasks that leave orphans, each with an exit code that must reach its row."""
    for number in range(12):
        bench.insert(f"t{number}", {"exit": number % 3}, task_type="orphans", max_retries=0)
    for number in range(12):
        row = bench.wait(f"t{number}", "failed" if number % 3 else "completed")
        assert f"exit code {number % 3}" in (row["error_message"] or "exit code 0")


def config(bench: Bench) -> dict[str, object]:
    settings = bench.config()
    program = bench.path / "orphans.py"
    program.write_text(ORPHANS)
    command = [sys.executable, "-S", "-E", str(program), str(bench.path / "kept")]
    settings["executors"]["orphans"] = {"kind": "command", "command": command}
    settings["routes"]["orphans"] = "orphans"
    return settings


def test_orphans_are_collected_and_no_exit_code_is_lost(in_container: Bench) -> None:
    bench = in_container
    worker = bench.start(config(bench)).listening()
    init = init_of(worker)
    assert Path(f"/proc/{init.pid}/status").read_text().splitlines().count(f"NSpid:\t{init.pid}\t1") == 1
    work(bench)
    assert len((bench.path / "kept").read_text().split()) == 12, "each left a process to turbo"
    until(lambda: not zombies(init), what=lambda: f"zombies: {zombies(init)}")
    init.send_signal(signal.SIGUSR1)  # what a container's runtime sends goes to PID 1
    worker.said("SIGUSR1 has no meaning here")
    init.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=30) == 0
    assert "draining" in worker.log


def test_second_term_to_init_ends_the_runs(in_container: Bench) -> None:
    bench = in_container
    worker = bench.start(drain_seconds=600).listening()
    bench.insert("t", {"gate": str(bench.path / "gate")})
    until(lambda: bench.runs()["t"])
    init_of(worker).send_signal(signal.SIGTERM)
    worker.said("draining")
    assert "second signal" not in worker.log, "each signal arrives once"
    init_of(worker).send_signal(signal.SIGINT)
    assert worker.process.wait(timeout=30) == 0
    assert bench.row("t")["status"] == "pending"


def test_killed_worker_ends_the_container(in_container: Bench) -> None:
    worker = in_container.start().listening()
    (inner,) = [p for p in init_of(worker).children() if "worker" in p.cmdline()]
    inner.kill()
    assert worker.process.wait(timeout=30) == 128 + signal.SIGKILL


def test_init_ends_with_the_exit_code_of_its_worker(in_container: Bench) -> None:
    worker = in_container.start({"executors": {}})
    assert worker.process.wait(timeout=30) == 2


def test_subreaper_collects_orphans(bench: Bench) -> None:
    if sys.platform != "linux":
        pytest.skip("subreapers exist on Linux only")
    bench.program = (sys.executable, "-c", SUBREAPER, TURBO, "worker", "--config")
    worker = bench.start(config(bench)).listening()
    work(bench)
    first = psutil.Process(worker.pid)
    until(lambda: not zombies(first), what=lambda: f"zombies: {zombies(first)}")
    assert worker.stop() == 0
