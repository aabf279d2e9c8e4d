"""Lines of the Codex CLI in a transcript. No I/O."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_CHARACTERS = 160
_WRAPPED = ("/bin/bash -lc ", "/bin/zsh -lc ", "bash -lc ")


def lines_of(row: Mapping[str, Any]) -> "Iterator[tuple[str, str]] | None":
    """What a line tells, as kinds and texts: `told`, `said`, `call`, `result`, `failed`, `note`. None: it is no line of Codex."""
    match row.get("type"):
        case "turbo.prompt":
            return iter([("told", _text(row, "text"))])
        case "item.completed":
            return _item(row.get("item"))
        case "error":
            return iter([("note", _text(row, "message"))])
        case "turn.completed":
            return iter([("note", "turn completed")])
        case "turn.failed":
            error = row.get("error")
            return iter([("note", f"turn failed: {_text(error, 'message') if isinstance(error, dict) else ''}")])
        case "thread.started" | "turn.started" | "item.started" | "item.updated":
            return iter(())
    return None


def _item(item: object) -> Iterator[tuple[str, str]]:
    if not isinstance(item, dict):
        return
    match item.get("type"):
        case "agent_message":
            yield "said", _text(item, "text")
        case "reasoning":
            yield "note", f"thinking, {len(_text(item, 'text')):,} characters"
        case "command_execution":
            command = _text(item, "command")
            for prefix in _WRAPPED:
                command = command.removeprefix(prefix)
            yield "call", f"shell  {' '.join(command.split())}"[:MOST_CHARACTERS]
            yield ("result" if item.get("exit_code") == 0 else "failed"), _text(item, "aggregated_output")
        case "file_change":
            changes = item.get("changes")
            for change in changes if isinstance(changes, list) else ():
                if isinstance(change, dict):
                    yield "call", f"{_text(change, 'kind')}  {_text(change, 'path')}"[:MOST_CHARACTERS]
        case "error":
            yield "note", _text(item, "message")
        case other:
            yield "call", str(other)[:MOST_CHARACTERS]


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
