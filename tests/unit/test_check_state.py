"""What a run leaves of its checks for the next one: kept whole, and believed no more than it must be."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from turbo.domain.check import Baseline, CheckResult, WorkCheck
from turbo.domain.outcome import ModelUsage, Outcome
from turbo.domain.task import Task
from turbo.executors.checks.state import NAME, Known, StateFile

TASK = Task("t", "x", "make it good", {"a": 1}, fencing_token=7, agent_session_id="s")
FAILED = WorkCheck(1, 5, CheckResult.FAILED, "make failed", 2, 1.5, "no file", log="/x", ended_at="2026-01-01")
KNOWN = Known(
    checks=(FAILED, WorkCheck(2, 7, CheckResult.PROTECTED, "changed", protect=("tests/a",))),
    baseline=Baseline(True, 0, 0.5, "fine"),
    done=replace(Outcome.succeeded({"a": "b"}), session_id="s", extra={"model": "m", "num_turns": 3}),
    feedback=None,
    session="s",
    usage=(ModelUsage("m", 1, 2, 3, 4, 0.5),),
    begun=True,
)


def test_next_run_knows_all_of_it(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "logs")
    assert file.read(TASK) is None
    file.write(TASK, KNOWN)
    assert file.read(replace(TASK, fencing_token=9)) == KNOWN
    assert (tmp_path / "logs" / NAME).stat().st_mode & 0o777 == 0o600
    file.remove()
    file.remove()
    assert file.read(TASK) is None


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({"fencing_token": 6}, False),
        ({"task_description": "make it better"}, False),
        ({"input_data": {"a": 2}}, False),
        ({"task_id": "u"}, False),
        ({"agent_session_id": "other"}, False),
        ({"agent_session_id": None}, False),
        ({"agent_session_id": None, "infra_count": 1}, True),
        ({"agent_session_id": "other", "infra_count": 1}, False),
        ({"retry_count": 2}, True),
    ],
)
def test_state_belongs_to_one_text_and_conversation(tmp_path: Path, change: dict[str, Any], used: bool) -> None:
    StateFile(tmp_path).write(TASK, KNOWN)
    assert (StateFile(tmp_path).read(replace(TASK, **change)) is not None) is used


@pytest.mark.parametrize(
    "usage",
    [
        (ModelUsage("m", 1, 2, 3, 4, None),),
        tuple(ModelUsage(f"m{n}", 1, executor="reviewer", account="a") for n in range(100)),
        (ModelUsage("", executor="", account=""),),
    ],
    ids=["no cost", "many models", "empty names"],
)
def test_whatever_runs_have_used_is_known_to_the_next(tmp_path: Path, usage: tuple[ModelUsage, ...]) -> None:
    known = replace(KNOWN, usage=usage)
    StateFile(tmp_path).write(TASK, known)
    assert StateFile(tmp_path).read(TASK) == known


def test_sum_that_is_too_large_costs_no_state(tmp_path: Path) -> None:
    StateFile(tmp_path).write(TASK, replace(KNOWN, usage=(ModelUsage("m", 10**13, cost_usd=1e9),)))
    known = StateFile(tmp_path).read(TASK)
    assert known is not None
    assert known.usage == (ModelUsage("m", 10**12, cost_usd=1e6),)


def test_usage_is_forgotten_by_the_run_that_noted_it(tmp_path: Path) -> None:
    file, later = StateFile(tmp_path), replace(TASK, fencing_token=9)
    file.forget_usage(TASK)
    file.write(TASK, KNOWN)
    file.forget_usage(TASK)
    assert file.read(later) == replace(KNOWN, usage=())
    file.write(later, KNOWN)
    file.forget_usage(TASK)
    assert file.read(later) == KNOWN, "another claim has written it since"


def test_check_that_passed_is_not_taken_over(tmp_path: Path) -> None:
    forged = replace(KNOWN, checks=(FAILED, WorkCheck(2, 7, CheckResult.PASSED)))
    StateFile(tmp_path).write(TASK, forged)
    found = StateFile(tmp_path).read(TASK)
    assert found is not None
    assert found.checks == (FAILED,)


FORGERIES: dict[str, Any] = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "nested": "[" * 100_000,
    "another format": {"format": 2},
    "a huge token": {"token": 2**70},
    "no checks": {"checks": None},
    "many checks": {"checks": [{}] * 2000},
    "a check that is none": {"checks": [3]},
    "a result of its own": {"checks": [{"number": 1, "fencing_token": 1, "result": "brilliant"}]},
    "a token of others": {
        "checks": [
            {
                "number": 1,
                "fencing_token": 99,
                "result": "failed",
                "why": "",
                "seconds": 0.0,
                "output": "",
                "requires": [],
                "protect": [],
            }
        ]
    },
    "usage without bounds": {"usage": [{"model": "m", "input_tokens": 10**15}]},
    "a cost that is none": {"usage": [{"model": "m", "cost_usd": "much"}]},
    "a long session": {"session": "s" * 1000},
    "feedback without end": {"feedback": "x" * 300_000},
    "done without an output": {"done": {"extra": {}}},
}


@pytest.mark.parametrize("way", FORGERIES)
def test_forged_state_counts_as_none(tmp_path: Path, way: str) -> None:
    StateFile(tmp_path).write(TASK, KNOWN)
    forged, path = FORGERIES[way], tmp_path / NAME
    path.write_text(forged if isinstance(forged, str) else json.dumps(json.loads(path.read_text()) | forged))
    assert StateFile(tmp_path).read(TASK) is None


def test_extra_of_an_outcome_is_what_an_agent_has(tmp_path: Path) -> None:
    """Nothing that would stand in the place of another key of output_data."""
    extra = {"model": "m", "check": {"passed": True}, "usage": [], "session_id": "s" * 900, "num_turns": -1}
    done = replace(Outcome.succeeded("x"), session_id="s", extra=extra)
    StateFile(tmp_path).write(TASK, replace(KNOWN, done=done))
    found = StateFile(tmp_path).read(TASK)
    assert found is not None
    assert found.done is not None
    assert found.done.extra == {"model": "m"}


def test_state_that_is_no_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    file = StateFile(tmp_path)
    assert file.read(TASK) is None
    file.write(TASK, KNOWN)
    assert file.read(TASK) == KNOWN, "the FIFO is replaced"
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    file.write(TASK, KNOWN)
    file.remove()
    assert file.read(TASK) is None


def test_state_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.write(TASK, KNOWN)
    file.write(TASK, replace(KNOWN, done=Outcome.succeeded("x" * 17_000_000)))
    assert not (tmp_path / NAME).exists(), "nothing old is left in its place"
