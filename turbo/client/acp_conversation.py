"""Lines of an agent over ACP in a transcript. No I/O."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_CHARACTERS = 160


def lines_of(row: Mapping[str, Any]) -> "Iterator[tuple[str, str]] | None":
    """What a line tells, as kinds and texts: `said`, `call`, `result`, `failed`, `note`. None: it is no line of such an agent."""
    match row.get("type"):
        case "turbo.said":
            return iter([("said", _text(row, "text"))])
        case "turbo.thought":
            return iter([("note", f"thinking, {len(_text(row, 'text')):,} characters")])
    if row.get("method") != "session/update":
        return None
    params = row.get("params")
    update = params.get("update") if isinstance(params, dict) else None
    return _update(update) if isinstance(update, dict) else iter(())


def _update(update: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    match update.get("sessionUpdate"):
        case "tool_call_update" if update.get("status") in ("completed", "failed"):
            yield (
                "call",
                f"{_text(update, 'kind') or 'tool'}  {' '.join(_text(update, 'title').split())}"[:MOST_CHARACTERS],
            )
            yield ("result" if update["status"] == "completed" else "failed"), _content(update.get("content"))
        case "tool_call" if update.get("status") in ("completed", "failed"):
            yield (
                "call",
                f"{_text(update, 'kind') or 'tool'}  {' '.join(_text(update, 'title').split())}"[:MOST_CHARACTERS],
            )
        case "plan":
            entries = update.get("entries")
            for one in entries if isinstance(entries, list) else ():
                if isinstance(one, dict):
                    yield "note", f"plan: {_text(one, 'content')} ({_text(one, 'status')})"


def _content(content: object) -> str:
    texts = []
    for one in content if isinstance(content, list) else ():
        if isinstance(one, dict) and one.get("type") == "diff":
            texts.append(f"changed {_text(one, 'path')}")
        elif isinstance(one, dict) and isinstance(inner := one.get("content"), dict):
            texts.append(_text(inner, "text"))
    return "\n".join(texts)


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
