"""The output of `codex exec --json`, line by line, as typed facts.

    thread.started ──▶ turn.started ──▶ item.started, item.completed, error … ──▶ turn.completed, or turn.failed

The parser is lenient: it counts and skips what it does not understand, and nothing here raises. An `error` line is a retry; only
one that `turn.failed` follows is final. An item of type `error` is a warning. Why a turn failed, and until when, is in the rollout
file (turbo.executors.codex.rollout).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed

TEXT_CHARACTERS = 1024 * 1024
"""How much of an answer is kept."""

_RETRY = "Reconnecting..."
_OFFLINE = "waiting for network"
_NO_SANDBOX = "bwrap: "
_NO_SANDBOX_FOR = ("No permissions", "Operation not permitted", "Permission denied", "Creating new namespace failed")


class CodexLine(StrEnum):
    """The kind of a line, as far as the executor acts on it."""

    THREAD = "thread.started"
    ITEM = "item"
    RETRY = "retry"
    OVER = "over"
    OTHER = "other"


@dataclass(slots=True)
class CodexStream:
    """All that stdout has said so far of one call. Feed it with `read`.

    `thread`: the thread's id. `began`: a turn did. `completed`: the turn did. `failed`: why it did not; None: it did not fail.
    `items`: what the agent has said and done, without warnings. `retrying`: a request failed, and nothing came since. `offline`: how
    often the CLI has said that it waits for the network. `sandbox_refused`: what a command printed whose sandbox could not be made.
    `input_tokens` and `output_tokens` are the thread's total, known at the end of a turn; `input_tokens` includes `cached_tokens`.
    """

    thread: str | None = None
    began: bool = False
    completed: bool = False
    failed: str | None = None
    items: int = 0
    text: str = ""
    truncated: bool = False
    last_line: str = ""
    retrying: bool = False
    offline: int = 0
    last_error: str = ""
    sandbox_refused: str | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    lines: int = 0
    unreadable: int = 0

    def read(self, line: bytes, cut: bool = False) -> CodexLine:
        """Read one line of stdout. Lines with `cut` were too long to keep whole, and are no longer JSON."""
        if not line.strip():
            return CodexLine.OTHER
        self.lines += 1
        message = parsed(line, cut)
        if message is None:
            self.unreadable += 1
            return CodexLine.OTHER
        match message.get("type"):
            case "thread.started":
                self.thread = fields.name(message, "thread_id") or self.thread
                return CodexLine.THREAD
            case "turn.started":
                self.began = True
            case "item.started" | "item.updated" | "item.completed":
                return self._item(fields.object_of(message, "item"), done=message.get("type") == "item.completed")
            case "error":
                return self._error(fields.text(message, "message") or "")
            case "turn.completed":
                self._used(fields.object_of(message, "usage"))
                self.completed, self.retrying = True, False
                return CodexLine.OVER
            case "turn.failed":
                self.failed = fields.text(fields.object_of(message, "error"), "message") or "without a reason"
                return CodexLine.OVER
        return CodexLine.OTHER

    def _item(self, item: Mapping[str, Any], *, done: bool) -> CodexLine:
        if item.get("type") == "error":
            return CodexLine.OTHER
        self.items += 1
        self.retrying = False
        if item.get("type") == "agent_message" and done:
            text = fields.text(item, "text") or ""
            self.text, self.truncated = text[:TEXT_CHARACTERS], len(text) > TEXT_CHARACTERS
            self.last_line = text.rstrip().rpartition("\n")[2][:500]
        if item.get("type") == "command_execution":
            self._command(item, done=done)
        return CodexLine.ITEM

    def _command(self, item: Mapping[str, Any], *, done: bool) -> None:
        if not done:
            self.last_line = (fields.text(item, "command") or "")[:500]
            return
        printed = fields.text(item, "aggregated_output") or ""
        refused = printed.startswith(_NO_SANDBOX) and any(why in printed[:1000] for why in _NO_SANDBOX_FOR)
        if item.get("exit_code") == 1 and refused:
            self.sandbox_refused = printed[:300].strip()
        elif item.get("exit_code") == 0:
            self.sandbox_refused = None

    def _error(self, text: str) -> CodexLine:
        self.last_error = text[:4000]
        if not text.startswith(_RETRY):
            return CodexLine.OTHER
        self.retrying = True
        if _OFFLINE in text:
            self.offline += 1
        return CodexLine.RETRY

    def _used(self, usage: Mapping[str, Any]) -> None:
        self.input_tokens = fields.tokens(usage, "input_tokens")
        self.cached_tokens = fields.tokens(usage, "cached_input_tokens")
        self.cache_write_tokens = fields.tokens(usage, "cache_write_input_tokens")
        self.output_tokens = fields.tokens(usage, "output_tokens")
