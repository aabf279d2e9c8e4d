"""Text from a row, an agent or another host, made safe for a terminal: what would steer it is shown as an escape, `\\x1b`.

Made visible are the control characters (C0 but newline and tab, DEL, C1), the marks that change the direction of text, other
characters that leave no mark of their own (zero-width ones, fillers, tags, variation selectors), the separators of lines and
paragraphs, and lone surrogates. Everything else stays as it is, and so does the selector of an emoji. Every command prints
through here (turbo.cli.encoding), and so does the log.
"""

import json
import re
from datetime import datetime

_MARKLESS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: C0 but \t and \n, DEL, C1
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff0-\uffff\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff"
)
"""Unicode's categories Cc, Cf, Cs, Zl and Zp, its property Default_Ignorable_Code_Point, and the letters and symbols that are
drawn as nothing."""

_EMOJI = re.compile(
    "[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff][\ufe0e\ufe0f]|[0-9#*]\ufe0f\u20e3"
)
"""A symbol and how it is drawn: one selector, which says nothing else. Digits have it on a key cap only."""

_UNSAFE = re.compile(f"[{_MARKLESS}]")
_UNSAFE_IN_LINE = re.compile(f"[\t\n{_MARKLESS}]")


def visible(text: str, *, lines: bool = False) -> str:
    """`text` on one line, or with its newlines and tabs if `lines`. Costs about a nanosecond a character."""
    if text.isascii() and text.isprintable():
        return text
    return (_UNSAFE if lines else _UNSAFE_IN_LINE).sub(_escape, text)


def visible_json(value: object, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """`value` as JSON that a parser reads exactly, and that steers no terminal. A number that JSON lacks is its name, as text.

    What is nested too deep to be indented is not: the writer that indents calls itself for each level."""
    try:
        text = json.dumps(value, default=_as_text, ensure_ascii=ascii_only, indent=indent, allow_nan=False)
    except RecursionError:
        if indent is None:
            raise
        return visible_json(value, ascii_only=ascii_only)
    except ValueError:
        text = json.dumps(_without_infinity(value), default=_as_text, ensure_ascii=ascii_only, indent=indent)
    return _UNSAFE.sub(_json_escape, text)


def _as_text(value: object) -> str:
    """What JSON has no form for. A moment in ISO 8601, UTC as Z: `jq` reads one without a fraction, and other readers each."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _without_infinity(value: object) -> object:
    """Infinity and NaN as text. The parser goes as deep as the writer: a function of ours would not."""
    return json.loads(json.dumps(value, default=_as_text), parse_constant=str)


def _draws_emoji(match: re.Match[str]) -> bool:
    return match[0] in "\ufe0e\ufe0f" and _EMOJI.match(match.string, max(0, match.start() - 1)) is not None


def _escape(match: re.Match[str]) -> str:
    if _draws_emoji(match):
        return match[0]
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    if _draws_emoji(match):
        return match[0]
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"
