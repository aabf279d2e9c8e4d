"""output_schema with the real Claude CLI: its tool, its words, what goes back as a round, and what ends unverified."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.checks import check_of, results
from tests.support.claude import ALLOWED, Bench, a_bench, bash
from tests.support.claude_asking import ASKS, PUSH, answered, approving, calls, question, shell
from tests.support.mailboxes import Told
from tests.support.messages_api import Answer, Request
from tests.support.schemas import GOOD, VERDICT, answering, schema_of, structured
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.executors.agent.answer import BY_TEXT
from turbo.executors.claude.answer_form import FLAG
from turbo.executors.claude.structured import BY_TOOL, answer_form, enforceable

LATEST = {"$schema": "https://json-schema.org/draft/2020-12/schema", **VERDICT, "x-owner": "review"}
ROWS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory) as bench:
        yield bench


def tool_of(request: Request) -> dict[str, Any] | None:
    """The schema of the tool that the model is offered."""
    offered = [tool for tool in request.body["tools"] if tool["name"] == "StructuredOutput"]
    return offered[0]["input_schema"] if offered else None


async def test_answer_of_the_tool_is_the_output(bench: Bench) -> None:
    bench.api.answer(structured(GOOD))
    outcome = await bench.do(bench.executor(**answering(bench.home, LATEST)), "judge it")
    assert (outcome.kind, outcome.output, results(outcome)) == (OutcomeKind.SUCCEEDED, GOOD, ["passed"]), outcome
    assert tool_of(bench.api.requests[0]) == VERDICT, "the draft's name and unknown keys are not for this CLI"
    prompt = bench.api.requests[0].prompt
    assert prompt.endswith(f"nobody is there to answer. {BY_TOOL}\n\njudge it")
    assert check_of(outcome)["rounds"] == 1


async def test_refused_schema_is_the_control_of_what_is_left_out(bench: Bench) -> None:
    """The CLI refuses the file as it is. The worker is told, and no task fails for it."""
    executor = bench.executor(command=[*bench.executor()._cli._command, FLAG, json.dumps(LATEST)])
    outcome = await bench.do(executor)
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert "--json-schema is not a valid JSON Schema" in str(outcome.error)
    assert bench.api.requests == []


async def test_cli_takes_every_schema_that_it_is_given(bench: Bench) -> None:
    every = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "all that the CLI is trusted with",
        "type": "object",
        "$defs": {"name": {"type": "string", "minLength": 1, "maxLength": 9, "format": "no such format"}},
        "properties": {
            "a": {"$ref": "#/$defs/name"},
            "b": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.5, "default": 1},
            "c": {
                "type": "array",
                "items": {"enum": [1, "x", None]},
                "minItems": 0,
                "maxItems": 9,
                "uniqueItems": True,
            },
            "d": {"anyOf": [{"const": 1}, {"not": {"type": "string"}}], "oneOf": [True], "allOf": [{}]},
            "e": {"type": "string", "pattern": r"^[a-z0-9_.-]+(?:x|\d{2,3})?\.(\w+)$", "examples": ["a.b"]},
            "f": {"type": "object", "patternProperties": {"^x": {"type": "string"}}, "additionalProperties": False},
            "g": {"type": "object", "propertyNames": {"maxLength": 3}, "minProperties": 0, "maxProperties": 2},
            "h": {"type": "array", "contains": {"type": "integer"}, "deprecated": True, "readOnly": True, "x-mine": 1},
        },
        "required": ["a"],
    }
    bench.api.answer(structured({"a": "x"}))
    schema = schema_of(bench.home, every)
    assert enforceable(schema) is not None
    outcome = await bench.do(bench.executor(**answering(bench.home, every)))
    assert (outcome.output, results(outcome)) == ({"a": "x"}, ["passed"])
    assert tool_of(bench.api.requests[0]) is not None


@pytest.mark.parametrize(
    "schema",
    [
        ROWS,
        {},
        {"anyOf": [VERDICT, {"type": "object"}], "type": "object"},
        {**VERDICT, "unevaluatedProperties": False},
        {**VERDICT, "$id": "https://example.org/x"},
        {"type": "object", "properties": {"a": {"prefixItems": [{}]}}},
        {"type": "object", "properties": {"a": {"pattern": "(?P<year>[0-9]+)"}}},
        {"type": "object", "properties": {"a": {"pattern": "a++"}}},
        {"type": "object", "properties": {"a": {"if": {"const": 1}}}},
        {"type": "object", "description": "x" * 150_000},
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"},
    ],
)
def test_schema_that_the_cli_does_not_take_is_in_the_prompt(bench: Bench, schema: dict[str, Any]) -> None:
    form = answer_form("x", schema_of(bench.home, schema), (), ())
    assert form.flags == ()
    assert form.words.startswith(BY_TEXT)
    assert json.loads(form.words.removeprefix(BY_TEXT)) == schema


def test_tool_that_rules_deny_is_not_relied_on(bench: Bench) -> None:
    schema = schema_of(bench.home, VERDICT)
    assert answer_form("x", schema, ["Bash"], ["--model", "x"]).flags
    for denied, words in (
        (["*"], []),
        (["StructuredOutput"], []),
        ([], ["--disallowedTools", "Bash", "StructuredOutput"]),
    ):
        assert not answer_form("x", schema, denied, words).flags
    with pytest.raises(ValueError, match="does not go with output_schema"):
        answer_form("x", schema, [], [FLAG, "{}"])


async def test_text_answer_fits_or_goes_back(bench: Bench) -> None:
    bench.api.answer(messages_api.text("1, 2 and 3"), messages_api.text("[1, 2, 3]"))
    outcome = await bench.do(bench.executor(**answering(bench.home, ROWS)), "count")
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, [1, 2, 3])
    assert results(outcome) == ["unfit", "passed"]
    assert tool_of(bench.api.requests[0]) is None
    assert json.dumps(ROWS) in bench.api.requests[0].prompt
    told = bench.api.requests[1].prompt
    assert "the answer is not JSON" in told
    assert told.endswith(json.dumps(ROWS)), "it is told again what fits"
    assert set(bench.sessions) == {outcome.session_id}, "one conversation"
    assert sum(u.output_tokens for u in outcome.usage) == 14, "the cost of both"


async def test_tool_that_is_never_called_costs_a_round(bench: Bench) -> None:
    never = messages_api.text("I would rather not")
    bench.api.answer(never, never, structured(GOOD))  # the CLI asks once more by itself
    outcome = await bench.do(bench.executor(**answering(bench.home, VERDICT)))
    assert (outcome.output, results(outcome)) == (GOOD, ["unfit", "passed"])
    assert "You MUST call the StructuredOutput tool" in bench.api.requests[1].prompt
    assert bench.api.requests[2].prompt.endswith(BY_TOOL)


async def test_answers_that_never_fit_end_unverified(bench: Bench) -> None:
    bench.api.answer(structured({"pass": "perhaps"}))
    outcome = await bench.do(bench.executor(**answering(bench.home, VERDICT)))
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.UNVERIFIED), outcome
    assert outcome.final
    assert results(outcome) == ["unfit"] * 3
    assert len(bench.api.requests) == 3 * 5, "the CLI refuses five answers in each turn"
    assert "Failed to provide valid structured output" in check_of(outcome)["why"]
    assert str(outcome.error).startswith("not verified: check 3: no answer fitted the schema: ")
    assert "unfit_answer" not in outcome.extra


async def test_what_the_cli_lets_through_is_judged(bench: Bench) -> None:
    """It knows no `dependentRequired`, and its tool takes numbers that the database cannot store."""
    huge = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    bench.api.answer(_raw('{"n": 1e999}'), structured({"n": 7}))
    outcome = await bench.do(bench.executor(**answering(bench.home, huge)))
    assert outcome.output == {"n": 7}
    bench.api.answer(structured({"pass": True, "why": "x" * 2_000_000}), structured(GOOD))
    outcome = await bench.do(bench.executor(**answering(bench.home, VERDICT)))
    assert (outcome.output, results(outcome)) == (GOOD, ["unfit", "passed"])
    assert "at most 1,048,576" in outcome.checked.checks[0].why  # type: ignore[union-attr]


def _raw(arguments: str) -> Answer:
    call = {"type": "tool_use", "id": "toolu_0123456789abcdefabcdef01", "name": "StructuredOutput", "input": {}}
    return messages_api.turn([(call, {"type": "input_json_delta", "partial_json": arguments})])


@pytest.mark.parametrize("depth", [120, 10_000])
async def test_answer_that_is_nested_too_deep_is_judged(bench: Bench, depth: int) -> None:
    """Python's parser gives up on such a line. The run must not wait for it until its time is over."""
    bench.api.answer(_raw('{"a":' + "[" * depth + "]" * depth + "}"), structured({"a": []}))
    outcome = await bench.do(bench.executor(**answering(bench.home, {"type": "object"})))
    assert (outcome.output, results(outcome)) == ({"a": []}, ["unfit", "passed"]), outcome
    assert "nested deeper than 100 levels" in outcome.checked.checks[0].why  # type: ignore[union-attr]


