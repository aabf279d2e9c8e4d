"""The file of a session: what a call of the Copilot CLI has used, request by request.

    $COPILOT_HOME/session-state/0f9e5c3a-…/events.jsonl      all turns of a session, one JSON a line

A call is read from where the file ended before it. It is written as the agent works, so a run that was cut off is counted too. stdout
has no tokens, and `--usage-output-file` has the session's total only (measured with 1.0.102).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turbo.domain.outcome import ModelUsage
from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed
from turbo.executors.agent.session_lines import LINE_BYTES, lines_from, size_of
from turbo.host.removal import remove_tree
from turbo.process.identity import Identity

_RECORD = b'"session.usage_record"'
_KIND_BYTES = 100
"""The kind of a line stands within so many bytes of its beginning."""

_OWN = (None, "conversation-agent", "conversation-user")
"""Kinds of requests of the agent itself, not of its subagents."""

MOST_MODELS = 100
NANO = 1e9


@dataclass(slots=True)
class SessionUsage:
    """What the file says of one call. Feed it with `read`.

    `premium_requests` and `ai_credits`: what the account was charged; which of them depends on its plan. `finish`: why the service
    ended the agent's last answer: `stop`, `tool_calls`, `length`, `content_filter`.
    """

    premium_requests: float = 0.0
    ai_credits: float = 0.0
    finish: str | None = None
    _models: dict[str, ModelUsage] = field(default_factory=dict)

    def read(self, line: bytes) -> None:
        if len(line) > LINE_BYTES or _RECORD not in line[:_KIND_BYTES]:
            return
        usage = fields.object_of(fields.object_of(parsed(line, cut=False) or {}, "data"), "usage")
        used = _tokens_of(usage)
        known = self._models.get(used.model)
        if known is not None:
            self._models[used.model] = _sum(known, used)
        elif len(self._models) < MOST_MODELS:
            self._models[used.model] = used
        self.premium_requests += fields.number(usage, "cost") or 0.0
        self.ai_credits += (fields.number(fields.object_of(usage, "copilotUsage"), "totalNanoAiu") or 0.0) / NANO
        if fields.name(usage, "interactionType") in _OWN:
            self.finish = fields.name(usage, "finishReason")

    @property
    def usage(self) -> tuple[ModelUsage, ...]:
        """By model. Input counts are without what was read from the cache or written to it."""
        return tuple(used.bounded() for used in self._models.values() if used != ModelUsage(used.model))


def _tokens_of(usage: Mapping[str, Any]) -> ModelUsage:
    cached, written = fields.tokens(usage, "cacheReadTokens"), fields.tokens(usage, "cacheWriteTokens")
    return ModelUsage(
        fields.name(usage, "model") or "",
        max(0, fields.tokens(usage, "inputTokens") - cached - written),
        fields.tokens(usage, "outputTokens"),
        cached,
        written,
    )


def _sum(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    return ModelUsage(
        one.model,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cache_read_tokens + other.cache_read_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
    )


class CopilotSessions:
    """The sessions below one COPILOT_HOME. `user`: whose they are; None: this process's. All methods block, and raise OSError."""

    def __init__(self, home: Path, user: Identity | None = None) -> None:
        self._sessions = home / "session-state"
        self._user = user

    def size(self, session: str) -> int:
        """Of the file of a session, in bytes: where a call that resumes it begins. `session`: a UUID."""
        return size_of(self._file(session), self._user) or 0

    def read(self, session: str, begin: int) -> SessionUsage:
        """What it says from byte `begin` on; nothing if there is no such file."""
        found = SessionUsage()
        if size_of(self._file(session), self._user) is not None:
            for line in lines_from(self._file(session), begin, self._user):
                found.read(line)
        return found

    def remove(self, session: str) -> None:
        directory = self._sessions / session
        if self._user is not None:
            self._user.remove(directory)
        elif remains := remove_tree(directory):
            raise OSError(remains)

    def _file(self, session: str) -> Path:
        return self._sessions / session / "events.jsonl"
