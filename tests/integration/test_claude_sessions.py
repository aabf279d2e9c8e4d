"""Sessions and turns of the claude executor, with the real Claude CLI."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.claude import ALLOWED, Bench, a_bench, bash
from tests.support.waiting import until_async
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.states import StopCause


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def tried(outcome: Outcome, session: str | None = None) -> dict[str, Any]:
    """The fields of a task that has been tried once."""
    return {"retry_count": 1, "agent_session_id": session or outcome.session_id}


ODD_ERROR = messages_api.error(418, "api_error", "I am a teapot")


async def test_retry_resumes_the_session_and_counts_only_its_own_cost(bench: Bench) -> None:
    executor = bench.executor(resume=True, **ALLOWED)
    bench.api.answer(bash("echo first"), ODD_ERROR)
    first = await bench.do(executor, "count the sheep")
    assert (first.kind, first.session_id) == (OutcomeKind.FAILED, bench.sessions[0])

    bench.api.answer(messages_api.text("seven"))
    second = await bench.do(executor, "count the sheep", **tried(first))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "seven", first.session_id)
    conversation = bench.api.requests[-1].everything
    assert conversation.count("count the sheep") == 1
    assert "echo first" in conversation
    assert [(u.input_tokens, u.output_tokens) for u in second.usage] == [(11, 7)]


async def test_without_resume_every_attempt_starts_a_session(bench: Bench) -> None:
    executor = bench.executor()
    first = await bench.do(executor)
    second = await bench.do(executor, **tried(first))
    assert bench.sessions == [first.session_id, second.session_id]
    assert first.session_id != second.session_id


@pytest.mark.parametrize("session", ["11111111-1111-4111-8111-111111111111", "not a session; --model opus"])
async def test_session_missing_on_this_host_is_replaced_in_the_run(bench: Bench, session: str) -> None:
    outcome = await bench.do(bench.executor(resume=True), "count the sheep", agent_session_id=session, retry_count=1)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert bench.sessions == [outcome.session_id]
    assert outcome.session_id != session
    assert bench.api.requests[0].prompt.endswith("count the sheep")


def a_directory(file: Path) -> None:
    """Failed to resume session: EISDIR."""
    file.unlink()
    file.mkdir()


def emptied(file: Path) -> None:
    """No conversation found with session ID."""
    file.write_text("")


@pytest.mark.parametrize("damage", [a_directory, emptied])
async def test_session_that_cannot_be_resumed_starts_over(
    bench: Bench, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "turbo")
    executor = bench.executor(resume=True)
    first = await bench.do(executor, "count the sheep")
    (file,) = bench.home.glob(".claude/projects/*/*.jsonl")
    damage(file)
    bench.api.answer(messages_api.text("seven"))
    second = await bench.do(executor, "count the sheep", **tried(first))
    assert (second.kind, second.output) == (OutcomeKind.SUCCEEDED, "seven")
    assert second.session_id != first.session_id
    assert bench.api.requests[-1].prompt.endswith("count the sheep")
    assert f"cannot resume session {first.session_id}" in caplog.text


async def test_session_that_hangs_at_its_start_is_not_resumed_again(bench: Bench) -> None:
    executor = bench.executor(resume=True)
    first = await bench.do(executor)
    (file,) = bench.home.glob(".claude/projects/*/*.jsonl")
    file.unlink()
    os.mkfifo(file)
    second = await bench.do(executor, timeout_seconds=3.0, **tried(first))
    assert (second.kind, second.session_id) == (OutcomeKind.TIMED_OUT, "")
    assert bench.sessions[-1] == ""


async def test_refused_history_is_not_resumed_and_not_final(bench: Bench) -> None:
    """The prompt was answered once: it is the conversation that the service does not take."""
    executor = bench.executor(resume=True)
    first = await bench.do(executor)
    bench.api.answer(messages_api.error(400, "invalid_request_error", "messages.1: something is wrong"))
    second = await bench.do(executor, **tried(first))
    assert (second.kind, second.final, second.session_id) == (OutcomeKind.FAILED, False, "")
    assert second.extra["situation"] == "conversation refused (400)"
    bench.api.answer(
        messages_api.error(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
    )
    third = await bench.do(executor, **tried(first))
    assert (third.kind, third.final, third.session_id) == (OutcomeKind.FAILED, False, "")


async def test_refused_session_is_not_offered_to_the_next_attempt(bench: Bench) -> None:
    bench.api.answer(messages_api.refusal())
    outcome = await bench.do(bench.executor(resume=True))
    assert outcome.session_id == ""  # the row forgets the one it had
    assert bench.sessions[-1] == ""


async def test_session_id_is_reported_while_the_agent_works(bench: Bench) -> None:
    bench.api.answer(messages_api.silent())
    run = bench.run()
    job = asyncio.create_task(bench.executor(resume=True).run(run))
    await until_async(lambda: bool(bench.sessions))
    assert not job.done()
    run.stop.set(StopCause.DRAIN)
    outcome = await job
    assert (outcome.kind, outcome.session_id) == (OutcomeKind.CANCELLED, bench.sessions[0])


async def test_killed_run_is_resumed(bench: Bench) -> None:
    executor = bench.executor(resume=True, **ALLOWED)
    bench.api.answer(bash("echo first"), messages_api.silent())
    run = bench.run("count the sheep")
    job = asyncio.create_task(executor.run(run))
    # The CLI writes its conversation down with a delay; what is killed before that is begun anew.
    await until_async(
        lambda: any("tool_result" in f.read_text() for f in bench.home.glob(".claude/projects/*/*.jsonl"))
    )
    await until_async(lambda: len(bench.api.requests) == 2)
    os.kill(bench.pids[0], signal.SIGKILL)
    killed = await job
    bench.api.answer(messages_api.text("seven"))
    again = await bench.do(executor, "count the sheep", **tried(killed))
    assert (again.output, again.session_id) == ("seven", killed.session_id)
    assert "echo first" in bench.api.requests[-1].everything


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_agent_answers_after_its_background_task_ends(bench: Bench) -> None:
    """Several results: after the first the CLI waits for the task, whose end begins another turn. That one may take
    longer than the CLI may stay after a result."""
    bench.api.answer(
        bash("sleep 1; echo over", run_in_background=True),
        messages_api.text("waiting"),
        bash("sleep 3"),
        messages_api.text("it is over"),
    )
    executor = bench.executor(**ALLOWED, env={"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}, leave_seconds=3.0)
    outcome = await bench.do(executor)
    assert outcome.output == "it is over"
    assert sum(u.output_tokens for u in outcome.usage) == 20 + 7 + 20 + 7


async def test_denied_tool_is_counted_and_fails_nothing(bench: Bench) -> None:
    bench.api.answer(bash("touch made.txt"), messages_api.text("could not"))
    outcome = await bench.do(bench.executor())
    assert (outcome.kind, outcome.extra["permission_denials"]) == (OutcomeKind.SUCCEEDED, 1)
    assert not (bench.home / "work" / "made.txt").exists()


async def test_empty_answer_is_a_success(bench: Bench) -> None:
    bench.api.answer(messages_api.text(""))
    outcome = await bench.do(bench.executor())
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "")


async def test_cli_is_ended_while_it_retries_a_refused_login(bench: Bench) -> None:
    """With ten retries a wrong key would take 187 s."""
    bench.api.answer(messages_api.invalid_key())
    outcome = await bench.do(bench.executor(cli_max_retries=10))
    assert outcome.kind is OutcomeKind.AUTH_FAILED
    assert len(bench.api.requests) < 5


async def test_single_401_that_passes_ends_nothing(bench: Bench) -> None:
    """A stored login may be renewed between the first refusal and the next request."""
    bench.api.answer(messages_api.invalid_key(), messages_api.text("hello there"))
    outcome = await bench.do(bench.executor(cli_max_retries=10))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "hello there")
