"""turbo's side of the CLI's control channel, for runs that may ask: lines of JSON on the CLI's stdin and stdout.

    initialize ──▶ its answer: can this CLI hold calls? ──▶ the prompt ──────────────────────────▶ requests ──▶ result
        └── no: the call ends here                  └── a deferred call is carried out first ──┘   each is answered;
                                                                                                   then stdin is closed

Each request of the CLI gets an answer at once, also one that cannot be read: the CLI would wait for it. What goes wrong here
counts as a denial.

**The gate.** A resumed CLI carries out its deferred call at once, often before it has read `initialize`, and so without our
hook (measured with 2.1.330, 2.1.332 and 2.1.197). So where calls are held, a hook of its own settings sends every call to
`can_use_tool` until a variable of a random name is set in the CLI, which happens when the deferred call is done.
"""

import asyncio
import json
import logging
import re
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turbo.executors.claude.asking import (
    PLAN_TOOLS,
    QUESTION_TOOL,
    UNREADABLE,
    Allow,
    Decision,
    Defer,
    Deny,
    Desk,
    ToolCall,
)
from turbo.executors.claude.stream import parsed
from turbo.process.stdin import MOST_UNREAD, OpenStdin

log = logging.getLogger(__name__)

CHANNEL = ("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose")
CHANNEL_TOOL = ("--permission-prompt-tool", "stdio")
"""Without such a tool the model is never offered AskUserQuestion."""

HOOK_SECONDS = 60
ANSWER_SECONDS = 120.0
"""For the start of the CLI on a busy host; it takes half a second on an idle one."""

CARRY_SECONDS = 2.0
"""How long an older CLI, which does not tell whether it carries out a deferred call, may take to begin."""

_ASK = '{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"ask"}}'
_INITIALIZE, _OPEN_GATE = "turbo-initialize", "turbo-gate"
_TOOL_RESULT, _INIT = b'{"type":"user"', b'"subtype":"init"'
_REQUEST_ID = re.compile(rb'"request_id"\s*:\s*"([\w.-]{1,200})"')
_MOST_UNREADABLE_IDS = 8


def new_gate() -> str:
    """The name of a variable that nobody can have set."""
    return f"TURBO_HOOKS_READY_{secrets.token_hex(8)}"


def settings(approve: Sequence[str], gate: str | None) -> str:
    """`--settings` of a CLI whose calls are held: it asks for them although our hook should fail. Hooks are on."""
    chosen: dict[str, Any] = {"permissions": {"ask": list(approve)}, "disableAllHooks": False}
    if gate is not None:
        command = f"[ \"${gate}\" = 1 ] || echo '{_ASK}'"
        hook = {"type": "command", "command": command, "timeout": HOOK_SECONDS, "onFailure": "block"}
        chosen["hooks"] = {"PreToolUse": [{"matcher": "*", "hooks": [hook]}]}
    return json.dumps(chosen)


