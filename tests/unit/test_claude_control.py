"""turbo's side of the CLI's control channel, without a CLI: what it sends, and what it makes of odd lines."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from turbo.domain.question import AskPolicy
from turbo.executors.agent import desk as asking
from turbo.executors.agent.desk import Desk
from turbo.executors.agent.handed_over import Handed
from turbo.executors.claude.control import Channel, new_gate, settings
from turbo.executors.held_calls import HeldCalls

READY = {"hook_on_failure_supported": True, "hooks_applied": True, "session_state": "idle"}


class Holds:
    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:
        if call.get("command") == "break":
            raise LookupError("a rule that fails")
        return "Bash(git push *)" if tool == "Bash" and call.get("command") == "git push" else None

    def without(self, rules: Collection[str]) -> HeldCalls:
        return HeldCalls([])


class Nothing:
    def last(self) -> Handed | None:
        return None

    def note(self, handed: Handed) -> None: ...


def channel(*, resumed: bool = False, approve: tuple[str, ...] = ("Bash(git push *)",)) -> Channel:
    policy = AskPolicy(approve=approve)
    return Channel(
        Desk(policy, Holds(), Nothing()),
        "do it",
        resumed=resumed,
        holds=bool(approve),
        gate="GATE" if resumed else None,
    )


def _desk(made: Channel) -> Desk:
    assert made.desk is not None
    return made.desk


def said(made: Channel) -> list[dict[str, Any]]:
    """What it has sent since the last time."""
    return [json.loads(line) for line in made.stdin.take().splitlines()]


def line(message: object) -> bytes:
    return json.dumps(message).encode()


def initialized(told: object = READY, subtype: str = "success") -> bytes:
    response = {"subtype": subtype, "request_id": "turbo-initialize", "response": told, "error": "no"}
    return line({"type": "control_response", "response": response})


def hook(command: str, number: str = "r1", **more: object) -> dict[str, Any]:
    call = {"tool_name": "Bash", "tool_input": {"command": command}, "tool_use_id": "toolu_1", **more}
    return {
        "type": "control_request",
        "request_id": number,
        "request": {"subtype": "hook_callback", "callback_id": "turbo", "input": call},
    }


def decision(made: Channel) -> str | None:
    (answer,) = said(made)
    body = answer["response"].get("response", {}).get("hookSpecificOutput", {})
    return None if not body else str(body["permissionDecision"])


def tool_result(**block: object) -> bytes:
    content = [{"type": "tool_result", "content": "x", **block}]
    return json.dumps({"type": "user", "message": {"content": content}}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("got", "cut", "ending", "over"),
    [
        (tool_result(tool_use_id="c1"), False, False, True),
        (tool_result(tool_use_id="c2"), True, False, True),  # its end may hold the id
        (tool_result(tool_use_id="c2"), False, False, False),
        (tool_result(tool_use_id="c2", content='"tool_use_id":"c1"'), False, False, False),
        (tool_result(tool_use_id="c1"), False, True, False),  # what it says then is of the end of its run
    ],
)
async def test_result_of_an_approved_call_is_known_by_its_id(got: bytes, cut: bool, ending: bool, over: bool) -> None:
    desk = Desk(AskPolicy(), Holds(), Nothing(), under_way=Handed("c1", asked="c1"))
    made = Channel(desk, "do it", resumed=False, holds=False, gate=None, ending=lambda: ending)
    assert not made.take(got, cut)
    assert (desk.under_way is None) is over


# ── its beginning ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_prompt_follows_the_answer_of_a_cli_that_holds_calls() -> None:
    made = channel()
    opening = json.loads(made.opening())
    (matcher,) = opening["request"]["hooks"]["PreToolUse"]
    assert (matcher["matcher"], matcher["onFailure"]) == ("*", "block")
    assert said(made) == []
    assert made.take(initialized())
    (prompt,) = said(made)
    assert (prompt["type"], prompt["message"]) == ("user", {"role": "user", "content": "do it"})


@pytest.mark.parametrize(
    "answer",
    [
        initialized({}),
        initialized({**READY, "hook_on_failure_supported": "yes"}),
        initialized({**READY, "hooks_applied": False}),
        initialized(None),
        initialized(READY, "error"),
    ],
)
async def test_cli_that_cannot_hold_calls_gets_no_prompt(answer: bytes) -> None:
    made = channel()
    made.opening()
    assert made.take(answer)
    assert said(made) == []
    assert (made.enough.is_set(), made.stdin.closed) == (True, True)
    assert made.unfit


async def test_questions_alone_need_nothing_of_an_older_cli() -> None:
    made = channel(approve=())
    made.opening()
    made.take(initialized({"commands": []}))
    assert len(said(made)) == 1


async def test_resumed_cli_at_a_deferred_call_gets_no_prompt() -> None:
    made = channel(resumed=True)
    made.opening()
    made.take(line({"type": "command_lifecycle", "state": "started"}))
    made.take(initialized({**READY, "session_state": "running"}))
    assert said(made) == []
    assert not made.take(line({"type": "user", "message": {"content": [{"type": "tool_result"}]}}).replace(b": ", b":"))
    (opened,) = said(made)
    assert opened["request"] == {"subtype": "apply_flag_settings", "settings": {"env": {"GATE": "1"}}}


async def test_resumed_cli_without_one_gets_the_gate_and_the_prompt() -> None:
    made = channel(resumed=True)
    made.opening()
    made.take(initialized())
    assert [message["type"] for message in said(made)] == ["control_request", "user"]


def test_gate_is_closed_only_in_resumed_runs() -> None:
    first, resumed = (json.loads(settings(["Bash(git push *)"], gate)) for gate in (None, new_gate()))
    assert first == {"permissions": {"ask": ["Bash(git push *)"]}, "disableAllHooks": False}
    (gate,) = resumed["hooks"]["PreToolUse"]
    assert (gate["matcher"], gate["hooks"][0]["onFailure"]) == ("*", "block")


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_held_call_is_deferred_once_and_others_pass() -> None:
    made = channel()
    assert made.take(line(hook("ls")))
    assert decision(made) is None
    made.take(line(hook("git push")))
    assert decision(made) == "defer"
    made.take(line(hook("git push", tool_use_id="toolu_2")))
    assert decision(made) == "deny"
    made.take(line(hook("git push", tool_use_id="toolu_3", agent_id="a")))
    assert decision(made) == "deny"
    assert _desk(made).question("toolu_1") is not None
    assert _desk(made).question("toolu_2") is None


@pytest.mark.parametrize(
    "request_of",
    [
        hook("break"),
        hook("git push", tool_input=None),
        hook("git push", tool_input="git push"),
        {"type": "control_request", "request_id": "r1", "request": {"subtype": "hook_callback", "input": []}},
    ],
)
async def test_call_that_cannot_be_judged_is_denied(
    request_of: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = channel()
    made.take(line(request_of))
    assert decision(made) == "deny"
    assert ("could not be judged" in caplog.text) == (request_of == hook("break"))


@pytest.mark.parametrize(
    ("request_of", "behavior"),
    [
        ({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "tool_use_id": "t"}, "deny"),
        ({"subtype": "can_use_tool", "tool_name": "Bash", "tool_use_id": "t"}, "deny"),
        ({"subtype": "can_use_tool"}, "deny"),
    ],
)
async def test_permission_without_an_approval_is_refused(request_of: dict[str, Any], behavior: str) -> None:
    made = channel()
    made.take(line({"type": "control_request", "request_id": "r1", "request": request_of}))
    (answer,) = said(made)
    assert answer["response"]["response"]["behavior"] == behavior


@pytest.mark.parametrize("subtype", ["elicitation", "of_the_future", None, 7, {"deep": []}])
async def test_unknown_request_is_answered_with_an_error(subtype: object) -> None:
    made = channel()
    assert made.take(line({"type": "control_request", "request_id": "r9", "request": {"subtype": subtype}}))
    (answer,) = said(made)
    assert (answer["response"]["subtype"], answer["response"]["request_id"]) == ("error", "r9")


def huge(command: str) -> bytes:
    return line(hook(command + "," * 2_000_000))


@pytest.mark.parametrize(
    "request_of",
    [
        huge("git push"),
        b'{"type":"control_request","request_id":"r1","request":' + b"[" * 100_000,
        b'{"request":{"subtype":"can_use_tool","input":"\xff},"type":"control_request","request_id":"r1"}',
        line(hook("git push"))[:-3],
    ],
)
async def test_request_that_cannot_be_read_is_refused(request_of: bytes) -> None:
    made = channel()
    assert made.take(request_of)
    (answer,) = said(made)
    assert answer["response"] == {"subtype": "error", "request_id": "r1", "error": asking.UNREADABLE}


async def test_call_of_many_commas_is_read() -> None:
    """A file of comma-separated values, for example."""
    made = channel()
    made.take(line(hook("git push" + "," * 900_000)))
    assert decision(made) is None


@effort(max_examples=40)
@given(st.binary(max_size=300) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(line))
async def test_no_line_is_too_odd(odd: bytes) -> None:
    made = channel()
    made.take(odd)
    made.take(b'{"type":"control_request",' + odd)
    made.take(b'{"type":"control_response","response":' + odd + b"}")
    made.take(line({"type": "control_request", "request_id": "x", "request": odd.decode("latin-1")}), cut=True)


@pytest.mark.parametrize("number", [None, 7, [], {"a": 1}])
async def test_request_without_an_id_is_left_alone(number: object) -> None:
    made = channel()
    assert made.take(line({**hook("git push"), "request_id": number}))
    assert said(made) == []
