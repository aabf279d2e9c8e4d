"""turbo's side of the CLI's stdin, which stays open during a run: the prompt, messages to the agent, and the control channel of
runs that may ask. Lines of JSON on the CLI's stdin and stdout.

    initialize ──▶ its answer: can this CLI hold calls? ──▶ the prompt ──────────────────────────▶ requests ──▶ result
        └── no: the call ends here                  └── a deferred call is carried out first ──┘   each is answered;
                                                                                                   then stdin is closed

Without the control channel the prompt is the first line. Where people may send messages (courier.py), stdin stays open after a
result as long as the CLI has one to begin with, and for one last look into the mailbox.

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

from turbo.domain.mailbox import Mailbox
from turbo.domain.work import Message
from turbo.executors.agent.desk import (
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
from turbo.executors.agent.json_line import parsed
from turbo.executors.claude.courier import Courier, user_message
from turbo.executors.claude.stream import DEFERRED, Result
from turbo.process.stdin import MOST_UNREAD, OpenStdin

log = logging.getLogger(__name__)

CHANNEL = ("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose")
CHANNEL_TOOL = ("--permission-prompt-tool", "stdio")
"""Without such a tool the model is never offered AskUserQuestion."""

HOOK_SECONDS = 60
ANSWER_SECONDS = 120.0
"""For the start of the CLI on a busy host; it takes half a second on an idle one."""

NEXT_TURN_SECONDS = 60.0
"""After a result, how long the CLI may take to begin with a message that it has. It takes 0.1 s on an idle host."""

CARRY_SECONDS = 2.0
"""How long an older CLI, which does not tell whether it carries out a deferred call, may take to begin."""

_ASK = '{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"ask"}}'
_INITIALIZE, _OPEN_GATE, _WITHDRAW = "turbo-initialize", "turbo-gate", "turbo-withdraw"
_TOOL_RESULT, _ASSISTANT, _INIT = b'{"type":"user"', b'{"type":"assistant"', b'"subtype":"init"'
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
    """One call of the CLI. `desk` None: the run asks nothing, and has no control channel. `prompt` is sent when nothing deferred is
    carried out. `holds`: calls are held, so a CLI that cannot be relied on for that gets no prompt: `unfit` says why, and `enough`
    is set. `gate`: the one in its settings, if it has one. `ending`: whether the run is being ended. `requests` counts those of the
    CLI. `on_closed` is called once, when nothing more is sent."""

    def __init__(
        self,
        desk: Desk | None,
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
        self.courier: Courier | None = None
        self.on_closed: Callable[[], None] = lambda: None
        self._begun = False
        self._sent = False
        self._ended = False  # there was a result
        self._prompt = prompt
        self._resumed = resumed
        self._holds = holds
        self._gate = gate
        self._ending = ending
        self._waiting: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        return CHANNEL if self.desk is None else (*CHANNEL, *CHANNEL_TOOL)

    def delivers(self, mailbox: Mailbox, in_prompt: Sequence[Message]) -> None:
        """Messages are handed over from here; the prompt contains some."""
        self.courier = Courier(mailbox, lambda message: self.stdin.write(_line(message)), in_prompt)

    def opening(self) -> bytes:
        """The first line for the CLI, which has ANSWER_SECONDS to answer it, unless it is busy with an earlier session."""
        if self.desk is None:
            return _line(self._prompted())
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
        if self._waiting is not None and self._ended and (_INIT in line[:200] or line.startswith(_ASSISTANT)):
            self._stop_waiting()  # it has begun with a message
        if b"control_re" not in line:
            if b"command_lifecycle" in line[:200]:
                self._lifecycle(parsed(line, cut) or {})
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

    def answered(self) -> None:
        """The model has answered, in the main conversation."""
        if self.courier is not None:
            self.courier.answered()

    def turn_over(self, result: Result) -> None:
        """A result came. The CLI waits for the next prompt, or for the end of its stdin."""
        self._ended = True
        if self.courier is None or result.stop_reason == DEFERRED or self._ending():
            self.close()
            return
        self.courier.turn_over()
        if self.courier.acknowledged or (self.courier.on_way and result.succeeded):
            self._expect_turn()
        elif not result.succeeded:  # it may be unable to begin at all
            self.close()
        elif self._looking is None:
            self._looking = asyncio.create_task(self._last_look(self.courier))

    async def _last_look(self, courier: Courier) -> None:
        more = await courier.more()
        self._looking = None
        if more and not self._ending():
            self._expect_turn()
        else:
            self.close()

    def _expect_turn(self) -> None:
        self._stop_waiting()
        self._waiting = asyncio.get_running_loop().call_later(NEXT_TURN_SECONDS, self.close)

    def close(self) -> None:
        """Nothing more is expected of the agent."""
        self._stop_waiting()
        if self._looking is not None:
            self._looking.cancel()
        if not self.stdin.closed:
            self.stdin.close()
            self.on_closed()

    def over(self) -> None:
        """The CLI is gone."""
        self.close()
        if self.courier is not None:
            self.courier.close()

    def _result_came(self, line: bytes, cut: bool) -> None:
        """Of an approved call, by its id. What a call says that is ended with its run, is not its outcome."""
        made = self.desk.under_way if self.desk is not None else None
        if self.desk is None or made is None or self._ending():
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
        self.stdin.write(_line(self._prompted()))

    def _prompted(self) -> dict[str, Any]:
        number = str(uuid.uuid4())
        self._sent = True
        if self.courier is not None:
            self.courier.prompted(number)
        return user_message(number, self._prompt)

    def _open_gate(self) -> None:
        if self._gate is not None:
            opened = {"env": {self._gate: "1"}}
            self.stdin.write(_line(_request(_OPEN_GATE, subtype="apply_flag_settings", settings=opened)))
            self._gate = None

    def _carried(self) -> None:
        """A turn has begun: with the prompt, or with a deferred call."""
        self._stop_waiting()
        if not self._begun:
            self._begun = True
            if not self._sent and self.courier is not None:
                self.courier.carried()

    def _lifecycle(self, message: Mapping[str, Any]) -> None:
        """A receipt: of the prompt, of a message, or of a deferred call."""
        state = message.get("state")
        known = self.courier is not None and self.courier.receipt(message.get("command_uuid"), state)
        if (self.desk is not None and not self._ended) or (known and state == "started"):
            self._carried()

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
            case "hook_callback" if self.desk is not None:
                decision = self._decided(self.desk.before, _object(request, "input"), "tool_input")
                if isinstance(decision, Defer):
                    self._withdraw()
                self._answer(number, _hook(decision))
            case "can_use_tool" if self.desk is not None:
                self._answer(number, _permission(self._decided(self.desk.permission, request, "input")))
            case other:
                self._refuse(number, f"turbo does not answer {str(other)[:100]}")

    def _withdraw(self) -> None:
        """The run ends by asking. A message that the CLI keeps would be its next prompt, and drop the question."""
        number = self.courier.withdraw() if self.courier is not None else None
        if number is not None:
            self.stdin.write(_line(_request(_WITHDRAW, subtype="cancel_async_message", message_uuid=number)))

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
