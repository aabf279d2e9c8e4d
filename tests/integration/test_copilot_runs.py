"""Sessions, messages, answers, the probe and workers of the copilot executor, with the real GitHub Copilot CLI."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import copilot_api, workers
from tests.support.codex_scenarios import left_in
from tests.support.copilot import GITHUB, MODEL, OWN_KEY, CopilotBench, a_copilot_bench
from tests.support.copilot_api import shell, text
from tests.support.mailboxes import Told
from tests.support.prefork import TURBO
from tests.support.waiting import until
from turbo.domain.outcome import ModelUsage, OutcomeKind
from turbo.domain.work import Continued, Earlier
from turbo.executors.agent.answer import in_words
from turbo.executors.agent.prompts import GOES_ON, PREAMBLE, RESUME_PROMPT

ONE_TURN = [ModelUsage(MODEL, 60, 7, 40, 0)]


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CopilotBench]:
    with a_copilot_bench(tmp_path_factory) as bench:
        yield bench


def after(session: str | None) -> dict[str, Any]:
    """The fields of a follow-up of a task that left this session."""
    continued = Continued("t_1", "seven", "t_1", earlier=(Earlier("t_1", "count the sheep", "seven"),))
    return {"task_id": "t_2", "agent_session_id": session, "continued": continued}


async def test_retry_and_follow_up_go_on_with_the_session(bench: CopilotBench) -> None:
    executor = bench.executor(resume=True)
    bench.api.answer(shell("echo first"), copilot_api.error(418, "I am a teapot"))
    first = await bench.do(executor, "count the sheep")
    assert (first.kind, first.session_id) == (OutcomeKind.FAILED, bench.sessions[0])
    assert list(first.usage) == ONE_TURN, "although the run has failed"

    bench.api.answer(text("seven"))
    second = await bench.do(executor, "count the sheep", retry_count=1, agent_session_id=first.session_id)
    assert (second.output, second.session_id) == ("seven", first.session_id)
    assert bench.api.requests[-1].prompt.endswith(RESUME_PROMPT)
    assert "echo first" in bench.api.requests[-1].everything
    assert list(second.usage) == ONE_TURN, "the CLI's own figures are the session's"

    third = await bench.do(executor, "count the goats", **after(second.session_id))
    assert third.session_id == first.session_id
    assert bench.api.requests[-1].prompt.endswith(f"{GOES_ON} {PREAMBLE}\n\ncount the goats")


@pytest.mark.parametrize(
    "session", ["copilot:01a21dfa-9ac1-7b61-8a85-c262bedfcbe5", "codex:01a21dfa-9ac1-7b61-8a85-c262bedfcbe5"]
)
async def test_session_that_is_not_here_begins_anew_in_the_run(bench: CopilotBench, session: str) -> None:
    outcome = await bench.do(bench.executor(resume=True), "count the goats", **after(session))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert bench.sessions == [outcome.session_id]
    assert outcome.session_id not in ("", None, session)
    (request,) = bench.api.requests
    assert f"{PREAMBLE}\n\ncount the goats" in request.prompt
    assert '"task": "count the sheep"' in request.prompt, "it is told of the conversation"


async def test_message_meanwhile_is_the_next_prompt_of_the_session(bench: CopilotBench) -> None:
    told = Told()
    told.last = ["and the goats"]
    outcome = await bench.do(bench.executor(), "count the sheep", messages=told.mailbox)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert "and the goats" in bench.api.requests[-1].prompt
    assert [used.output_tokens for used in outcome.usage] == [14]


async def test_schema_is_in_the_prompt(bench: CopilotBench) -> None:
    words = in_words('{"type": "object"}')
    await bench.do(bench.executor(answer_words=words))
    assert words in bench.api.requests[0].prompt


async def test_probe_is_one_small_request_and_leaves_no_session(bench: CopilotBench) -> None:
    executor = bench.executor()
    outcome = await executor.probe()
    assert (outcome.kind, outcome.output, list(outcome.usage)) == (OutcomeKind.SUCCEEDED, "hello there", ONE_TURN)
    (request,) = bench.api.requests
    assert not request.body.get("tools")
    assert list((bench.home / ".copilot" / "session-state").glob("[0-9a-f]*-*")) == []
    bench.api.answer(copilot_api.error(401, "Incorrect API key"))
    assert (await executor.probe()).kind is OutcomeKind.AUTH_FAILED


async def test_doctor_learns_the_version_and_the_login(bench: CopilotBench) -> None:
    version = await bench.executor().version()
    assert version is not None
    assert version[0].isdigit()
    nowhere = {"COPILOT_PROVIDER_BASE_URL": ""}
    assert await bench.executor().logged_in() is True
    assert await bench.executor(GITHUB, env=nowhere).logged_in() is True
    assert await bench.executor({}, env=nowhere).logged_in() is None
    (bench.home / ".copilot").mkdir(exist_ok=True)
    (bench.home / ".copilot" / "config.json").write_text('// managed\n{"loggedInUsers": [{"login": "me"}]}')
    assert await bench.executor({}, env=nowhere).logged_in() is True


def test_killed_worker_leaves_no_process_and_the_task_goes_on(dsn: str, tmp_path: Path, bench: CopilotBench) -> None:
    """And what the agent said is stored without secrets, and shown by `turbo logs`."""
    (secret,) = OWN_KEY.values()
    with workers.bench(dsn, tmp_path) as fleet:
        config = bench.config(fleet, poll_seconds=0.5, resume=True)
        bench.api.answer(shell("sleep 300"), copilot_api.silent())
        worker = fleet.start(config).listening()
        fleet.sql(
            "insert into agent_tasks (task_id, task_description, timeout_seconds) values ('t', 'count the sheep', 100)"
        )
        until(lambda: any(one.info["name"] == "sleep" for one in left_in(worker.state_dir)), 60, fleet.logs)
        worker.kill(signal.SIGKILL)
        until(lambda: left_in(worker.state_dir) == [], 30, what="no process left")

        bench.api.answer(shell(f"echo {secret}; false"), text(f"all is done, and {secret}"))
        fleet.start(config).listening()
        row = fleet.wait("t", seconds=90)
        assert row["agent_session_id"].startswith("copilot:")
        assert (row["output_data"]["output"][:11], row["retry_count"]) == ("all is done", 0)
        end = """
            select 1 from agent_transcripts group by fencing_token
            having bool_or(lines like '%%all is done%%') and bool_or(lines like '%%turbo_end%%')"""
        until(lambda: fleet.sql(end) == [(1,)], 20, what="the end of the transcript")
        stored = "".join(lines for (lines,) in fleet.sql("select lines from agent_transcripts order by batch"))
        assert secret not in stored
        assert "assistant.message_delta" not in stored
        shown = subprocess.run(
            [sys.executable, str(TURBO), "logs", "t", "--dsn", dsn], check=True, capture_output=True, text=True
        ).stdout
        for part in ("* bash  echo", "  ! ", "all is done, and", "-- the CLI ends, exit code 0"):
            assert part in shown, shown
        assert "session.tools_updated" not in shown


def test_limit_pauses_the_account_that_copilot_uses(dsn: str, tmp_path: Path, bench: CopilotBench) -> None:
    with workers.bench(dsn, tmp_path) as fleet:
        bench.api.answer(copilot_api.error(402, "You have exceeded your quota", "quota_exceeded"))
        config = bench.config(fleet, poll_seconds=0.5, env=bench.scrubbed(github=True))
        bench.login(GITHUB)
        fleet.start(config).listening()
        fleet.insert("t", max_retries=0)
        query = "select reason from agent_accounts where account = 'octo' and state = 'paused'"
        until(lambda: fleet.sql(query) == [("usage_limit",)], 60, fleet.logs)
        assert fleet.wait("t", "pending")["retry_count"] == 0
