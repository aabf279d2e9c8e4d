"""What a run leaves of its checks for the next one: kept whole, and believed no more than it must be."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turbo.domain.check import FILES_NAMED, OUTPUT_BYTES, Baseline, CheckResult, WorkCheck
from turbo.domain.outcome import MOST_TOKENS, ModelUsage, Outcome
from turbo.domain.task import Task
from turbo.executors.checks.state import NAME, Known, Noted, StateFile

TASK = Task("t", "x", "make it good", {"a": 1}, fencing_token=7, agent_session_id="s")
FAILED = WorkCheck(1, 5, CheckResult.FAILED, "make failed", 2, 1.5, log="/x", ended_at="2026-01-01")
KNOWN = Known(
    checks=(FAILED, WorkCheck(2, 7, CheckResult.PROTECTED, "changed", output="no file", protect=("tests/a",))),
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
    file.remove(TASK)
    file.remove(TASK)
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
    file.remove(TASK)
    assert file.read(TASK) is None


def test_largest_answer_is_kept(tmp_path: Path) -> None:
    """Two bytes of an agent's line take six in the file. A hundred checks have printed all that is kept of one."""
    checks = tuple(replace(FAILED, number=n + 1, output="\x01" * OUTPUT_BYTES) for n in range(101))
    known = replace(KNOWN, done=replace(Outcome.succeeded("é" * 2**23), session_id="s"), checks=checks)
    file = StateFile(tmp_path)
    assert file.write(TASK, known) is Noted.KEPT
    found = file.read(TASK)
    assert found is not None
    assert found.done is not None
    assert found.done.output == "é" * 2**23
    assert [len(check.output) for check in found.checks] == [0] * 100 + [OUTPUT_BYTES]


def test_answer_that_is_too_large_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = StateFile(tmp_path)
    file.write(TASK, KNOWN)
    assert file.write(TASK, replace(KNOWN, done=Outcome.succeeded("\x01" * 12_000_000))) is Noted.KEPT
    assert file.read(TASK) == replace(KNOWN, done=None), "what was used, and what was checked, are kept"
    assert "its agent begins again" in caplog.text


NAMES = st.text(max_size=300)
USED = st.builds(
    ModelUsage,
    NAMES,
    *[st.integers(0, 3 * MOST_TOKENS)] * 4,
    cost_usd=st.none() | st.floats(0, 3e6) | st.just(float("nan")),
    executor=st.none() | NAMES,
    account=st.none() | NAMES,
)
MADE = st.builds(
    WorkCheck,
    number=st.integers(1, 200),
    fencing_token=st.integers(1, 7),
    result=st.sampled_from([one for one in CheckResult if one is not CheckResult.PASSED]),
    why=st.text(max_size=50),
    exit_code=st.none() | st.integers(-64, 255),
    seconds=st.floats(0, 1e6),
    output=st.text(max_size=50),
    requires=st.lists(st.sampled_from(["commit", "clean"]), max_size=3).map(tuple),
    protect=st.lists(st.text(max_size=50), max_size=FILES_NAMED).map(tuple),
    by=st.none() | NAMES,
    log=st.none() | st.text(max_size=50),
)
ANYTHING = st.builds(
    Known,
    checks=st.lists(MADE, max_size=3).map(tuple),
    baseline=st.none()
    | st.builds(Baseline, st.booleans(), st.none() | st.integers(-64, 255), st.floats(0, 1e6), NAMES),
    done=st.none() | st.builds(Outcome.succeeded, st.none() | NAMES, truncated=st.booleans()),
    feedback=st.none() | NAMES | st.just("x" * 300_000),
    session=st.sampled_from([None, "s"]),
    usage=st.lists(USED, max_size=5).map(tuple) | st.lists(USED, min_size=101, max_size=105).map(tuple),
    begun=st.booleans(),
    rests=st.integers(0, 1000),
)


@settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(known=ANYTHING)
def test_all_that_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, known: Known) -> None:
    file = StateFile(tmp_path_factory.mktemp("logs"))
    file.write(TASK, known)
    found = file.read(TASK)
    assert found is not None
    assert (found.baseline, found.begun, found.rests, found.session) == (
        known.baseline,
        known.begun,
        known.rests,
        known.session,
    )
    assert [replace(check, by=None, output="") for check in found.checks] == [
        replace(check, by=None, output="") for check in known.checks
    ]
    assert [check.output for check in found.checks[-1:]] == [check.output for check in known.checks[-1:]]
    assert (found.done is None, found.feedback is None) == (known.done is None, known.feedback is None)
    most = max((used.input_tokens for used in known.usage), default=0)
    assert max((used.input_tokens for used in found.usage), default=0) >= min(most, MOST_TOKENS)
    if len(known.usage) <= 100 and all(len(used.model) <= 200 for used in known.usage):
        assert [used.model for used in found.usage] == [used.model for used in known.usage]
        unknown = [used.cost_usd is None or used.cost_usd != used.cost_usd for used in known.usage]
        assert [used.cost_usd is None for used in found.usage] == unknown


def test_many_models_are_kept_as_others_of_whose_they_are(tmp_path: Path) -> None:
    own = tuple(ModelUsage(f"m{i}", 1, 2, 3, 4, 0.5) for i in range(150))
    others = tuple(ModelUsage(f"m{i}", 10, cost_usd=None, executor="r", account="a") for i in range(50))
    file = StateFile(tmp_path)
    file.write(TASK, replace(KNOWN, usage=own + others))
    found = file.read(TASK)
    assert found is not None
    assert len(found.usage) <= 100
    for whose, tokens, usd in ((None, 150, 75.0), ("r", 500, 0)):
        mine = [used for used in found.usage if used.executor == whose]
        assert (sum(used.input_tokens for used in mine), sum(used.cost_usd or 0 for used in mine)) == (tokens, usd)
        assert mine[-1].model == "other"