async def test_denied_call_that_is_nested_deep_ends_the_run(bench: Bench) -> None:
    """The CLI repeats it in its result."""
    call = {"type": "tool_use", "id": "toolu_0123456789abcdefabcdef02", "name": "Write", "input": {}}
    deep = '{"file_path": "x", "content": "y", "more": ' + "[" * 5000 + "]" * 5000 + "}"
    bench.api.answer(
        messages_api.turn([(call, {"type": "input_json_delta", "partial_json": deep})]), messages_api.text("done")
    )
    outcome = await bench.do(bench.executor(disallowed_tools=["Write"]))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done"), outcome


async def test_without_a_judge_what_does_not_fit_is_the_output(bench: Bench) -> None:
    """The control: nothing but the judge keeps it from being a success."""
    settings = answering(bench.home, ROWS) | {"checks": None}
    bench.api.answer(messages_api.text("1, 2 and 3"))
    outcome = await bench.do(bench.executor(**settings))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "1, 2 and 3")


async def test_schema_goes_with_tools_and_a_resumed_session(bench: Bench) -> None:
    bench.api.answer(bash("echo hi > made.txt"), structured(GOOD))
    executor = bench.executor(resume=True, **answering(bench.home, VERDICT), **ALLOWED)
    first = await bench.do(executor)
    assert (bench.home / "work" / "made.txt").exists()
    bench.api.answer(structured({"pass": False, "why": "resumed"}))
    second = await bench.do(executor, agent_session_id=first.session_id)
    assert (second.output, second.session_id) == ({"pass": False, "why": "resumed"}, first.session_id)
    assert tool_of(bench.api.requests[-1]) == VERDICT


