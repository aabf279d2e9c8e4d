"""Agents over ACP with real workers: kills, drains, people who approve, and transcripts."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import workers
from tests.support.acp import SCRIPTED, command_of
from tests.support.acp_real import an_opencode_bench
from tests.support.codex_scenarios import left_in
from tests.support.completions_api import call, silent
from tests.support.prefork import TURBO
from tests.support.waiting import until


def config_of(bench: workers.Bench, scenario: str, home: Path, **executor: Any) -> dict[str, Any]:
    config = bench.config(slots=2, poll_seconds=0.5)
    config["executors"]["agent"] = {
        "kind": "acp",
        "command": command_of(scenario, home),
        "profile": SCRIPTED,
        "resume": True,
        **executor,
    }
    config["routes"]["default"] = "agent"
    config["worker"]["drain_seconds"] = 0
    return config


@pytest.mark.parametrize("scenario", ["heeds cancel", "ignores cancel"])
def test_killed_worker_leaves_no_scripted_agent(dsn: str, tmp_path: Path, scenario: str) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        worker = bench.start(config_of(bench, scenario, tmp_path)).listening()
        bench.insert("t", timeout_seconds=100)
        until((tmp_path / "begun").exists, 60, bench.logs)
        assert left_in(worker.state_dir) != [], "the control: it is seen"
        worker.kill(signal.SIGKILL)
        until(lambda: left_in(worker.state_dir) == [], 30, what="no process left")
        bench.start(config_of(bench, "hello", tmp_path)).listening()
        row = bench.wait("t", seconds=60)
        assert (row["output_data"]["output"], row["retry_count"]) == ("hello there", 0)


def test_killed_worker_leaves_no_opencode_and_no_tool(dsn: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with workers.bench(dsn, tmp_path) as bench, an_opencode_bench(home) as agent:
        agent.api.answer(call("bash", {"command": "sleep 300", "description": "wait"}), silent())
        worker = bench.start(agent.config(bench)).listening()
        bench.insert("t", timeout_seconds=150)
        until(lambda: any(one.info["name"] == "sleep" for one in left_in(worker.state_dir)), 150, bench.logs)
        worker.kill(signal.SIGKILL)
        until(lambda: left_in(worker.state_dir) == [], 30, what="no process left")


def test_drained_run_goes_on_with_its_session(dsn: str, tmp_path: Path) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        worker = bench.start(config_of(bench, "heeds cancel", tmp_path)).listening()
        bench.insert("t", timeout_seconds=100)
        until((tmp_path / "begun").exists, 60, bench.logs)
        assert worker.stop() == 0
        session = bench.row("t")["agent_session_id"]
        assert session.startswith("acp:scripted:")
        bench.start(config_of(bench, "hello", tmp_path)).listening()
        row = bench.wait("t", seconds=60)
        assert (row["agent_session_id"], row["retry_count"]) == (session, 0)


def test_person_approves_a_call_and_logs_show_the_conversation(dsn: str, tmp_path: Path) -> None:
    """The task waits without a slot; the answer reaches the session that asked; the transcript has it all."""
    with workers.bench(dsn, tmp_path) as bench:
        asks = {"ask": {"approve": ["Bash(git push *)"]}, "permissions": {"execute": "allow"}}
        bench.start(config_of(bench, "push", tmp_path, **asks)).listening()
        bench.insert("t", timeout_seconds=100)
        row = bench.wait("t", "waiting", seconds=60)
        assert (row["question"]["kind"], row["question"]["tool"]) == ("approval", "Bash")
        assert list(tmp_path.glob("pushed-*")) == []
        bench.sql("update agent_tasks set answer = 'yes' where task_id = 't'")
        done = bench.wait("t", seconds=60)
        assert (done["output_data"]["output"], done["retry_count"]) == ("pushed", 0)
        assert done["agent_session_id"] == row["agent_session_id"]
        assert len(list(tmp_path.glob("pushed-*"))) == 1

        until(
            lambda: len(bench.sql("select 1 from agent_transcripts where lines like '%%turbo_end%%'")) == 2,
            20,
            what="the end of both transcripts",
        )
        batches = bench.sql("select lines from agent_transcripts order by fencing_token, batch")
        stored = [json.loads(line) for (lines,) in batches for line in lines.splitlines()]
        assert [row["type"] for row in stored if str(row.get("type")).startswith("turbo.")] == [
            "turbo.prompt",
            "turbo.prompt",
            "turbo.said",
        ]
        words = [sys.executable, str(TURBO), "logs", "t", "--dsn", dsn]
        shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert "pushed" in shown
        assert "session/update" not in shown
