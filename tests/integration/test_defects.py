"""A defect of turbo's own: whichever part raises what nobody foresaw, the worker says so, drains, and ends with 1, so that its
supervisor starts another; and what it had claimed is done by that one."""

import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.workers import Bench

DEFECTIVE = (sys.executable, Path(__file__).parents[1] / "support" / "programs" / "defective.py")


@pytest.mark.parametrize(
    ("defect", "what"),
    [
        ("startup", "start-up"),
        ("run", "run of a task"),
        ("job", "return after silence"),
        ("loop", "spool maintenance"),
        ("beat", "heartbeat"),
    ],
)
def test_defect_ends_the_worker_and_loses_nothing(bench: Bench, defect: str, what: str) -> None:
    bench.program = DEFECTIVE
    broken = bench.start(bench.config(), defect)
    if defect in ("run", "job"):
        broken.listening()
    if defect == "run":
        bench.insert("t")
    if defect == "job":
        bench.sql("delete from agent_workers where worker_id = %s", broken.worker_id)
    broken.said(f"the {what} crashed; draining")
    assert broken.process.wait(timeout=20) == 1
    assert broken.log.count("crashed; draining") == 1
    assert "RuntimeError: an unforeseen defect" in broken.log
    bench.program = Bench.program
    bench.start()
    if defect == "run":
        assert bench.runs()["t"] == 1
    else:
        bench.insert("t")
    bench.wait("t")
    if defect == "run":
        assert "rescued" in bench.trail("t"), "counted, so that a task that always does this is poison in the end"
    until(lambda: bench.sql("select count(*) from agent_workers where state = 'up'") == [(1,)])