async def test_schema_goes_with_questions_and_approvals(bench: Bench) -> None:
    form = answering(bench.home, VERDICT)
    executor = bench.executor(ask=ASKS, **form)
    bench.api.answer(calls(question("Which?")), structured(GOOD))
    first = await bench.do(executor)
    assert first.kind is OutcomeKind.ASKED
    assert (await bench.do(executor, **answered(first, "Postgres"))).output == GOOD

    executor = bench.executor(**approving(**form))
    bench.api.answer(calls(shell(PUSH)), structured(GOOD))
    first = await bench.do(executor)
    assert first.kind is OutcomeKind.ASKED
    assert (await bench.do(executor, **answered(first, "yes"))).output == GOOD
    assert (bench.home / "work" / "pushed.txt").exists()


async def test_message_during_the_answer_asks_for_another(bench: Bench) -> None:
    told = Told()

    def decide(_request: Request) -> Answer:
        if len(bench.api.requests) == 1:
            told.last = ["make it blue"]  # the last look finds it
        return structured({"pass": True, "why": f"answer {len(bench.api.requests)}"})

    bench.api.decide = decide
    outcome = await bench.do(bench.executor(**answering(bench.home, VERDICT)), messages=told.mailbox)
    assert outcome.output == {"pass": True, "why": "answer 2"}
    assert "make it blue" in bench.api.requests[1].prompt
    assert told.delivered == ["make it blue"]
