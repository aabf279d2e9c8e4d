"""Messages to a running agent, with the real Claude CLI: when it takes them, what proves it, and what its model sees."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.support import messages_api
from tests.support.claude import ALLOWED, Bench, a_bench, bash
from tests.support.mailboxes import Told
from tests.support.waiting import until_async
from turbo.domain.outcome import OutcomeKind


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


def queued(bench: Bench) -> int:
    """How many messages, the prompt included, the CLI has, by its own account."""
    return (bench.home / "attempt.log").read_text().count('"state":"queued"')


async def test_message_before_the_start_is_in_the_prompt(bench: Bench) -> None:
    told = Told("not that file")
    outcome = await bench.executor().run(bench.run(messages=told.mailbox))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "hello there")
    (request,) = bench.api.requests
    assert '{"from": "alice", "message": "not that file"}' in request.prompt
    assert request.prompt.index("say hello") < request.prompt.index("not that file")
    assert (told.delivered, outcome.extra["messages"], told.looks) == (["not that file"], 1, 1)


async def test_message_during_a_tool_call_is_taken_in_the_same_turn(bench: Bench) -> None:
    bench.api.answer(bash("echo a > seen; while [ ! -e go ]; do sleep 0.05; done"), messages_api.text("done"))
    told = Told()
    run = bench.run(messages=told.mailbox)
    running = asyncio.ensure_future(bench.executor(**ALLOWED).run(run))
    work = run.work_dir
    await until_async((work / "seen").exists, 30)
    told.say("not that file", "/cost")
    await until_async(lambda: queued(bench) == 2, 30, "the CLI has the prompt, and both messages as one")
    assert told.delivered == []  # the tool still runs
    (work / "go").touch()
    outcome = await running
    assert (outcome.output, outcome.extra["num_turns"]) == ("done", 2)
    assert len(bench.api.requests) == 2
    assert bench.api.requests[1].everything.count("not that file") == 1
    assert told.delivered == ["not that file", "/cost"]


async def test_message_during_the_last_answer_is_the_next_prompt(bench: Bench) -> None:
    hold = threading.Event()
    bench.api.answer(messages_api.text("first"), messages_api.text("second"))
    bench.api.decide = lambda _request: (hold.wait(20), None)[1]
    told = Told()
    running = asyncio.ensure_future(bench.executor().run(bench.run(messages=told.mailbox)))
    await asyncio.to_thread(messages_api.wait_for, bench.api, 1)
    told.say("one more thing")
    await until_async(lambda: queued(bench) == 2, 30, "the CLI has the prompt and the message")
    hold.set()
    outcome = await running
    assert (outcome.output, told.delivered) == ("second", ["one more thing"])
    first, second = bench.api.requests
    assert "one more thing" not in first.everything
    assert "one more thing" in second.prompt
    (used,) = outcome.usage
    assert (used.input_tokens, used.output_tokens) == (22, 14)


async def test_last_look_finds_what_came_in_the_last_moment(bench: Bench) -> None:
    bench.api.answer(messages_api.text("first"), messages_api.text("second"))
    told = Told()
    told.last = ["one more thing"]
    outcome = await bench.executor().run(bench.run(messages=told.mailbox))
    assert (outcome.output, told.delivered, told.looks) == ("second", ["one more thing"], 2)


async def test_message_is_told_again_where_its_session_cannot_go_on(bench: Bench) -> None:
    """The first process of the CLI ends before its agent begins: what it was given goes to the second one."""
    told = Told("not that file", before=["to an earlier run"])
    run = bench.run(messages=told.mailbox, agent_session_id="11111111-2222-4333-8444-555555555555")
    outcome = await bench.executor(resume=True).run(run)
    (request,) = bench.api.requests
    assert request.prompt.index("to an earlier run") < request.prompt.index("not that file")
    assert (outcome.output, told.delivered) == ("hello there", ["to an earlier run", "not that file"])


async def test_resumed_session_is_told_what_is_new(bench: Bench) -> None:
    executor = bench.executor(resume=True)
    first = await executor.run(bench.run(messages=Told("old").mailbox))
    told = Told("new", before=["old"])
    await executor.run(bench.run(messages=told.mailbox, agent_session_id=first.session_id))
    prompt = bench.api.requests[-1].prompt
    assert ("new" in prompt, '"old"' in prompt, told.delivered) == (True, False, ["new"])


async def test_message_waits_for_the_retry_of_an_agent_that_fails(bench: Bench) -> None:
    bench.api.answer(bash("true"), messages_api.error(400, "invalid_request_error", "messages.0: something is wrong"))
    told = Told("hello")
    told.last = ["later"]
    outcome = await bench.executor(**ALLOWED).run(bench.run(messages=told.mailbox))
    assert outcome.kind is OutcomeKind.FAILED
    assert (told.delivered, told.looks) == (["hello"], 0)


async def test_outcome_is_that_of_the_last_turn(bench: Bench) -> None:
    bench.api.answer(messages_api.text("first"), messages_api.error(400, "invalid_request_error", "messages.0: wrong"))
    told = Told()
    told.last = ["one more thing"]
    outcome = await bench.executor().run(bench.run(messages=told.mailbox))
    assert outcome.kind is OutcomeKind.FAILED
    assert "messages.0: wrong" in (outcome.error or "")
    assert (told.delivered, told.mailbox.waiting) == ([], True)
