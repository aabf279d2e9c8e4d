"""Fields of a line of an agent's output. One that is missing, or has another type, counts as absent."""

from collections.abc import Mapping
from typing import Any

from turbo.domain.outcome import MOST_TOKENS

_MILLISECONDS = 1e11
"""Unix seconds reach this in the year 5138; a larger number is in milliseconds."""

NAME_CHARACTERS = 200
"""Of a session's id, a model, a version, a name of an error: longer ones count as absent."""


def parts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = body.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def object_of(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) else None


def number(fields: Mapping[str, Any], key: str) -> float | None:
    """None if negative, or larger than a count or a time can be: counters must not run backwards."""
    value = fields.get(key)
    sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**62
    return float(value) if sound and value is not None else None


def name(fields: Mapping[str, Any], key: str) -> str | None:
    value = text(fields, key)
    return value if value is not None and len(value) <= NAME_CHARACTERS else None


def tokens(fields: Mapping[str, Any], key: str) -> int:
    return min(whole(fields, key) or 0, MOST_TOKENS)


def whole(fields: Mapping[str, Any], key: str) -> int | None:
    value = number(fields, key)
    return int(value) if value is not None else None


def unix_seconds(stamp: float | None) -> float | None:
    """A Unix time in seconds or milliseconds, as seconds."""
    if stamp is None or stamp <= 0:
        return None
    return stamp / 1000 if stamp > _MILLISECONDS else stamp
