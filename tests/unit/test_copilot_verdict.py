"""The table of what becomes of a Copilot run, and the page that shows it."""

import json

import pytest

from tests.support.markdown import COPILOT_PAGE, table_under
from tests.support.situations import page_row
from turbo.domain.outcome import ModelUsage, OutcomeKind
from turbo.executors.copilot.ended import EndedCopilot
from turbo.executors.copilot.reset import reset_in
from turbo.executors.copilot.session_file import SessionUsage
from turbo.executors.copilot.stream import CopilotLine, CopilotStream
from turbo.executors.copilot.verdict import TABLE, judge, outcome
from turbo.process.running import Ending

NOW = 1795460400.0  # 2026-11-23 19:00:00 UTC
PROMPT: dict[str, object] = {"type": "user.message", "data": {"content": "say hello"}}
ANSWER: dict[str, object] = {"type": "assistant.message", "data": {"content": "hello there"}}
IDLE: dict[str, object] = {"type": "assistant.idle", "data": {}}


def result(code: int) -> dict[str, object]:
    return {"type": "result", "sessionId": "0f9e5c3a-0000-4000-8000-000000000000", "exitCode": code, "usage": {}}


def error(kind: str, message: str = "no", code: str = "", status: int | None = None) -> dict[str, object]:
    more = {"errorCode": code, "statusCode": status}
    data = {"errorType": kind, "message": message, **{key: value for key, value in more.items() if value}}
    return {"type": "session.error", "data": data}


def stream(*lines: dict[str, object]) -> CopilotStream:
    read = CopilotStream()
    for line in lines:
        read.read(json.dumps(line).encode())
    return read


def record(**usage: object) -> bytes:
    return json.dumps({"type": "session.usage_record", "data": {"usage": usage}}).encode()


def failed(kind: str, message: str = "no", code: str = "", status: int | None = None) -> EndedCopilot:
    return EndedCopilot(Ending.EXITED, 1, stream(PROMPT, error(kind, message, code, status), result(1)))


def test_page_shows_the_copilot_table_as_it_is() -> None:
    assert table_under(COPILOT_PAGE, "| situation |") == [page_row(row) for row in TABLE]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please wait for your limit to reset in 1 hour or switch to auto model", 3600),
        ("Please wait for your limit to reset in 1 hour 7 minutes.", 4020),
        ("Your limit resets in 2 days, 3 hours and 1 minute.", 2 * 86_400 + 3 * 3600 + 60),
        ("to reset on November 30, 2026 at 4:56 AM or switch", 6 * 86_400 + 9 * 3600 + 56 * 60),
        ("to reset on Nov 24, 2026 at 12:00 PM", 17 * 3600),
    ],
)
def test_reset_is_read_from_the_words_of_the_cli(text: str, seconds: float) -> None:
    assert reset_in(text, NOW) == NOW + seconds


@pytest.mark.parametrize(
    "text", ["", "in 1 hour", "to reset on November 31, 2026 at 4:56 AM", "reset on Foo 3, 2026 at 4:56 AM", "reset in an hour"]
)  # fmt: skip
def test_text_without_a_moment_has_no_reset(text: str) -> None:
    assert reset_in(text, NOW) is None


@pytest.mark.parametrize(
    ("kind", "message", "code", "status", "situation"),
    [
        ("rate_limit", "wait for your limit to reset in 1 hour", "rate_limited", 429, "usage limit"),
        ("rate_limit", "429 slow down", "", 429, "rate limited (429)"),
        ("quota", "no", "free_quota_exceeded", 402, "usage limit"),
        ("quota", "no", "additional_spend_limit_reached", 402, "no plan, no billing, or a spend cap"),
        ("quota", "no", "something_new", 402, "no plan, no billing, or a spend cap"),
        ("policy", "no", "", None, "login refused"),
        ("authorization", "Your credentials may be expired or invalid.", "", 401, "login refused"),
        ("context_limit", "too much", "", None, "prompt too long"),
        ("query", "Request exceeds the model's prompt budget after reserving output (135552 tokens)", "", None, "prompt too long"),
        ("query", "400 prompt token count of 130000 exceeds the limit of 128000", "", 400, "prompt too long"),
        ("query", "The provider rejected the prompt as too long, but automatic recovery could not", "", None, "prompt too long"),
        ("query", "Execution failed: 400 The requested model is not supported.", "", 400, "model unknown or not for this account"),
        ("query", "Failed to get response from the AI model; retried 5 times", "", None, "server or network error"),
        ("query", "Could not connect to local model provider", "", None, "server or network error"),
        ("query", "503 the message", "", 503, "server or network error"),
        ("query", "something new", "", None, "failed in another way"),
        ("something_new", "something new", "", None, "failed in another way"),
    ],
)  # fmt: skip
def test_errors_of_the_cli_are_told_apart(
    kind: str, message: str, code: str, status: int | None, situation: str
) -> None:
    assert judge(failed(kind, message, code, status)).name == situation


