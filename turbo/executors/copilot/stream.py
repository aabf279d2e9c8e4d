"""What the Copilot CLI prints on stdout: one JSON a line, read leniently.

    user.message ──▶ (model.call_start ──▶ assistant.message, tool.execution_start, tool.execution_complete …) ──▶ assistant.idle
        └── session.error: why it has failed                       └── assistant.turn_retry: a request is tried again
    result: the last line, with the exit code

A line with an `agentId` is a subagent's: only its progress counts. What the run used is in the session's own file
(turbo.executors.copilot.session_file). Measured with version 1.0.102.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed

TEXT_CHARACTERS = 1024 * 1024
"""How much of an answer is kept."""

_SPENT = "limit reached"
_NOT_THE_END = ("model_call", "hook")
"""Kinds of errors after which the CLI goes on."""


class CopilotLine(StrEnum):
    """The kind of a line, as far as the executor acts on it."""

    BEGAN = "began"
    ITEM = "item"
    ERROR = "error"
    OVER = "over"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class CopilotError:
    """An error that ends the turn. `kind`: authentication, authorization, policy, quota, rate_limit, context_limit, query, or another
    word of the CLI's; `code`: the service's; `status`: of HTTP. Empty and None: not told."""

    kind: str
    message: str
    code: str = ""
    status: int | None = None


@dataclass(slots=True)
class CopilotStream:
    """All that stdout has said so far of one call. Feed it with `read`.

    `began`: the session has the prompt. `idle`: the agent's turn is over. `over`: the last line has come. `aborted`: the turn was
    interrupted. `error`: why it failed; None: it did not. `items`: what the agent has said and done. `retrying`: a request failed, and
    nothing came since. `denied`: calls of tools that were not allowed. `spent`: the session's own limit
    of AI credits is reached.
    """

    session: str | None = None
    model: str | None = None
    began: bool = False
    idle: bool = False
    over: bool = False
    exit_code: int | None = None
    aborted: bool = False
    error: CopilotError | None = None
    items: int = 0
    text: str = ""
    truncated: bool = False
    last_line: str = ""
    retrying: bool = False
    denied: int = 0
    spent: str | None = None
    lines: int = 0
    unreadable: int = 0

    def read(self, line: bytes, cut: bool = False) -> CopilotLine:
        """Read one line of stdout. Lines with `cut` were too long to keep whole, and are no longer JSON."""
        if not line.strip():
            return CopilotLine.OTHER
        self.lines += 1
        message = parsed(line, cut)
        if message is None:
            self.unreadable += 1
            return CopilotLine.OTHER
        if message.get("type") == "result":
            return self._result(message)
        data = fields.object_of(message, "data")
        if fields.text(message, "agentId"):
            return self._of_subagent(message.get("type"), data)
        match message.get("type"):
            case "user.message":
                self.began = True
                return CopilotLine.BEGAN
            case "model.call_start":
                self.model = fields.name(data, "model") or self.model
                self.error, self.idle = None, False  # it goes on after all
                return CopilotLine.OTHER
            case "assistant.message_delta" | "assistant.reasoning_delta":
                self.retrying = False
                return CopilotLine.OTHER
            case "assistant.message":
                return self._message(data)
            case "tool.execution_start" | "tool.execution_complete":
                return self._tool(data)
            case "assistant.turn_retry":
                self.retrying = True
                return CopilotLine.OTHER
            case "session.warning" if data.get("warningType") == "session_limits" and _SPENT in str(
                data.get("message")
            ):
                self.spent = fields.text(data, "message")
                return CopilotLine.OTHER
            case "session.error":
                return self._error(data)
            case "abort":
                self.aborted = True
                return CopilotLine.OTHER
            case "assistant.idle":
                self.idle = True
                self.aborted = self.aborted or data.get("aborted") is True
                return CopilotLine.OTHER
        return CopilotLine.OTHER

    def _message(self, data: Mapping[str, Any]) -> CopilotLine:
        self.items += 1
        self.retrying = False
        if text := fields.text(data, "content"):
            self.text, self.truncated = text[:TEXT_CHARACTERS], len(text) > TEXT_CHARACTERS
            self.last_line = text.rstrip().rpartition("\n")[2][:500]
        return CopilotLine.ITEM

    def _tool(self, data: Mapping[str, Any]) -> CopilotLine:
        self.items += 1
        self.retrying = False
        if name := fields.name(data, "toolName"):
            command = fields.text(fields.object_of(data, "arguments"), "command")
            self.last_line = (command or name)[:500]
        if fields.object_of(data, "error").get("code") == "denied":
            self.denied += 1
        return CopilotLine.ITEM

    def _of_subagent(self, kind: object, data: Mapping[str, Any]) -> CopilotLine:
        if kind not in ("assistant.message", "tool.execution_start"):
            return CopilotLine.OTHER
        self.items += 1
        self.retrying = False
        self.last_line = fields.name(data, "toolName") or self.last_line
        return CopilotLine.ITEM

    def _error(self, data: Mapping[str, Any]) -> CopilotLine:
        kind = fields.name(data, "errorType") or ""
        if kind in _NOT_THE_END:
            return CopilotLine.OTHER
        self.error = CopilotError(
            kind,
            (fields.text(data, "message") or "without a reason")[:TEXT_CHARACTERS],
            fields.name(data, "errorCode") or "",
            fields.whole(data, "statusCode"),
        )
        return CopilotLine.ERROR

    def _result(self, message: Mapping[str, Any]) -> CopilotLine:
        self.session = fields.name(message, "sessionId") or self.session
        self.exit_code = fields.whole(message, "exitCode")
        self.over = True
        return CopilotLine.OVER
