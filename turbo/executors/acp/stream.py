"""What an agent reports of one turn, update by update, as typed facts. Nothing here raises.

    session/update: agent_message_chunk, tool_call, tool_call_update, usage_update, … ──▶ AcpStream ──▶ the answer of session/prompt

The agent's answer is its last message: the text since the last call of a tool, or since a new message id.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from turbo.domain.outcome import MOST_TOKENS, ModelUsage
from turbo.executors.agent import fields

TEXT_CHARACTERS = 1024 * 1024
"""How much of an answer is kept."""

LAST_LINE_CHARACTERS = 500


@dataclass(slots=True)
class AcpStream:
    """`messages`: how many the agent has begun since its last call of a tool. `said`: all characters of its messages. `tools`: its
    calls. `said_since_denial`: whether it has said anything since a call was denied; None: none was. `cost`: in US dollars, the
    session's; None: it told none, or nothing, as it does for a model that it has no price of."""

    text: str = ""
    truncated: bool = False
    last_line: str = ""
    messages: int = 0
    said: int = 0
    thought: int = 0
    tools: int = 0
    updates: int = 0
    said_since_denial: bool | None = None
    cost: float | None = None
    model: str = ""
    _message_id: str | None = None
    _open: bool = False
    _requests: list[Mapping[str, Any]] = field(default_factory=list)

    def update(self, update: Mapping[str, Any]) -> str | None:
        """Returns its kind."""
        kind = fields.name(update, "sessionUpdate")
        self.updates += 1
        match kind:
            case "agent_message_chunk":
                self._chunk(update)
            case "agent_thought_chunk":
                self.thought += len(_text(update))
            case "tool_call":
                self.tools += 1
                self.messages = 0
                self._open = False
                self.last_line = (fields.text(update, "title") or "")[:LAST_LINE_CHARACTERS]
            case "tool_call_update":
                self._open = False
            case "usage_update":
                self._cost(fields.object_of(update, "cost"))
        used = fields.object_of(fields.object_of(update, "_meta"), "usage")
        if used:
            self._requests = [*self._requests[-999:], used]
        return kind

    def denied(self) -> None:
        self.said_since_denial = False

    @property
    def silent(self) -> bool:
        """It has said and done nothing at all."""
        return not (self.said or self.tools or self.thought)

    def _chunk(self, update: Mapping[str, Any]) -> None:
        text, number = _text(update), fields.name(update, "messageId")
        if not text:
            return
        if not self._open or number != self._message_id:
            self.text, self.truncated = "", False
            self.messages += 1
            self._open, self._message_id = True, number
        self.said += len(text)
        if self.said_since_denial is False and text.strip():
            self.said_since_denial = True
        room = TEXT_CHARACTERS - len(self.text)
        self.text += text[:room]
        self.truncated = self.truncated or len(text) > room
        tail = self.text[-2 * LAST_LINE_CHARACTERS :].rstrip().rpartition("\n")[2]
        self.last_line = tail[-LAST_LINE_CHARACTERS:]

    def _cost(self, cost: Mapping[str, Any]) -> None:
        amount = fields.number(cost, "amount")
        if amount and cost.get("currency") in (None, "USD"):
            self.cost = amount

    def used(self, result: Mapping[str, Any], where: str) -> tuple[ModelUsage, ...]:
        """What the turn has used, by `usage` of the profile; nothing where nothing is told."""
        return tuple(_WAYS[where](self, result))


def _text(update: Mapping[str, Any]) -> str:
    content = fields.object_of(update, "content")
    return fields.text(content, "text") or "" if content.get("type") == "text" else ""


def _of_result(stream: AcpStream, result: Mapping[str, Any]) -> list[ModelUsage]:
    usage = fields.object_of(result, "usage")
    one = ModelUsage(
        stream.model,
        fields.tokens(usage, "inputTokens"),
        fields.tokens(usage, "outputTokens"),
        fields.tokens(usage, "cachedReadTokens"),
        fields.tokens(usage, "cachedWriteTokens"),
    )
    return [one] if usage else []


def _of_quota(stream: AcpStream, result: Mapping[str, Any]) -> list[ModelUsage]:
    quota = fields.object_of(fields.object_of(result, "_meta"), "quota")
    by_model = quota.get("model_usage")
    found = []
    for one in by_model if isinstance(by_model, list) else ():
        if isinstance(one, dict):
            count = fields.object_of(one, "token_count")
            model = fields.name(one, "model") or stream.model
            found.append(ModelUsage(model, fields.tokens(count, "input_tokens"), fields.tokens(count, "output_tokens")))
    count = fields.object_of(quota, "token_count")
    if not found and count:
        found.append(
            ModelUsage(stream.model, fields.tokens(count, "input_tokens"), fields.tokens(count, "output_tokens"))
        )
    return found


def _of_updates(stream: AcpStream, _result: Mapping[str, Any]) -> list[ModelUsage]:
    read = sum(fields.tokens(one, "cachedReadTokens") for one in stream._requests)
    whole = sum(fields.tokens(one, "inputTokens") for one in stream._requests)
    total = ModelUsage(
        stream.model,
        min(max(0, whole - read), MOST_TOKENS),
        min(sum(fields.tokens(one, "outputTokens") for one in stream._requests), MOST_TOKENS),
        min(read, MOST_TOKENS),
    )
    return [total] if stream._requests else []


_WAYS: Mapping[str, Callable[[AcpStream, Mapping[str, Any]], list[ModelUsage]]] = {
    "result": _of_result,
    "meta_quota": _of_quota,
    "meta_usage": _of_updates,
    "none": lambda _stream, _result: [],
}
