"""Checked work with the real Claude CLI: what goes back into the conversation, what it costs, and what ends it."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support import messages_api
from tests.support.checks import check_of, checks, results
from tests.support.claude import ALLOWED, Bench, a_bench, bash
from tests.support.claude_asking import ASKS, answered, asked, calls, question
from tests.support.mailboxes import Told
from tests.support.waiting import until_async
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.states import StopCause

SAYS_WHY = "[ -e good ] || { echo 'no file named good'; exit 3; }"


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


async def test_second_turn_passes_in_the_same_conversation(bench: Bench) -> None:
    bench.api.answer(messages_api.text("done"), bash("touch good"), messages_api.text("now it is"))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), **ALLOWED)
    outcome = await bench.do(executor, "make it good")
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "now it is"), outcome
    assert results(outcome) == ["failed", "passed"]
    assert (check_of(outcome)["passed"], check_of(outcome)["rounds"], check_of(outcome)["exit_code"]) == (True, 2, 0)
    assert set(bench.sessions) == {outcome.session_id}, "one conversation"
    conversation = bench.api.requests[-1].everything
    assert (conversation.count("make it good"), conversation.count("no file named good")) == (1, 1)
    prompt = bench.api.requests[1].prompt
    told = prompt[prompt.index("Your work on the task was checked") :]
    fence = told.split("\n\n")[1].split("\n")[0]
    assert told.split(fence)[2].strip().endswith("failed with exit code 3\n\nno file named good")
    assert [(u.input_tokens, u.output_tokens) for u in outcome.usage] == [(33, 34)], "each turn once"
    assert outcome.usage[0].cost_usd > 0
    assert "failed with exit code 3" in outcome.checked.checks[0].why  # type: ignore[union-attr]
    assert (bench.home / "attempt.check1.log").read_text() == "no file named good\n"
    assert not (bench.home / "check.json").exists()
    assert any(p.text.startswith(f"check 2 of 4: sh {bench.home}") for p in bench.progress)


async def test_work_that_never_passes_is_unverified(bench: Bench) -> None:
    bench.api.answer(messages_api.text("done"))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY, rounds=1))
    outcome = await bench.do(executor, "make it good")
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.UNVERIFIED, True)
    assert (
        outcome.error == f"not verified: check 2: sh {bench.home}/check.sh failed with exit code 3: no file named good"
    )
    assert (outcome.output, results(outcome), len(bench.api.requests)) == ("done", ["failed", "failed"], 2)
    assert not (bench.home / "check.json").exists()


async def test_message_during_the_check_is_the_next_prompt(bench: Bench) -> None:
    bench.api.answer(messages_api.text("done"), messages_api.text("that too"))
    told = Told()
    hold = "touch began; while [ ! -e go ]; do sleep 0.05; done"
    running = asyncio.ensure_future(
        bench.executor(checks=checks(bench.home, hold)).run(bench.run("make it good", messages=told.mailbox))
    )
    work = bench.home / "work"
    await until_async((work / "began").exists)
    told.say("and this, too")
    (work / "go").touch()
    outcome = await running
    assert (outcome.kind, outcome.output, told.delivered) == (OutcomeKind.SUCCEEDED, "that too", ["and this, too"])
    assert results(outcome) == ["passed", "passed"]
    assert "and this, too" in bench.api.requests[1].prompt
    assert "Your work on the task was checked" not in bench.api.requests[1].prompt


async def test_cut_off_check_goes_straight_to_the_check(bench: Bench) -> None:
    """A drain during the check; then the next run of the same task."""
    bench.api.answer(messages_api.text("done"))
    hold = "echo $$ >> began; while [ ! -e go ]; do sleep 0.05; done"
    executor = bench.executor(checks=checks(bench.home, hold))
    run = bench.run("make it good", fencing_token=1)
    running = asyncio.ensure_future(executor.run(run))
    work = bench.home / "work"
    await until_async((work / "began").exists)
    run.stop.set(StopCause.DRAIN)
    drained = await running
    assert drained.kind is OutcomeKind.CANCELLED
    assert [(u.input_tokens, u.output_tokens) for u in drained.usage] == [(11, 7)], "its own share, for the ledger"
    (work / "go").touch()
    outcome = await bench.do(executor, "make it good", agent_session_id=drained.session_id, fencing_token=3)
    assert (outcome.kind, outcome.output, outcome.session_id) == (OutcomeKind.SUCCEEDED, "done", drained.session_id)
    assert len(bench.api.requests) == 1, "the agent was done"
    assert outcome.usage == (), "told by the run that used it"
    assert len((work / "began").read_text().split()) == 2
    again = await bench.do(executor, "make it good", agent_session_id=drained.session_id, fencing_token=4)
    assert (again.kind, len(bench.api.requests)) == (OutcomeKind.SUCCEEDED, 2), "the control: a verdict ends that"


async def test_turn_that_is_cut_off_hears_its_feedback_again(bench: Bench) -> None:
    """A usage limit in the second turn: the next run resumes the conversation, although `resume` is off."""
    bench.api.answer(messages_api.text("done"), messages_api.error(529, "overloaded_error", "Overloaded"))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), **ALLOWED)
    first = await bench.do(executor, "make it good", fencing_token=1)
    assert (first.kind, results(first), check_of(first)["passed"]) == (OutcomeKind.UNAVAILABLE, ["failed"], False)
    assert [(u.input_tokens, u.output_tokens) for u in first.usage][:1] == [(11, 7)]
    bench.api.answer(bash("touch good"), messages_api.text("now it is"))
    second = await bench.do(executor, "make it good", agent_session_id=first.session_id, fencing_token=2)
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "now it is", first.session_id)
    assert results(second) == ["failed", "passed"]
    assert "no file named good" in bench.api.requests[-1].everything
    assert sum(u.input_tokens for u in second.usage) == 22, "its own share"


async def test_lost_conversation_begins_anew_with_the_feedback(bench: Bench) -> None:
    bench.api.answer(messages_api.text("done"), messages_api.error(529, "overloaded_error", "Overloaded"))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), **ALLOWED)
    first = await bench.do(executor, "make it good", fencing_token=1)
    for transcript in bench.home.glob(".claude/projects/*/*.jsonl"):
        transcript.unlink()
    bench.api.answer(bash("touch good"), messages_api.text("now it is"))
    second = await bench.do(executor, "make it good", agent_session_id=first.session_id, fencing_token=2)
    assert (second.kind, results(second)) == (OutcomeKind.SUCCEEDED, ["failed", "passed"])
    told = bench.api.requests[2].everything
    assert (told.count("make it good"), told.count("no file named good")) == (1, 1)


async def test_question_in_the_second_turn_keeps_the_checks(bench: Bench) -> None:
    bench.api.answer(messages_api.text("done"), calls(question("Which file?")))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), ask=ASKS)
    outcome = await bench.do(executor, "make it good", fencing_token=1)
    assert (asked(outcome).text, results(outcome)) == ("Which file?", ["failed"])
    assert (bench.home / "check.json").exists()
    bench.api.answer(bash("touch good"), messages_api.text("that one"))
    again = bench.executor(checks=checks(bench.home, SAYS_WHY), ask=ASKS, **ALLOWED)
    after = await bench.do(again, "make it good", fencing_token=2, **answered(outcome, "good"))
    assert (after.kind, after.output, after.session_id) == (OutcomeKind.SUCCEEDED, "that one", outcome.session_id)
    assert results(after) == ["failed", "passed"]
    assert [(u.input_tokens, u.output_tokens) for u in after.usage] == [(22, 27)], "its own share"


async def test_what_is_left_of_a_budget_is_that_of_all_turns(bench: Bench) -> None:
    """The failure is not final: the task waits for the budget's next period."""
    bench.api.answer(messages_api.text("done", output_tokens=100))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), max_budget_usd=9)
    run = bench.run("make it good")
    run.usd_left = 0.0015
    outcome = await executor.run(run)
    assert (outcome.failure_kind, outcome.final) == (FailureKind.BUDGET, False), outcome
    assert len(bench.api.requests) == 2
    assert "left of a budget" in str(outcome.error)


async def test_budget_is_that_of_all_turns(bench: Bench) -> None:
    """Sonnet's price of these tokens is more than half of the budget: the second turn has too little left."""
    bench.api.answer(messages_api.text("done", output_tokens=100))
    executor = bench.executor(checks=checks(bench.home, SAYS_WHY), max_budget_usd=0.0015)
    outcome = await bench.do(executor, "make it good")
    assert (outcome.failure_kind, results(outcome)) == (FailureKind.BUDGET, ["failed"]), outcome
    assert len(bench.api.requests) == 2
