"""The table of what becomes of a run of an agent over ACP, the page that shows it, and the built-in profiles."""

from typing import Any

import pytest

from tests.integration.test_acp_scripted import CASES
from tests.support.markdown import ACP_PAGE, table_under
from tests.support.situations import page_row
from turbo.config.acp import PROFILES, builtin_profile
from turbo.domain.outcome import OutcomeKind
from turbo.executors.acp.ended import EndedAcp
from turbo.executors.acp.messages import RpcError
from turbo.executors.acp.reset import reset_in
from turbo.executors.acp.stream import AcpStream
from turbo.executors.acp.talk import Heard, TalkStep
from turbo.executors.acp.verdict import TABLE, judge, outcome
from turbo.process.running import Ending

NOW = 1795460400.0  # 2026-11-23 19:00:00 UTC


def test_page_shows_the_acp_table_as_it_is() -> None:
    assert table_under(ACP_PAGE, "| situation |") == [page_row(row) for row in TABLE]


def test_each_acp_situation_is_shown_by_a_scripted_agent() -> None:
    elsewhere = {
        "a person is asked",
        "ended on request, by the protocol",
        "ended on request (cancel, drain, lost lease)",
        "conversation grown too long",
        "conversation refused",
    }
    assert {row.name for row in TABLE} == {case.situation for case in CASES.values()} | elsewhere


@pytest.mark.parametrize("name", PROFILES)
def test_builtin_profiles_are_whole(name: str) -> None:
    profile = builtin_profile(name)
    assert (profile.name, profile.tells_failures, bool(profile.failures)) == (name, True, True)
    assert profile.command


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("try again in 2h 30m.", 9000),
        ("Please retry in 42.5s.", 42.5),
        ("try again in 3 days, 1 hour and 5 minutes", 3 * 86_400 + 3900),
        ("resets at 2026-11-23T20:00:00Z", 3600),
        ("resets 2026-11-23 21:00 ", 7200),
        ("resets at 2026-11-23T20:00:00+05:00", None),  # that was in the morning
        ('{"resets_at": 1795464000}', 3600),
        ('{"reset": 1795464000000}', 3600),
        ("try again at 8:07 PM.", 67 * 60),
        ("try again at 6:00 PM", 23 * 3600),
        ("try again at 99:99 PM", None),
        ("in 999999999 days", None),
        ("resets at 2026-13-45T99:00:00Z", None),
        ("nothing about a time", None),
    ],
)
def test_reset_is_read_from_words(text: str, seconds: float | None) -> None:
    found = reset_in(text, NOW)
    assert found == (None if seconds is None else pytest.approx(NOW + seconds))


def refused(name: str, message: str, *, said: str = "", resumed: bool = False, **error: Any) -> str:
    heard = Heard(TalkStep.OVER, "s", error=RpcError(error.pop("code", -32603), message, **error))
    if said:
        stream = AcpStream()
        stream.update({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": said}})
        heard.stream = stream
    return judge(EndedAcp(Ending.EXITED, 0, heard, builtin_profile(name), resumed=resumed)).name


API = {"data": {"errorName": "APIError"}}


@pytest.mark.parametrize(
    ("name", "message", "more", "situation"),
    [
        ("opencode", "Internal error: Incorrect API key provided", API, "login refused"),
        ("opencode", "Internal error: Not allowed", API, "login refused"),
        ("opencode", "Internal error: You exceeded your current quota", API, "no credits, no plan, or a spend cap"),
        ("opencode", "Internal error: usage limit reached, try again in 2h", API, "usage limit"),
        ("opencode", "Internal error: boom", API, "server or network error"),
        ("opencode", "x", {"data": {"errorName": "ContextOverflowError"}, "said": "y"}, "conversation grown too long"),
        (
            "opencode",
            "Internal error: OpenCode service failure",
            {"data": {"service": "session"}},
            "failed in another way",
        ),
    ],
)
def test_measured_errors_of_agents_are_told_apart(
    name: str, message: str, more: dict[str, Any], situation: str
) -> None:
    assert refused(name, message, **more) == situation


def test_cancelled_turn_counts_as_ended_whatever_is_said() -> None:
    heard = Heard(TalkStep.OVER, "s", "end_turn", stopping=True)
    assert judge(EndedAcp(Ending.STOPPED, -15, heard, builtin_profile("opencode"))).kind is OutcomeKind.CANCELLED


@pytest.mark.parametrize(
    ("ended_by", "situation"), [(Ending.WALL, "over its time"), (Ending.SILENT, "silent for too long")]
)
def test_cancelled_as_the_agent_is_ended_means_out_of_time(ended_by: Ending, situation: str) -> None:
    """Several agents answer the open prompt when they get TERM. That is no failure of their own."""
    stream = AcpStream()
    stream.update({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "I begin"}})
    ended = EndedAcp(ended_by, -15, Heard(TalkStep.OVER, "s", "cancelled", stream=stream), builtin_profile("opencode"))
    assert judge(ended).name == situation
    assert "cancelled" not in (outcome(ended, now=NOW).error or "")
