"""The table of what becomes of a Codex run, and the page that shows it."""

import json

import pytest

from tests.support.markdown import CODEX_PAGE, table_under
from tests.support.situations import page_row
from turbo.domain.outcome import OutcomeKind
from turbo.executors.codex.ended import EndedCodex
from turbo.executors.codex.reset import reset_in
from turbo.executors.codex.rollout import Rollout
from turbo.executors.codex.stream import CodexLine, CodexStream
from turbo.executors.codex.verdict import TABLE, judge, outcome
from turbo.process.running import Ending

NOW = 1795460400.0  # 2026-11-23 19:00:00 UTC


def stream(*lines: dict[str, object]) -> CodexStream:
    read = CodexStream()
    for line in lines:
        read.read(json.dumps(line).encode())
    return read


def rollout(info: object, **rate_limits: object) -> Rollout:
    read = Rollout()
    for payload in (
        {"type": "token_count", "rate_limits": rate_limits},
        {"type": "task_complete", "error": {"codex_error_info": info}},
    ):
        read.read(json.dumps({"type": "event_msg", "payload": payload}).encode())
    return read


def failed(text: str, info: object = None, *, zone: str | None = None, **rate_limits: object) -> EndedCodex:
    said = stream(
        {"type": "thread.started", "thread_id": "01a21dfa-9ac1-7b61-8a85-c262bedfcbe5"},
        {"type": "turn.started"},
        {"type": "turn.failed", "error": {"message": text}},
    )
    return EndedCodex(Ending.EXITED, 1, said, rollout(info, **rate_limits), zone=zone)


def test_page_shows_the_codex_table_as_it_is() -> None:
    assert table_under(CODEX_PAGE, "| situation |") == [page_row(row) for row in TABLE]


@pytest.mark.parametrize(
    ("text", "zone", "seconds"),
    [
        ("try again at 8:07 PM.", None, 67 * 60),
        ("try again at 8:07 PM.", "UTC", 67 * 60),
        ("try again at 4:10 AM.", "Asia/Tokyo", 10 * 60),  # it is 4 in the morning there
        ("try again at 6:00 PM.", None, 23 * 3600),
        ("try again at 7:00 PM.", None, 0),  # this very minute
        ("try again at Nov 30th, 2026 9:07 AM.", None, 6 * 86_400 + 14 * 3600 + 7 * 60),
        ("try again at 8:07 PM.", "No/Where", 67 * 60),
    ],
)
def test_reset_is_read_in_the_zone_of_the_cli(text: str, zone: str | None, seconds: float) -> None:
    assert reset_in(f"You’ve hit your usage limit. Or {text}", NOW, zone) == NOW + seconds


@pytest.mark.parametrize("text", ["try again later.", "try again at Nov 31st, 2026 9:07 AM.", "at 10:07 AM", ""])
def test_text_without_a_time_has_no_reset(text: str) -> None:
    assert reset_in(text, NOW, None) is None


def test_latest_full_window_decides_on_the_reset() -> None:
    ended = failed(
        "You’ve hit your usage limit. Or try again at 8:07 PM.",
        "usage_limit_exceeded",
        limit_id="codex",
        primary={"used_percent": 100, "window_minutes": 300, "resets_at": NOW + 60},
        secondary={"used_percent": 100.0, "window_minutes": 10080, "resets_at": NOW + 9000},
    )
    assert outcome(ended, now=NOW).resets_at == NOW + 9000


def test_window_that_is_not_full_does_not_count() -> None:
    ended = failed(
        "You’ve hit your usage limit. Or try again at 8:07 PM.",
        "usage_limit_exceeded",
        primary={"used_percent": 99, "window_minutes": 300, "resets_at": NOW + 60},
    )
    assert outcome(ended, now=NOW).resets_at == NOW + 67 * 60


@pytest.mark.parametrize(
    ("text", "info", "situation"),
    [
        ("Your workspace is out of credits. Add some.", "usage_limit_exceeded", "no credits, no plan, or a spend cap"),
        ("You hit your spend cap set by the owner of your workspace.", "usage_limit_exceeded", "no credits, no plan, or a spend cap"),
        ("Your access token could not be refreshed because your refresh token has expired.", "unauthorized", "login refused"),
        ("Missing environment variable: `MY_KEY`.", "other", "login refused"),
        ("Incomplete response returned, reason: max_output_tokens", "other", "failed in another way"),
        ("something new", {"something_new": {"http_status_code": 599}}, "failed in another way"),
        ("something new", ["odd"], "failed in another way"),
        ("idle timeout waiting for SSE", "other", "server or network error"),
    ],
)  # fmt: skip
def test_words_that_no_scripted_service_brings_out(text: str, info: object, situation: str) -> None:
    assert judge(failed(text, info)).name == situation


def test_limit_without_a_rollout_is_told_by_its_text() -> None:
    text = "You’ve hit your usage limit for GPT-5.3-Codex-Spark. Switch to another model now, or try again at 8:07 PM."
    found = outcome(failed(text), now=NOW)
    assert (found.kind, found.limited_model) == (OutcomeKind.USAGE_LIMITED, "gpt-5.3-codex-spark")
    assert found.resets_at == NOW + 67 * 60


def test_turn_that_completed_counts_although_the_cli_was_ended() -> None:
    said = stream(
        {"type": "item.completed", "item": {"type": "agent_message", "text": "done"}}, {"type": "turn.completed"}
    )
    assert judge(EndedCodex(Ending.ENOUGH, -15, said)).name == "answered"


def test_lines_of_any_kind_are_survived() -> None:
    read = CodexStream()
    for line in (
        b"",
        b"nonsense",
        b"[]",
        b'{"type": 7}',
        b'{"type": "item.completed"}',
        b'{"type": "item.completed", "item": []}',
        b'{"type": "turn.failed", "error": "text"}',
        b'{"type": "turn.completed", "usage": {"input_tokens": -1, "output_tokens": "many", "cached_input_tokens": 1e99}}',
        b'{"type": "thread.started", "thread_id": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
    ):
        read.read(line)
    assert read.read(b'{"half', cut=True) is CodexLine.OTHER
    assert (read.thread, read.input_tokens, read.output_tokens) == (None, 0, 0)


def test_rollout_lines_of_any_kind_are_survived() -> None:
    read = Rollout()
    for payload in (
        None,
        [],
        {"type": "token_count", "rate_limits": {"primary": {"used_percent": "x"}, "limit_id": 5}},
        {
            "type": "item_completed",
            "item": {"delivery": "async", "questions": [7, {"title": 8}, {"title": "ok", "options": 9}]},
        },
        {"type": "task_complete", "error": {"codex_error_info": {}}},
    ):
        read.read(json.dumps({"type": "event_msg", "payload": payload}).encode())
    read.read(b'{"type": "event_msg"')
    read.read(json.dumps({"type": "token_usage_record", "payload": {"turn_id": 1, "turn_token_usage": 3}}).encode())
    assert [one.title for one in read.questions] == ["ok"]
    assert (read.windows, read.usage, read.info) == ((), (), None)
