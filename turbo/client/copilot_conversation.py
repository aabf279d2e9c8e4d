"""Lines of the GitHub Copilot CLI in a transcript. No I/O."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

MOST_CHARACTERS = 160
_MAIN = ("command", "path", "pattern", "url", "query", "prompt", "description")
"""The argument of a tool that says most about the call, the best first."""

_FAMILIES = ("session.", "assistant.", "model.", "user.", "tool.", "subagent.", "agent.", "permission.", "hook.")


def lines_of(row: Mapping[str, Any]) -> "Iterator[tuple[str, str]] | None":
    """What a line tells, as kinds and texts: `said`, `call`, `result`, `failed`, `note`. None: it is no line of Copilot."""
    kind, data = row.get("type"), row.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        return None
    match kind:
        case "assistant.message":
            return iter([("said", text)] if (text := _text(data, "content")) else [])
        case "tool.execution_start":
            return iter([("call", _call(data))])
        case "tool.execution_complete":
            return iter([_result(data)])
        case "session.error":
            return iter([("note", f"turn failed: {_text(data, 'message')}")])
        case "session.info" | "session.warning":
            return iter([("note", _text(data, "message"))])
        case "abort":
            return iter([("note", "interrupted")])
    return iter(()) if kind.startswith(_FAMILIES) else None


def _call(data: Mapping[str, Any]) -> str:
    arguments = data.get("arguments")
    fields = arguments if isinstance(arguments, dict) else {}
    main = next((fields[key] for key in _MAIN if isinstance(fields.get(key), str)), None)
    text = main if main is not None else json.dumps(arguments, ensure_ascii=False) if arguments else ""
    return f"{_text(data, 'toolName')}  {' '.join(text.split())}"[:MOST_CHARACTERS].rstrip()


def _result(data: Mapping[str, Any]) -> tuple[str, str]:
    shell, result, error = (data.get(key) for key in ("shellExecution", "result", "error"))
    if isinstance(error, dict):
        return "failed", _text(error, "message")
    text = _text(result, "content") if isinstance(result, dict) else ""
    failed = data.get("success") is False or (isinstance(shell, dict) and shell.get("exitCode") not in (0, None))
    return ("failed" if failed else "result"), text


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
