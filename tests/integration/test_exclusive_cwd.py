"""One task at a time in a directory, by a ledger that the tasks' own programs keep in it."""

import sys
import time
from typing import Any

import psutil
import pytest

from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

VISITOR = """
import json, os, pathlib, signal, sys, time
task = json.load(sys.stdin)
data = task["input_data"] or {}
if data.get("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ledger = open(sys.argv[1], "a", buffering=1)
def note(what, **more):
    ledger.write(json.dumps({"task": task["task_id"], "what": what, "at": time.time(), "pid": os.getpid(), **more}) + "\\n")
mark = pathlib.Path("somebody-is-here")
try:
    mark.touch(exist_ok=False)
except FileExistsError:
    note("overlap")
note("in", where=os.getcwd())
end = time.monotonic() + data.get("seconds", 0.05)
gate = data.get("gate")
while time.monotonic() < end or gate and not os.path.exists(gate):
    time.sleep(0.01)
    if data.get("ticks"):
        note("tick")
mark.unlink(missing_ok=True)
note("out")
"""


def visitors(bench: Bench, exclusive: bool = True, **worker: object) -> dict[str, Any]:
    """Two executors in one directory, one of them by another name for it; and one whose rows choose it."""
    program = bench.path / "visitor.py"
    program.write_text(VISITOR)
    house = bench.path / "house"
    house.mkdir(exist_ok=True)
    alias = bench.path / "alias"
    if not alias.exists():
        alias.symlink_to(house)
    config = bench.config(**worker)
    visitor = {
        "kind": "command",
        "command": [sys.executable, str(program), str(bench.ledger)],
        "exclusive_cwd": exclusive,
    }
    config["worker"]["allowed_roots"] = [str(bench.path)]
    config["executors"] |= {
        "front": {**visitor, "cwd": str(house)},
        "back": {**visitor, "cwd": str(alias)},
        "chooser": visitor,
    }
    config["routes"] |= {"front": "front", "back": "back", "chooser": "chooser"}
    return config


def noted(bench: Bench, what: str, task: str | None = None) -> list[dict[str, Any]]:
    return [e for e in bench.entries() if e["what"] == what and task in (None, e["task"])]


def inside(bench: Bench, task: str) -> None:
    until(lambda: noted(bench, "in", task), what=f"{task} is in")


def completed(bench: Bench) -> int:
    return int(bench.sql("select count(*) from agent_tasks where status = 'completed'")[0][0])


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "control"])
def test_two_workers_of_a_host_run_one_task_in_a_directory(bench: Bench, exclusive: bool) -> None:
    for name in ("one", "two"):
        bench.start(visitors(bench, exclusive, name=name, slots=3)).listening()
    for number in range(16):
        bench.insert(f"t{number}", task_type=("front", "back")[number % 2])
    until(lambda: completed(bench) == 16, 60, "all done")
    assert {t: len(noted(bench, "in", t)) for t in (f"t{n}" for n in range(16))} == {f"t{n}": 1 for n in range(16)}
    if not exclusive:
        assert noted(bench, "overlap"), "these tasks would meet, if nobody kept them apart"
        return
    assert not noted(bench, "overlap")
    trails = {tuple(bench.trail(f"t{n}")) for n in range(16)}
    assert trails == {("claimed", "finished")}, "nobody claimed a task to find the directory busy"
    assert bench.sql("select distinct retry_count, infra_count from agent_tasks") == [(0, 0)]
    locks = [p for p in (bench.path / "state" / "locks").iterdir() if p.name != "tidy"]
    assert [p.stat().st_size for p in locks] == [0], "one lock, and nobody in it"


def test_busy_directory_blocks_no_slot_and_no_other_task(bench: Bench) -> None:
    worker = bench.start(visitors(bench, slots=2)).listening()
    gate = bench.path / "gate"
    bench.insert("first", {"gate": str(gate)}, task_type="front")
    inside(bench, "first")
    bench.insert("second", task_type="back", task_priority=9)
    bench.insert("third", task_type="front", task_priority=1)
    for number in range(3):
        bench.insert(f"noop{number}", task_type="noop")
        bench.wait(f"noop{number}")
    assert bench.row("second")["status"] == bench.row("third")["status"] == "pending"
    assert bench.trail("second") == bench.trail("third") == []
    assert bench.sql("select state from agent_workers") == [("up",)]
    gate.touch()
    opened = time.monotonic()
    bench.wait("second")
    bench.wait("third")
    assert time.monotonic() - opened < 10, "the claimer was woken; its poll is 30 s away"
    assert [e["task"] for e in noted(bench, "in")] == ["first", "second", "third"], "by priority"
    assert not noted(bench, "overlap")
    worker.stop()