@pytest.mark.parametrize(
    ("model", "family"), [("gpt-5-mini", "gpt-5-mini"), ("claude-sonnet-4.5", "sonnet"), ("gemini-4", None)]
)
def test_limit_of_a_model_names_its_family(model: str, family: str | None) -> None:
    said = stream(
        PROMPT,
        {"type": "model.call_start", "data": {"model": model}},
        error("rate_limit", "limit to reset in 2 hours", "user_model_rate_limited", 429),
    )
    found = outcome(EndedCopilot(Ending.ENOUGH, 0, said), now=NOW)
    assert (found.kind, found.limited_model, found.resets_at) == (OutcomeKind.USAGE_LIMITED, family, NOW + 7200)


def test_copilot_turn_counts_although_the_cli_was_ended() -> None:
    assert judge(EndedCopilot(Ending.ENOUGH, -15, stream(PROMPT, ANSWER, IDLE, result(0)))).name == "answered"
    assert judge(EndedCopilot(Ending.SILENT, -15, stream(PROMPT, ANSWER, IDLE))).name == "answered"
    assert judge(EndedCopilot(Ending.SILENT, -15, stream(PROMPT, ANSWER))).name == "silent for too long"


def test_exit_0_after_an_abort_is_no_answer() -> None:
    abort: dict[str, object] = {"type": "abort", "data": {"reason": "user_initiated"}}
    ended = EndedCopilot(Ending.EXITED, 0, stream(PROMPT, ANSWER, abort, result(0)))
    assert judge(ended).name == "interrupted: the turn has no end"


def test_error_is_forgotten_when_the_turn_goes_on() -> None:
    again: dict[str, object] = {"type": "model.call_start", "data": {"model": "m"}}
    said = stream(PROMPT, error("rate_limit", "switching"), again, ANSWER, IDLE, result(0))
    assert judge(EndedCopilot(Ending.EXITED, 0, said)).name == "answered"


def test_subagent_neither_answers_nor_fails_the_turn() -> None:
    theirs: dict[str, object] = {"agentId": "a"}
    said = stream(PROMPT, ANSWER, ANSWER | theirs | {"data": {"content": "mine"}}, error("query") | theirs, result(0))
    assert (said.text, said.error, said.items) == ("hello there", None, 2)


def test_usage_of_a_call_is_summed_by_model() -> None:
    used = SessionUsage()
    for model, finish in (("a", "tool_calls"), ("a", "stop"), ("b", "length")):
        kind = "conversation-subagent" if model == "b" else "conversation-agent"
        tokens = {"inputTokens": 100, "outputTokens": 7, "cacheReadTokens": 40, "cacheWriteTokens": 10}
        charged = {"cost": 0.5, "copilotUsage": {"totalNanoAiu": 2e9}}
        used.read(record(model=model, finishReason=finish, interactionType=kind, **tokens, **charged))
    assert used.usage == (ModelUsage("a", 100, 14, 80, 20), ModelUsage("b", 50, 7, 40, 10))
    assert (used.premium_requests, used.ai_credits, used.finish) == (1.5, 6.0, "stop")


def test_copilot_lines_of_any_kind_are_survived() -> None:
    read, used = CopilotStream(), SessionUsage()
    for line in (
        b"",
        b"nonsense",
        b"[]",
        b'{"type": 7}',
        b'{"type": "assistant.message"}',
        b'{"type": "assistant.message", "data": []}',
        b'{"type": "session.error", "data": {"errorType": 7, "statusCode": "x"}}',
        b'{"type": "result", "exitCode": "zero", "sessionId": 7}',
        b'{"type": "tool.execution_start", "data": {"toolName": [], "arguments": 5}}',
        b'{"type":"session.usage_record","data":{"usage":{"model":7,"inputTokens":-1,"cost":"x"}}}',
        b'{"type":"session.usage_record"',
        b"\xff\xfe",
        b"[" * 100_000,
    ):
        read.read(line)
        used.read(line)
    assert read.read(b'{"half', cut=True) is CopilotLine.OTHER
    assert (read.session, read.exit_code, read.text) == (None, None, "")
    assert (used.usage, used.premium_requests) == ((), 0.0)
