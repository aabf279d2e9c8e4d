"""Makes a result storable: whatever an agent or a handler returned becomes JSON that PostgreSQL accepts.

One NUL character, lone surrogate or NaN would make the whole batch fail, again and again. Every alteration is listed
in notes, which are stored with the result.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from turbo.domain.result import RunResult
from turbo.domain.usage import UsageRow, cut_name

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_DEPTH = 200
"""Levels of nesting. Far below the limits of PostgreSQL's parser (stack depth) and Python's (1,000)."""

MAX_INTEGER = 10**1000
MAX_TEXT = 16 * 1024 * 1024
"""Characters of one string. A jsonb string ends at 256 MB, and 16 million characters are more than a person reads."""


def sanitize_text(text: str, notes: set[str]) -> str:
    """`text` without the characters that PostgreSQL's text type cannot store."""
    if "\0" in text:
        notes.add("NUL characters were replaced")
        text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        notes.add("lone surrogates were replaced")
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(text) > MAX_TEXT:
        notes.add(f"a text was cut at {MAX_TEXT} characters")
        text = text[:MAX_TEXT]
    return text


def sanitize(value: object, notes: set[str], depth: int = 0) -> Any:
    """`value` as JSON that jsonb accepts. `notes` collects what was altered."""
    if depth > MAX_DEPTH:
        notes.add(f"nesting deeper than {MAX_DEPTH} levels was cut")
        return None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return sanitize_text(value, notes)
    if isinstance(value, int):
        if abs(value) < MAX_INTEGER:
            return value
        notes.add("an integer of more than 1,000 digits became its size")
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        notes.add("NaN or Infinity became text")
        return str(value)
    if isinstance(value, dict):
        return {sanitize_text(str(k), notes): sanitize(v, notes, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [sanitize(v, notes, depth + 1) for v in value]
    if isinstance(value, bytes | bytearray):
        notes.add("bytes became text")
        return sanitize_text(bytes(value).decode("utf-8", "replace"), notes)
    notes.add(f"a {type(value).__name__} became text")
    return sanitize_text(str(value), notes)


def sanitize_result(result: RunResult) -> RunResult:
    """The same result, altered only as far as PostgreSQL requires. `detail.altered` lists the alterations."""
    notes: set[str] = set()
    output = sanitize(result.output, notes)
    error = None if result.error is None else sanitize_text(result.error, notes)
    session = None if result.agent_session_id is None else sanitize_text(result.agent_session_id, notes)
    detail = sanitize(result.detail, notes)
    checks = sanitize(result.checks, notes) if result.checks else result.checks
    if notes:
        detail["altered"] = sorted(notes)
        if isinstance(output, dict):
            output["altered"] = sorted(notes)
    usage = sanitize_usage(result.usage)
    return replace(
        result, output=output, error=error, agent_session_id=session, detail=detail, checks=checks, usage=usage
    )


def sanitize_usage(rows: Iterable[UsageRow], *, ascii_only: bool = False) -> tuple[UsageRow, ...]:
    """The same rows with names that PostgreSQL can store; `ascii_only`: in a database of any encoding."""

    def name(text: str) -> str:
        clean = sanitize_text(text, set())
        return cut_name(clean.encode("ascii", "replace").decode() if ascii_only else clean)

    return tuple(
        replace(row, executor=name(row.executor), account=name(row.account), model=name(row.model)) for row in rows
    )