class Channel:
    """One call of the CLI. `prompt` is sent when nothing deferred is carried out. `holds`: calls are held, so a CLI that
    cannot be relied on for that gets no prompt: `unfit` says why, and `enough` is set. `gate`: the one in its settings, if it
    has one. `ending`: whether the run is being ended. `requests` counts those of the CLI."""

    def __init__(
        self,
        desk: Desk,
        prompt: str,
        *,
        resumed: bool,
        holds: bool,
        gate: str | None,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stdin = OpenStdin(MOST_UNREAD + 6 * len(prompt.encode("utf-8", "replace")))
        self.desk = desk
        self.enough = asyncio.Event()
        self.unfit: str | None = None
        self.requests = 0
        self._begun = False
        self._prompt = prompt
        self._resumed = resumed
        self._holds = holds
        self._gate = gate
        self._ending = ending
        self._waiting: asyncio.TimerHandle | None = None

    def opening(self) -> bytes:
        """The first line for the CLI, which has ANSWER_SECONDS to answer it, unless it is busy with an earlier session."""
        if not self._resumed:
            late = f"it has not answered turbo's first request within {ANSWER_SECONDS:g} s"
            self._waiting = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._cannot, late)
        # Which calls are held is decided here: a rule for one tool may hold calls of others.
        matcher = "*" if self._holds else "|".join((QUESTION_TOOL, *PLAN_TOOLS))
        hook = {"matcher": matcher, "hookCallbackIds": ["turbo"], "timeout": HOOK_SECONDS, "onFailure": "block"}
        return _line(_request(_INITIALIZE, subtype="initialize", hooks={"PreToolUse": [hook]}))

    def take(self, line: bytes, cut: bool = False) -> bool:
        """Whether this line of stdout belongs to the channel. Answers it then."""
        if line.startswith(_TOOL_RESULT):
            self._result_came(line, cut)
        if line.startswith(_TOOL_RESULT) or _INIT in line[:200]:
            self._open_gate()  # the deferred call is done
        if b"control_re" not in line:
            if b"command_lifecycle" in line[:200]:
                self._carried()
            return False
        message = parsed(line, cut, control=True)
        if message is None:
            return self._unreadable(line)
        match message.get("type"):
            case "control_request":
                self._request(message)
            case "control_response":
                self._response(_object(message, "response"))
            case _:
                return False
        return True

    def close(self) -> None:
        """Nothing more is expected of the agent."""
        self._stop_waiting()
        self.stdin.close()

    def _result_came(self, line: bytes, cut: bool) -> None:
        """Of an approved call, by its id. What a call says that is ended with its run, is not its outcome."""
        made = self.desk.under_way
        if made is None or self._ending():
            return
        if cut or b'"tool_use_id":' + json.dumps(made.call).encode() in line:  # within a text, the quotes are escaped
            self.desk.result_came()

    # ── its answers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _response(self, response: Mapping[str, Any]) -> None:
        if response.get("request_id") != _INITIALIZE:
            return
        self._stop_waiting()
        told = _object(response, "response")
        if response.get("subtype") != "success":
            self._cannot(f"it has refused turbo's hooks: {str(response.get('error'))[:500]}")
        elif self._holds and not (told.get("hook_on_failure_supported") is True and told.get("hooks_applied") is True):
            self._cannot("it cannot hold calls that need the approval of a person: update the Claude CLI on this host")
        elif not self._resumed or (not self._begun and told.get("session_state") == "idle"):
            self._send_prompt()
        elif not self._begun and "session_state" not in told:
            self._waiting = asyncio.get_running_loop().call_later(CARRY_SECONDS, self._send_prompt)

    def _cannot(self, why: str) -> None:
        self.unfit = why
        self.close()
        self.enough.set()

    def _send_prompt(self) -> None:
        self._open_gate()  # nothing is deferred
        message = {"role": "user", "content": self._prompt.encode("utf-8", "replace").decode()}
        self.stdin.write(_line({"type": "user", "uuid": str(uuid.uuid4()), "message": message}))

    def _open_gate(self) -> None:
        if self._gate is not None:
            opened = {"env": {self._gate: "1"}}
            self.stdin.write(_line(_request(_OPEN_GATE, subtype="apply_flag_settings", settings=opened)))
            self._gate = None

    def _carried(self) -> None:
        """A turn has begun: with the prompt, or with a deferred call."""
        self._begun = True
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    # ── its requests ────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(self, message: Mapping[str, Any]) -> None:
        self._carried()
        self.requests += 1
        request, number = _object(message, "request"), message.get("request_id")
        if not isinstance(number, str):
            return
        match request.get("subtype"):
            case "hook_callback":
                self._answer(number, _hook(self._decided(self.desk.before, _object(request, "input"), "tool_input")))
            case "can_use_tool":
                self._answer(number, _permission(self._decided(self.desk.permission, request, "input")))
            case other:
                self._refuse(number, f"turbo does not answer {str(other)[:100]}")

    def _decided(self, decide: Callable[[ToolCall], Decision], fields: Mapping[str, Any], key: str) -> Decision:
        try:
            call = ToolCall(
                str(fields["tool_name"]),
                dict(fields[key]),
                str(fields["tool_use_id"]),
                subagent=fields.get("agent_id") is not None,
            )
        except (KeyError, TypeError, ValueError):
            return Deny(UNREADABLE)
        try:
            return decide(call)
        except Exception:
            log.exception("a call of %s could not be judged, so it is denied", call.tool)
            return Deny(UNREADABLE)

    def _unreadable(self, line: bytes) -> bool:
        """A request that is too long to be read: whatever its id is, it is refused."""
        if not any(kind in line for kind in (b'"control_request"', b'"hook_callback"', b'"can_use_tool"')):
            return False
        self._carried()
        for number in _REQUEST_ID.findall(line)[:_MOST_UNREADABLE_IDS]:
            self._refuse(number.decode(), UNREADABLE)
        return True

    def _answer(self, number: str, body: Mapping[str, Any]) -> None:
        self.stdin.write(_line(_reply(subtype="success", request_id=number, response=body)))

    def _refuse(self, number: str, why: str) -> None:
        self.stdin.write(_line(_reply(subtype="error", request_id=number, error=why)))


def _hook(decision: Decision) -> dict[str, Any]:
    said: dict[str, Any] = {"hookEventName": "PreToolUse"}
    match decision:
        case Defer():
            said["permissionDecision"] = "defer"
        case Deny(words):
            said |= {"permissionDecision": "deny", "permissionDecisionReason": words}
        case Allow(input=changed, leaves_plan=False):
            said |= {"permissionDecision": "allow", "updatedInput": dict(changed)}
        case _:  # leaving the plan is allowed by `can_use_tool`, which can say in which mode the agent goes on
            return {}
    return {"hookSpecificOutput": said}


def _permission(decision: Decision) -> dict[str, Any]:
    match decision:
        case Allow(input=changed, leaves_plan=leaves):
            mode = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
            return {"behavior": "allow", "updatedInput": dict(changed)} | (
                {"updatedPermissions": [mode]} if leaves else {}
            )
        case Deny(words):
            return {"behavior": "deny", "message": words}
    return {"behavior": "deny", "message": UNREADABLE}


def _request(number: str, **request: Any) -> dict[str, Any]:
    return {"type": "control_request", "request_id": number, "request": request}


def _reply(**response: Any) -> dict[str, Any]:
    return {"type": "control_response", "response": response}


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _object(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    return value if isinstance(value, dict) else {}
