"""What a row may hold before a worker works on it. Parsing, resolving and encoding take time in proportion to a text, on the
event loop, so what is too long is refused by its length alone. Lengths are in characters unless they say bytes.
"""

import re
from dataclasses import dataclass

PATH_BYTES = 4096
"""PATH_MAX of Linux: a longer path cannot be opened."""

REF_BYTES = 255
TYPE_CHARACTERS = 1000
KEY_CHARACTERS = 500
"""Of a concurrency key, as the trigger on inserts has it. The claim cuts a longer one after one more."""

MOST_VALUES = 500_000
"""Values of one JSON document, at most one for each comma and bracket. A document of empty lists takes ten times as long to
parse as a text of its size."""

FEW_QUOTES = 200_000
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""One that does not end is a string as well: it is not tried again from each quote in it."""

HEAVY_CHARACTERS = 256 * 1024
"""From here on a document is worth a turn of the event loop for itself."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """`characters`: of a task's description, and of its input_data as JSON."""

    characters: int = 16_000_000


USUAL_LIMITS = InputLimits()


def too_long(what: str, length: int, most: int, unit: str = "characters") -> str | None:
    """The failure, if `length` is more than `most`."""
    return f"{what} is {length:,} {unit} long; at most {most:,}" if length > most else None


def bytes_of(text: str) -> int:
    """Of the text in UTF-8, lone surrogates included."""
    return len(text.encode("utf-8", "surrogatepass"))


def too_many_values(what: str, raw: str) -> str | None:
    """The failure, if a JSON text may hold more than MOST_VALUES."""
    if len(raw) <= MOST_VALUES:
        return None
    values = _most_values(raw)
    if values > MOST_VALUES and raw.count('"') <= FEW_QUOTES:  # the commas may be those of a long text
        values = _most_values(_STRING.sub("", raw))
    return f"{what} has up to {values:,} values; at most {MOST_VALUES:,}" if values > MOST_VALUES else None


def _most_values(raw: str) -> int:
    return raw.count(",") + raw.count("[") + raw.count("{")
