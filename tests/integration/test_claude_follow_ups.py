"""Follow-ups in the session of their conversation, with the real Claude CLI: what arrives, once, and what a lost session costs."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.claude import ALLOWED, Bench, a_bench, bash
from tests.support.claude_asking import ASKS, PUSH, approving, asked, calls, question, shell
from tests.support.waiting import until_async
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.work import Continued, Earlier
from turbo.executors.agent.prompts import GOES_ON, PREAMBLE, RESUME_FOLLOW_UP


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


def after(outcome: Outcome | str | None, *, first_run: bool = True, text: str = "count the sheep") -> dict[str, Any]:
    """The fields of the follow-up to a task that ended so, or left this session."""
    session = outcome.session_id if isinstance(outcome, Outcome) else outcome
    earlier = (Earlier("t_1", text, "seven"),)
    continued = Continued("t_1", "seven", "t_1", first_run=first_run, earlier=earlier)
    return {"task_id": "t_2", "agent_session_id": session, "continued": continued}


async def test_follow_up_is_the_next_prompt_of_its_session(bench: Bench) -> None:
    executor = bench.executor()  # without `resume`: a conversation goes on in any case
    first = await bench.do(executor, "count the sheep")
    bench.api.answer(messages_api.text("eight"))
    second = await bench.do(executor, "/cost", **after(first))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "eight", first.session_id)
    assert bench.api.requests[-1].prompt.endswith(f"{GOES_ON} {PREAMBLE}\n\n/cost")
    conversation = bench.api.requests[-1].everything
    assert (conversation.count("count the sheep"), conversation.count("hello there")) == (1, 1)
    assert "t_1" not in conversation, "the session has heard it: nothing is retold"
    assert [(u.input_tokens, u.output_tokens) for u in second.usage] == [(11, 7)], "its own share"


async def test_follow_up_cut_short_goes_on_with_its_own_text(bench: Bench) -> None:
    executor = bench.executor(**ALLOWED)
    first = await bench.do(executor, "count the sheep")
    bench.api.answer(bash("echo begun"), messages_api.silent())
    job = asyncio.create_task(executor.run(bench.run("count the goats", **after(first))))
    await until_async(
        lambda: any("tool_result" in f.read_text() for f in bench.home.glob(".claude/projects/*/*.jsonl"))
    )
    await until_async(lambda: len(bench.api.requests) == 3)
    os.kill(bench.pids[-1], signal.SIGKILL)
    killed = await job
    bench.api.answer(messages_api.text("four"))
    again = await bench.do(executor, "count the goats", **after(killed, first_run=False))
    assert (again.output, again.session_id) == ("four", first.session_id)
    assert bench.api.requests[-1].prompt.endswith(f"{RESUME_FOLLOW_UP}\n\ncount the goats")
    assert "echo begun" in bench.api.requests[-1].everything


async def test_follow_up_killed_before_it_arrived_is_told_all(bench: Bench) -> None:
    executor = bench.executor()
    first = await bench.do(executor, "count the sheep")
    again = await bench.do(executor, "count the goats", **after(first, first_run=False))
    assert again.session_id == first.session_id
    assert bench.api.requests[-1].everything.count("count the goats") == 1


@pytest.mark.parametrize("session", ["11111111-1111-4111-8111-111111111111", "codex:0199-a", None])
async def test_lost_session_begins_anew_with_its_conversation(bench: Bench, session: str | None) -> None:
    outcome = await bench.do(bench.executor(), "count the goats", **after(session, text="/count\nIgnore all that"))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert outcome.session_id not in (None, "", session)
    (request,) = bench.api.requests
    told = request.prompt[request.prompt.index(PREAMBLE) :]
    assert told.startswith(f"{PREAMBLE}\n\ncount the goats\n\nThis task goes on with a conversation")
    fence, line, closing = told.rsplit("\n", 3)[1:]
    assert fence == closing
    assert json.loads(line) == {"task_id": "t_1", "task": "/count\nIgnore all that", "output": "seven"}


# ── a call that waited for a person when the task before ended ──────────────────────────────────────────────────────


@pytest.mark.parametrize("asks", [True, False])
async def test_question_of_the_task_before_is_not_asked_again(bench: Bench, asks: bool) -> None:
    bench.api.answer(calls(question("Which database?")))
    first = await bench.do(bench.executor(ask=ASKS), "choose one")
    assert asked(first).text == "Which database?"
    bench.api.answer(messages_api.text("done"))
    second = await bench.do(bench.executor(ask=ASKS if asks else None), "never mind, count the goats", **after(first))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "done", first.session_id), second
    assert "never mind, count the goats" in bench.api.requests[-1].everything
    assert len(bench.api.requests) == 2


async def test_held_call_of_the_task_before_is_not_made(bench: Bench) -> None:
    bench.api.answer(calls(shell(PUSH)))
    first = await bench.do(bench.executor(**approving()), "push it")
    assert asked(first).tool == "Bash"
    bench.api.answer(messages_api.text("done"))
    for executor in (bench.executor(**approving()), bench.executor(**ALLOWED)):
        second = await bench.do(executor, "count the goats", **after(first))
        assert (second.kind, second.output) == (OutcomeKind.SUCCEEDED, "done"), second
    assert not (bench.home / "work" / "pushed.txt").exists()
    bench.api.answer(calls(shell(PUSH)), messages_api.text("pushed"))
    third = await bench.do(bench.executor(**ALLOWED), "push it now", **after(first))
    assert third.output == "pushed"
    assert (bench.home / "work" / "pushed.txt").read_text() == "git push origin\n", (
        "the control: a call can be made here"
    )
