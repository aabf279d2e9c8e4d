"""What of an agent's updates goes into the transcript. An agent sends a message in pieces of a word or two; a reader gets it whole.

agent_message_chunk, agent_message_chunk, … ──▶ {"type": "turbo.said", "text": "…"}          any other update ──▶ as it came
"""

import json

from turbo.domain.transcript import TranscriptSink
from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed

PIECE_CHARACTERS = 64 * 1024
"""A longer message is several lines."""

_KINDS = {"agent_message_chunk": "turbo.said", "agent_thought_chunk": "turbo.thought"}
_LEFT_OUT = frozenset({"usage_update", "available_commands_update", "config_option_update", "current_mode_update"})


class SaidLines:
    """Feed it with lines that are updates."""

    def __init__(self, transcript: TranscriptSink) -> None:
        self._transcript = transcript
        self._type: str | None = None
        self._number: str | None = None
        self._pieces: list[str] = []
        self._characters = 0

    def update(self, line: bytes) -> None:
        if not self._transcript.wanted:
            return
        update = fields.object_of(fields.object_of(parsed(line, cut=False) or {}, "params"), "update")
        kind = fields.name(update, "sessionUpdate")
        text = fields.text(fields.object_of(update, "content"), "text")
        if kind in _KINDS and text is not None:
            self._piece(_KINDS[kind], fields.name(update, "messageId"), text)
        elif kind not in _LEFT_OUT:
            self.close()
            self._transcript.line(line)

    def _piece(self, what: str, number: str | None, text: str) -> None:
        if (what, number) != (self._type, self._number) or self._characters > PIECE_CHARACTERS:
            self.close()
            self._type, self._number = what, number
        self._pieces.append(text)
        self._characters += len(text)

    def close(self) -> None:
        """The message is whole, or nothing more comes of it."""
        if self._pieces:
            row = {"type": self._type, "text": "".join(self._pieces)}
            self._transcript.line(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        self._pieces, self._characters, self._type, self._number = [], 0, None, None
