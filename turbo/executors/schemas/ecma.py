"""Regular expressions of a JSON Schema, which are ECMA-262's, for Python's `re`.

`$` is the very end there, not a place before a last line break; `\\d`, `\\w` and `\\b` know ASCII alone; `\\s` knows every space of
Unicode, and `.` no line break. What only one of both languages has is left as it is: Python refuses it when the file is read, or it
is Python's own, such as `(?i)` in front.
"""

import copy
from collections.abc import Mapping
from typing import Any

from turbo.executors.schemas.keywords import subschemas

_SPACES = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_OUTSIDE = {
    r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]", r"\W": "[^A-Za-z0-9_]", r"\s": f"[{_SPACES}]", r"\S": f"[^{_SPACES}]",
    r"\b": r"(?a:\b)", r"\B": r"(?a:\B)", "$": r"\Z", ".": r"[^\n\r\u2028\u2029]",
}  # fmt: skip
_IN_CLASS = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\s": _SPACES}


class Ecma(str):
    """A pattern for `re`, which is shown as it was written."""

    __slots__ = ("written",)

    written: str

    def __new__(cls, written: str) -> "Ecma":
        made = super().__new__(cls, for_python(written))
        made.written = written
        return made

    def __repr__(self) -> str:
        return repr(self.written)


def for_python(pattern: str) -> str:
    """The same expression in Python's words."""
    if pattern.startswith("(?") and pattern[2:3].isalpha() and pattern[2:3] != "P":  # flags, which are Python's own
        return pattern
    made: list[str] = []
    at, inside, first = 0, False, -1
    while at < len(pattern):
        part = pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        if inside:
            inside = part != "]" or at == first
            made.append(_IN_CLASS.get(part, part))
        elif part == "[":
            inside = True
            first = at + (2 if pattern[at + 1 : at + 2] == "^" else 1)
            made.append(part)
        else:
            made.append(_OUTSIDE.get(part, part))
        at += len(part)
    return "".join(made)


def with_patterns_for_python(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a schema, for a validator alone: it is no schema to show, or to refer to by the place of a pattern."""
    made = copy.deepcopy(dict(schema))
    for one in subschemas(made):
        assert isinstance(one, dict)
        if isinstance(pattern := one.get("pattern"), str):
            one["pattern"] = Ecma(pattern)
        if isinstance(named := one.get("patternProperties"), dict):
            one["patternProperties"] = {Ecma(pattern): below for pattern, below in named.items()}
    return made
