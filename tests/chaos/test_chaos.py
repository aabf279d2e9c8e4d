"""The short form of `make chaos`: every fault once, several to one fleet, and two controls.

Throughput is judged in the long form only, which gives each fault a fleet and several rounds.
"""

import os

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.scenario import measure

WINDOW, SECONDS = 1.0, 2.0

TOGETHER = {
    "server": ["restart (fast)", "server frozen (SIGSTOP)", "connections exhausted, turbo's ended",
               "database away, then its workers killed"],
    "sessions": ["all of turbo's backends killed, once", "all of turbo's backends killed, twice a second",
                 "idle in transaction, holding rows", "long readers (held xmin)", "insert burst",
                 "rows refused in claim and promotion"],
    "network": ["network delays 50 ms each way", "network drops everything", "connections half open",
                "connections cut, twice a second"],
    "disk": ["disk full"],
    "dependencies": ["git host away"],
    "crashes": ["crash (immediate) and recovery", "worker crash (SIGABRT)", "worker SIGKILL",
                "worker SIGSTOP past its lease", "a worker's event loop stands still",
                "a row refused in rescue and start-up"],
}  # fmt: skip


def named(*names: str) -> list[Fault]:
    return [next(f for f in FAULTS if f.name == name) for name in names]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", TOGETHER)
def test_faults_lose_nothing_and_record_nothing_twice(group, tmp_path):
    if group == "disk" and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    measured = measure(group, named(*TOGETHER[group]), tmp_path, window=WINDOW, seconds=SECONDS)
    assert measured.complaints(ratio=None) == [], measured
    # A crash forgets claims: a worker that is back too late for the others' wait is taken by surprise (reliability.md).
    if group != "crashes":
        assert measured.repeated == 0, measured


def test_every_fault_is_in_one_group():
    assert sorted(f.name for f in FAULTS) == sorted(name for names in TOGETHER.values() for name in names)


def test_without_the_spool_tasks_run_twice(tmp_path):
    """The control: what ended while the database was away is forgotten with its worker."""
    fault = named("database away, then its workers killed")
    assert measure("control", fault, tmp_path, window=WINDOW, seconds=SECONDS, without=["spool"]).repeated > 0


def test_without_the_rule_a_git_host_away_fails_tasks(tmp_path):
    """The control."""
    with pytest.raises(AssertionError, match="lost an attempt"):
        measure("control", named("git host away"), tmp_path, window=WINDOW, seconds=SECONDS, without=["unavailable"])


def test_without_the_fence_a_late_result_is_recorded_twice(tmp_path):
    """The control."""
    fault = named("worker SIGSTOP past its lease")
    without = ["fence", "lost_lease"]
    assert measure("control", fault, tmp_path, window=WINDOW, seconds=SECONDS, without=without).recorded_twice > 0
