"""The claude executor asks a person, and goes on with the answer: the real Claude CLI against a scripted model."""

from collections.abc import Iterator

import pytest

from tests.support import messages_api
from tests.support.claude import Bench, a_bench
from tests.support.claude_asking import ASKS, answered, asked, calls, question, results
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import AskPolicy, QuestionKind, Then
from turbo.executors.agent.prompts import ASKING_PREAMBLE, PREAMBLE


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


async def test_question_ends_the_run_and_its_answer_goes_on(bench: Bench) -> None:
    executor = bench.executor(ask=AskPolicy(within_seconds=60.0, remind_seconds=5.0))
    bench.api.answer(calls(question("Which database?")), messages_api.text("done"))
    first = await bench.do(executor, "make it")
    one = asked(first)
    assert (one.kind, one.text, one.questions[0].header) == (QuestionKind.QUESTION, "Which database?", "Choice")
    assert [choice.label for choice in one.questions[0].options] == ["Postgres", "SQLite"]
    assert first.asked is not None
    assert (first.asked.within_seconds, first.asked.remind_seconds, one.then) == (60.0, 5.0, Then.PROCEED)
    assert first.session_id == bench.sessions[0]
    assert [(u.input_tokens, u.output_tokens) for u in first.usage] == [(11, 20)]
    assert bench.api.requests[0].prompt.endswith(f"{ASKING_PREAMBLE}\n\nmake it")
    assert len(bench.api.requests) == 1

    second = await bench.do(executor, "make it", **answered(first, "Postgres"))
    assert (second.kind, second.output, second.session_id) == (OutcomeKind.SUCCEEDED, "done", first.session_id)
    assert [(u.input_tokens, u.output_tokens) for u in second.usage] == [(11, 7)], "this run's share"
    assert '\\"Which database?\\"=\\"Postgres\\"' in results(bench)
    assert bench.api.requests[-1].everything.count("make it") == 1
    assert "questions_denied" not in first.extra | second.extra


async def test_several_questions_get_each_its_answer(bench: Bench) -> None:
    executor = bench.executor(ask=ASKS)
    bench.api.answer(calls(question("Which database?", "Which port?", multi=True)), messages_api.text("done"))
    first = await bench.do(executor)
    assert asked(first).text == "Which database?\nWhich port?"
    answer = '{"Which database?": ["Postgres", "SQLite"], "Which port?": "none of these: 5433"}'
    second = await bench.do(executor, **answered(first, answer))
    assert second.output == "done"
    assert '\\"Which database?\\"=\\"Postgres, SQLite\\"' in results(bench)
    assert '\\"Which port?\\"=\\"none of these: 5433\\"' in results(bench)


async def test_unanswered_question_is_said_to_be_unanswered(bench: Bench) -> None:
    executor = bench.executor(ask=ASKS)
    bench.api.answer(calls(question("Which database?")), messages_api.text("chose one"))
    first = await bench.do(executor)
    second = await bench.do(executor, **answered(first, None))
    assert second.output == "chose one"
    assert "Nobody answered this in time" in results(bench)
    assert "have been answered" not in results(bench)


async def test_second_question_of_a_turn_is_asked_afterwards(bench: Bench) -> None:
    executor = bench.executor(ask=ASKS)
    bench.api.answer(
        calls(question("Which database?"), question("Which port?")),
        calls(question("Which port?")),
        messages_api.text("done"),
    )
    first = await bench.do(executor)
    second = await bench.do(executor, **answered(first, "Postgres"))
    assert "waiting for a person already" in bench.api.requests[-1].everything
    assert (asked(first).text, asked(second).text) == ("Which database?", "Which port?")
    third = await bench.do(executor, **answered(second, "5433", *answered(first, "Postgres")["answers"]))
    assert third.output == "done"
    assert '\\"Which port?\\"=\\"5433\\"' in results(bench)


async def test_executor_that_asks_nothing_counts_what_it_denies(bench: Bench) -> None:
    """Without `ask`, with `questions: false`, and in a run that may not ask."""
    bench.api.answer(calls(question("Which database?")), messages_api.text("chose one"))
    plain = await bench.do(bench.executor())
    assert (plain.output, plain.extra["questions_denied"]) == ("chose one", 1)
    assert bench.api.requests[0].prompt.endswith(f"{PREAMBLE}\n\nsay hello")

    bench.api.answer(calls(question("Which database?")), messages_api.text("chose one"))
    told = await bench.do(bench.executor(ask=AskPolicy(questions=False)))
    assert (told.output, told.extra["questions_denied"]) == ("chose one", 1)
    assert "Nobody can be asked in this run" in results(bench)

    run = bench.run()
    run.may_ask = False
    bench.api.answer(calls(question("Which database?")), messages_api.text("chose one"))
    off = await bench.executor(ask=ASKS).run(run)
    assert (off.output, off.extra["questions_denied"]) == ("chose one", 1)
    assert PREAMBLE in bench.api.requests[-2].prompt
