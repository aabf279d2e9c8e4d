"""Fields of a JSON file that this or another process has written: of the expected type, and within bounds.

A damaged file must not end whoever reads it. So everything that is wrong with one is a ValueError: no JSON, nested without end,
a number out of range, text where a number belongs.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from turbo.host.regular_file import read_regular

MOST_BYTES = 256 * 1024 * 1024


def parse(text: str) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError."""
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested too deep: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"it holds a {type(fields).__name__}, not an object")
    return fields


def read(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a regular file of UTF-8. Raises OSError (NotRegular for a link, a FIFO or a longer file), ValueError."""
    return parse(read_regular(path, most_bytes).decode("utf-8"))


def text(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Raises ValueError, also without a field and a default."""
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_shown(value)}, not text")
    return value


def whole(fields: Mapping[str, Any], name: str, least: int, most: int, default: int | None = None) -> int:
    """Raises ValueError, also without a field and a default."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {_shown(value)}, not a whole number from {least} to {most}")
    return value


def real(fields: Mapping[str, Any], name: str, least: float, most: float, default: float | None = None) -> float:
    """Finite. Raises ValueError, also without a field and a default."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {_shown(value)}, not a number from {least:g} to {most:g}")
    return float(value)


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite or undefined"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    return (
        "missing"
        if value is None
        else f"{value!r:.60}"
        if isinstance(value, str | int | float)
        else type(value).__name__
    )
