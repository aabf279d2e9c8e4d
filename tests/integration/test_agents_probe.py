"""`turbo agents probe`: what it finds out about a scripted agent, and the profile that it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.acp import command_of
from tests.support.prefork import TURBO
from turbo.config.worker import load_worker_config
from turbo.executors.acp.executor import AcpExecutor
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal


def probed(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TURBO), "agents", "probe", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_probe_tells_what_an_agent_can_and_prints_its_profile(tmp_path: Path) -> None:
    """The configuration takes what is printed as it is."""
    done = probed(*command_of("heeds cancel after hello", tmp_path))
    assert done.returncode == 0, done.stderr
    for line in (
        "scripted 1.2.3, protocol 1",
        "says load, resume; resume works, load works",
        "error -32002 'Resource not found'",
        "error -32601 'Method not found'",
        "set_mode: ask, plan",
        "end_turn, 'hello there'",
        "usage            result",
        "heeded after 0.",
        "ends it",
    ):
        assert line in done.stderr
    file = tmp_path / "worker.yaml"
    file.write_text(done.stdout)
    config = load_worker_config(file)
    executor = build_executors(config, Journal(tmp_path / "journal"))["scripted"]
    assert isinstance(executor, AcpExecutor)
    assert executor.session_kind == "acp:scripted"
    received = [json.loads(line) for line in (tmp_path / "received.jsonl").read_text().splitlines()]
    assert [one["params"]["modeId"] for one in received if one["method"] == "session/set_mode"] == [
        "turbo-no-such-mode"
    ]


def test_probe_without_prompts_sends_none(tmp_path: Path) -> None:
    done = probed("--no-prompt", "--json", *command_of("hello", tmp_path))
    found = json.loads(done.stdout)
    assert (found["found"]["reason"], found["profile"]["resume"]) == (None, "resume")
    assert "session/prompt" not in (tmp_path / "received.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["exits"], 1, "no such flag"),
        (["another version"], 1, "it speaks version 2 of the protocol; turbo speaks version 1"),
        (["no login"], 1, "it refused session/new: Authentication required"),
        (["no id"], 1, "session/new answers without a sessionId"),
    ],
)
def test_probe_of_an_agent_that_cannot_is_one_clear_problem(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    done = probed(*command_of(words[0], tmp_path))
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_probe_of_no_program_says_so() -> None:
    done = probed("no-such-agent-here", "acp")
    assert done.returncode == 2
    assert "not found on the PATH" in done.stderr
