"""One line of an agent's output as an object. What is too much of it, or nested too deep, is left out: the program did not write it."""

import json
from typing import Any

from turbo.executors.agent.shallow import shallow

MOST_VALUES = 200_000
"""Of one line, at most one for each comma and bracket. A line with more was not written by the CLI, and is not parsed."""

WHOLE_BYTES = 1024 * 1024
"""A request of the control channel up to this size is parsed whatever it holds: the CLI waits for its answer."""


def parsed(line: bytes, cut: bool, *, control: bool = False) -> dict[str, Any] | None:
    """One line of stdout as an object, or None. `control`: it may be a request of the control channel."""
    if cut or not (_is_short(line) or (control and len(line) <= WHOLE_BYTES)):
        return None
    try:
        message = _loaded(line, whole=control)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _loaded(line: bytes, *, whole: bool) -> object:
    """`whole`: what a person is shown is what the agent would do, so nothing may be left out. Raises ValueError, RecursionError."""
    try:
        return json.loads(line)
    except RecursionError:
        if whole:
            raise
        return json.loads(shallow(line))


def _is_short(line: bytes) -> bool:
    if len(line) <= MOST_VALUES:
        return True
    return line.count(b",") + line.count(b"[") + line.count(b"{") <= MOST_VALUES
