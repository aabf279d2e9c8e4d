"""The short form of `make chaos`: one round of every fault, and two controls. Throughput is judged in the long form only."""

import pytest

from tests.chaos.faults import FAULTS, Fault, possible
from tests.chaos.scenario import measure


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_every_fault_loses_nothing_and_records_nothing_twice(fault, tmp_path):
    if not possible(fault):
        pytest.skip("mounting a small disk needs root")
    measured = measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0)
    assert measured.complaints(ratio=None) == [], measured
    # A crash forgets claims: a worker that is back too late for the others' wait is taken by surprise (reliability.md).
    if not fault.name.startswith(("worker", "crash")):
        assert measured.repeated == 0, measured


def named(name: str) -> Fault:
    return next(f for f in FAULTS if f.name == name)


def test_without_the_spool_tasks_run_twice(tmp_path):
    """The control: what ended while the database was away is forgotten with its worker."""
    fault = named("database away, then its workers killed")
    assert measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0, without=["spool"]).repeated > 0


def test_without_the_fence_a_late_result_is_recorded_twice(tmp_path):
    """The control."""
    fault = named("worker SIGSTOP past its lease")
    measured = measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0, without=["fence", "lost_lease"])
    assert measured.recorded_twice > 0
