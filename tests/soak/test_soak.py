"""A short soak with a fixed seed; `make soak` is the long one."""

import pytest

from tests.soak.soak import soak


@pytest.mark.timeout(300)
def test_random_faults_lose_nothing_and_repeat_nothing(tmp_path):
    report = soak(tmp_path, tasks=150, faults=30, seed=12, say=print)
    assert not report.complaints, str(report)
    assert sum(report.bites.values()) >= 20, "the faults bit"
    assert {"killed", "session ended", "answer lost"} <= set(report.bites)
    assert report.actions["answered"] >= 10
    assert report.failovers >= 1
    assert report.messages["follow-up"] + report.messages["delivered or closed"] >= 5
    assert report.schedules["added"] >= 1
    assert report.actions["fired"] >= 1, "slots fired: how many depends on when they were paused"
