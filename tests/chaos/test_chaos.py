"""The short form of `make chaos`: one round of every fault, and two controls. Throughput is judged in the long form only."""

import pytest

from tests.chaos.faults import FAULTS, Fault, possible
from tests.chaos.scenario import measure


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_nothing_is_lost_or_recorded_twice_and_the_fleet_comes_back(fault, tmp_path):
    if not possible(fault):
        pytest.skip("mounting a small disk needs root")
    measured = measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0)
    assert measured.complaints(ratio=None) == [], measured
    if "worker" not in fault.name:
        assert measured.repeated == 0, measured


def named(name: str) -> Fault:
    return next(f for f in FAULTS if f.name == name)


def test_without_the_spool_the_same_is_done_twice(tmp_path):
    """The control: what ended while the database was away is forgotten with its worker."""
    fault = named("database away, then its workers killed")
    assert measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0, without=["spool"]).repeated > 0


def test_without_the_fence_a_late_result_is_recorded_beside_the_first(tmp_path):
    """The control."""
    fault = named("worker SIGSTOP past its lease")
    measured = measure(fault, tmp_path, rounds=1, window=1.5, seconds=2.0, without=["fence", "lost_lease"])
    assert measured.recorded_twice > 0
