"""Reading the Claude CLI's stream-json. Lines are as 2.1.330 and 2.1.197 printed them, shortened."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo.domain.outcome import ModelUsage
from turbo.executors.agent.json_line import parsed
from turbo.executors.agent.shallow import shallow
from turbo.executors.claude.reset import reset_in
from turbo.executors.claude.stream import TEXT_CHARACTERS, Limit, StreamLine, Transcript
from turbo.executors.schemas.strict_json import DEEPEST, depth

SESSION = "a49d4fe0-0648-491e-bd60-ae669cc72d5b"
INIT = {
    "type": "system",
    "subtype": "init",
    "session_id": SESSION,
    "model": "claude-sonnet-5-5",
    "claude_code_version": "2.1.330",
}


def assistant(text: str, *, message: str = "msg_1", output: int = 1, **more: object) -> dict[str, object]:
    body = {
        "id": message,
        "content": [{"type": "text", "text": text}],
        "usage": {
            "input_tokens": 11,
            "output_tokens": output,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 3,
        },
    }
    return {"type": "assistant", "message": body, "parent_tool_use_id": None, "session_id": SESSION, **more}


def result(**more: object) -> dict[str, object]:
    known = {"subtype": "success", "is_error": False, "result": "hello", "num_turns": 1, "session_id": SESSION}
    return {"duration_api_ms": 27, **known, "type": "result", **more}


def used(tokens: int, cost: float) -> dict[str, object]:
    return {
        "inputTokens": tokens,
        "outputTokens": tokens + 1,
        "cacheReadInputTokens": tokens + 2,
        "cacheCreationInputTokens": tokens + 3,
        "costUSD": cost,
    }


def heard(*messages: object) -> Transcript:
    transcript = Transcript()
    for message in messages:
        transcript.read(message if isinstance(message, bytes) else json.dumps(message).encode())
    return transcript


def test_init_gives_session_model_and_version() -> None:
    transcript = heard(INIT)
    assert (transcript.session_id, transcript.model, transcript.version) == (SESSION, "claude-sonnet-5-5", "2.1.330")


def test_result_is_found_in_any_key_order() -> None:
    transcript = heard(result(result="done", num_turns=3, permission_denials=[{"tool_name": "Bash"}] * 2))
    assert transcript.result is not None
    assert transcript.result.succeeded
    assert (transcript.result.text, transcript.result.num_turns, transcript.result.permission_denials) == ("done", 3, 2)


def test_subtype_success_with_is_error_has_not_succeeded() -> None:
    transcript = heard(result(is_error=True, result="Invalid API key", api_error_status=401))
    assert transcript.result is not None
    assert not transcript.result.succeeded
    assert transcript.result.api_error_status == 401


def test_result_without_is_error_has_not_succeeded() -> None:
    line = result()
    del line["is_error"]
    transcript = heard(line)
    assert transcript.result is not None
    assert not transcript.result.succeeded


def test_resumed_session_counts_only_added_usage() -> None:
    transcript = heard(result(modelUsage={"m": used(100, 0.9)}, model_usage_since_last_result={"m": used(10, 0.1)}))
    assert transcript.usage == (ModelUsage("m", 10, 11, 12, 13, 0.1),)


def test_several_results_add_up_their_differences() -> None:
    transcript = heard(
        result(model_usage_since_last_result={"m": used(10, 0.1)}),
        result(model_usage_since_last_result={"m": used(1, 0.5), "n": used(7, 0.2)}),
    )
    assert transcript.usage == (ModelUsage("m", 11, 13, 15, 17, 0.6), ModelUsage("n", 7, 8, 9, 10, 0.2))


def test_without_differences_the_last_totals_count() -> None:
    transcript = heard(result(modelUsage={"m": used(10, 0.1)}), result(modelUsage={"m": used(30, 0.3)}))
    assert transcript.usage == (ModelUsage("m", 30, 31, 32, 33, 0.3),)


def test_cut_off_run_used_what_its_answers_said() -> None:
    """Of each answer the newest count; without a cost, and by model."""
    lines = [assistant("a"), assistant("b", output=9), assistant("c", message="msg_2", output=4)]
    lines[2]["message"]["model"] = "haiku"  # type: ignore[index]
    assert heard(INIT, *lines).usage == (ModelUsage("", 11, 9, 5, 3), ModelUsage("haiku", 11, 4, 5, 3))


def test_result_takes_the_place_of_its_answers_counts() -> None:
    done = result(model_usage_since_last_result={"m": used(10, 0.1)})
    begun = assistant("on", message="msg_2", output=4)
    begun["message"]["model"] = "m"  # type: ignore[index]
    assert heard(assistant("a"), done).usage == (ModelUsage("m", 10, 11, 12, 13, 0.1),)
    assert heard(assistant("a"), done, begun).usage == (ModelUsage("m", 21, 15, 17, 16, 0.1),)
    assert heard(assistant("a"), done, begun, done).usage == (ModelUsage("m", 20, 22, 24, 26, 0.2),)
    assert heard(assistant("a"), result()).usage == heard(assistant("a")).usage, "a result that tells nothing"


def test_cost_that_the_cli_does_not_report_is_not_zero() -> None:
    free, unknown = used(1, 0.0), used(1, 0.0)
    del unknown["costUSD"]
    (one, other) = heard(result(modelUsage={"free": free, "unknown": unknown})).usage
    assert (one.cost_usd, other.cost_usd) == (0.0, None)


def test_running_tokens_count_a_split_message_once() -> None:
    transcript = heard(assistant("a"), assistant("b", output=9), assistant("c", message="msg_2", output=4))
    assert (transcript.input_tokens, transcript.output_tokens) == (38, 13)


def test_last_line_of_the_last_text_is_the_progress() -> None:
    assert heard(assistant("one\ntwo\n"), assistant("three\nfour\n\n")).last_line == "four"


def test_api_error_holds_until_the_next_answer() -> None:
    error = assistant("You've hit your limit", error="rate_limit", api_error="usage_limit_reached")
    transcript = heard(assistant("half the work"), error)
    assert (transcript.error, transcript.api_error) == ("rate_limit", "usage_limit_reached")
    assert transcript.text == "half the work"
    assert heard(error, assistant("on again")).error is None


def test_text_of_the_cli_is_not_an_answer() -> None:
    old = assistant("Login expired · Please run /login")
    old["message"] = {**old["message"], "model": "<synthetic>"}  # type: ignore[dict-item]
    transcript = heard(assistant("half the work"), old)
    assert (transcript.answers, transcript.text) == (1, "half the work")


def test_error_of_a_subagent_is_not_the_runs() -> None:
    transcript = heard(assistant("x", error="server_error", parent_tool_use_id="toolu_1"))
    assert transcript.error is None
    assert transcript.answers == 0


def test_limit_needs_a_window() -> None:
    plain = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "isUsingOverage": False}}
    reached = {"status": "rejected", "resetsAt": 1795470459, "rateLimitType": "five_hour"}
    assert heard(plain).limit is None
    assert heard({"type": "rate_limit_event", "rate_limit_info": reached}).limit == Limit("five_hour", 1795470459.0)


def test_lifted_limit_is_ignored() -> None:
    reached = {"status": "rejected", "resetsAt": 1795470459000, "rateLimitType": "five_hour"}
    events = [{"type": "rate_limit_event", "rate_limit_info": info} for info in (reached, {"status": "allowed"})]
    assert heard(events[0]).limit == Limit("five_hour", 1795470459.0)
    assert heard(*events).limit is None


def test_consecutive_login_refusals_are_counted() -> None:
    refused = {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 1,
        "max_retries": 10,
        "error": "authentication_failed",
    }
    overloaded = {**refused, "attempt": 2, "error": "overloaded"}
    assert heard(refused, {**refused, "attempt": 3}).auth_retries == 2
    assert heard(refused, {**refused, "attempt": 3}).retries_left == 7
    assert heard(refused, overloaded).auth_retries == 0
    assert heard(refused, assistant("it works again")).auth_retries == 0


def test_tool_result_is_skipped_unread() -> None:
    huge = b'{"type":"user","message":{"content":"' + b"x" * 100_000 + b'"}}'
    transcript = Transcript()
    assert transcript.read(huge) is StreamLine.OTHER
    assert transcript.read(huge[:70_000], cut=True) is StreamLine.OTHER
    assert transcript.unreadable == 0


def test_long_answer_is_cut_and_marked() -> None:
    transcript = heard(result(result="x" * (TEXT_CHARACTERS + 1)))
    assert transcript.result is not None
    assert len(transcript.result.text or "") == TEXT_CHARACTERS
    assert transcript.truncated


@pytest.mark.parametrize(
    "line",
    [
        b"plain text, as an older CLI or a wrapper may print",
        b"[1, 2]",
        b'{"type": "result", "modelUsage": [1], "usage": 3, "errors": {"a": 1}, "num_turns": "x", "result": {}}',
        b'{"type": "assistant", "message": "text", "error": {"a": 1}}',
        b'{"type": "result", "modelUsage": {"m": {"inputTokens": -5, "outputTokens": 1e400, "costUSD": NaN}}}',
        b'{"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": "soon"}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"type": ["result"]}',
    ],
)
def test_no_line_raises(line: bytes) -> None:
    transcript = heard(INIT, line, assistant("on we go"))
    assert transcript.text == "on we go"
    assert all(u.input_tokens >= 0 and u.output_tokens >= 0 and 0 <= (u.cost_usd or 0) < 1e18 for u in transcript.usage)
    assert transcript.limit is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    [
        "message",
        "error",
        "api_error",
        "result",
        "errors",
        "is_error",
        "subtype",
        "modelUsage",
        "model_usage_since_last_result",
        "rate_limit_info",
        "attempt",
        "max_retries",
        "session_id",
        "num_turns",
        "permission_denials",
        "total_cost_usd",
        "parent_tool_use_id",
    ]
)


@given(
    st.sampled_from(["system", "assistant", "result", "rate_limit_event"]),
    st.sampled_from(["init", "api_retry", "success", None]),
    st.dictionaries(keys, json_values),
)
def test_no_fields_raise(kind: str, subtype: str | None, fields: dict[str, object]) -> None:
    heard({**fields, "type": kind, "subtype": subtype}, {**fields, "type": kind})


def test_line_nested_without_end_loses_only_its_depths() -> None:
    deep = "[" * 5000 + "]" * 5000
    text = 'a "quoted\\\\" [{ text'
    line = json.dumps(result(structured_output="DEEP", result=text))
    line = line.replace('"DEEP"', f'{{"a": {deep}, "b": [1, {deep}]}}')
    transcript = Transcript()
    assert transcript.read(line.encode()) is StreamLine.RESULT
    assert transcript.result is not None
    assert (transcript.result.succeeded, transcript.result.text) == (True, text)
    structured = transcript.result.structured
    assert isinstance(structured, dict)
    assert structured["b"][0] == 1
    assert depth(structured) > DEEPEST, "it cannot be taken for an answer"
    assert parsed(line.encode(), cut=False, control=True) is None, "a call that a person is shown is whole, or refused"
    assert transcript.read(b'{"type": "result", "a": ' + b"[" * 5000) is StreamLine.OTHER


@given(json_values)
def test_shallow_line_stays_as_it_is(value: object) -> None:
    line = json.dumps(value).encode()
    assert shallow(line) == line


# ── reset times ─────────────────────────────────────────────────────────────────────────────────────────────────────

NOW = 1795460400.0  # Mon 2026-11-23 19:00:00 UTC
HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You've hit your 5-hour limit · resets 9:47pm (UTC)", NOW + 2 * HOUR + 47 * 60),
        ("You've hit your session limit · resets 10pm (UTC)", NOW + 3 * HOUR),
        ("You've hit your limit · resets 6pm (UTC)", NOW + 23 * HOUR),
        ("You've hit your limit · resets 12am (UTC)", NOW + 5 * HOUR),
        ("You've hit your limit · resets 12:30pm (UTC)", NOW + 17.5 * HOUR),
        ("You've hit your weekly limit · resets Nov 26, 8:47pm (UTC)", NOW + 3 * DAY + HOUR + 47 * 60),
        ("You've hit your weekly limit · resets Jan 2, 7pm (UTC)", NOW + 40 * DAY),
        ("You've hit your weekly limit · resets Jan 2, 2027, 7pm (UTC)", NOW + 40 * DAY),
        ("You've hit your weekly limit · resets Nov 23, 6pm (UTC)", NOW - HOUR),
        ("You've hit your limit · resets 10pm (America/New_York)", NOW + 8 * HOUR),
        ("Claude AI usage limit reached|1795470459", 1795470459.0),
        ("Claude AI usage limit reached|1795470459000", 1795470459.0),
        ("You've hit your limit · resets 10pm (Nowhere/City)", None),
        ("You've hit your limit · resets Feb 30, 10pm (UTC)", None),
        ("You've hit your limit · resets 10pm (../../etc/passwd)", None),
        ("You've hit your monthly spend limit.", None),
        ("", None),
    ],
)
def test_reset_is_read_from_the_text(text: str, expected: float | None) -> None:
    assert reset_in(text, NOW) == expected