def test_freed_directory_wakes_the_other_worker(bench: Bench) -> None:
    first = bench.start(visitors(bench, name="first", queues=["default"])).listening()
    gate = bench.path / "gate"
    bench.insert("t1", {"gate": str(gate)}, task_type="front")
    inside(bench, "t1")
    bench.start(visitors(bench, name="second", queues=["other"])).listening()
    bench.insert("t2", task_type="back", queue="other")
    bench.insert("noop", task_type="noop", queue="other")
    bench.wait("noop")
    assert bench.trail("t2") == []
    gate.touch()
    opened = time.monotonic()
    assert bench.wait("t2")["assigned_worker_id"] != first.worker_id
    assert time.monotonic() - opened < 10
    assert not noted(bench, "overlap")


def test_task_in_a_busy_directory_is_snoozed_without_an_attempt(bench: Bench) -> None:
    bench.start(visitors(bench, slots=2)).listening()
    gate = bench.path / "gate"
    house = str(bench.path / "house")
    bench.insert("first", {"gate": str(gate)}, task_type="front")
    inside(bench, "first")
    bench.insert("second", {"cwd": house}, task_type="chooser")
    row = bench.wait("second", "scheduled")
    assert (row["retry_count"], row["infra_count"], row["failure_kind"], row["error_message"]) == (0, 0, None, None)
    assert bench.sql(
        "select extract(epoch from run_after - now()) between 5 and 20 from agent_tasks where task_id = 'second'"
    )[0][0]
    bench.insert("elsewhere", {"cwd": str(bench.path)}, task_type="chooser")
    bench.wait("elsewhere")
    assert noted(bench, "in", "elsewhere")[0]["where"] == str(bench.path), "another directory is free meanwhile"
    gate.touch()
    bench.wait("first")
    bench.sql("update agent_tasks set run_after = now() where task_id = 'second'")
    bench.sql("select pg_notify('turbo_ctl', 'queues')")  # look again: nobody waits for a poll here
    bench.wait("second")
    assert bench.trail("second")[:2] == ["claimed", "released"]
    assert bench.row("second")["retry_count"] == 0
    assert not noted(bench, "overlap")


def test_task_with_its_own_directory_leaves_the_default_free(bench: Bench) -> None:
    bench.start(visitors(bench, slots=2)).listening()
    gate = bench.path / "gate"
    other = bench.path / "other"
    other.mkdir()
    bench.insert("away", {"gate": str(gate), "cwd": str(other)}, task_type="front")
    inside(bench, "away")
    bench.insert("home", task_type="front")
    bench.wait("home")
    gate.touch()
    bench.wait("away")


def watcher_of(worker: WorkerProcess) -> psutil.Process:
    return next(p for p in psutil.Process(worker.pid).children() if "turbo.process.reaper" in p.cmdline())


@pytest.mark.parametrize(
    ("exclusive", "watched"),
    [(True, True), (True, False), (False, True)],
    ids=["exclusive", "its watcher killed too", "control"],
)
def test_directory_is_busy_until_a_killed_workers_program_ends(bench: Bench, exclusive: bool, watched: bool) -> None:
    first = bench.start(visitors(bench, exclusive, name="first", lease_seconds=3600)).listening()
    bench.insert("orphan", {"stubborn": True, "ticks": True, "seconds": 300}, task_type="front")
    until(lambda: noted(bench, "tick", "orphan"))
    pid = noted(bench, "in", "orphan")[0]["pid"]
    # Listening before the kill: a worker that starts afterwards ends what dead siblings left before it claims anything.
    bench.start(visitors(bench, exclusive, name="second", lease_seconds=3600)).listening()
    if not watched:
        watcher_of(first).kill()
    first.kill()
    killed = time.time()
    first.process.wait()
    bench.insert("next", task_type="front")
    bench.wait("next")
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)
    last = noted(bench, "tick", "orphan")[-1]["at"]
    assert last - killed > 1, "the fault bites: the orphan outlives its worker"
    began = noted(bench, "in", "next")[0]["at"]
    assert (began > last) is exclusive, f"{began - last:.2f} s after the orphan's last sign of life"
