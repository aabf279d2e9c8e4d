"""Matches names of files against the patterns of `check.protect`, as git does with `glob` (turbo.workspaces.patterns), without git.

git matches only names of its index, or of what it finds itself: not those in a nested repository, and not all that a file can
be called. Names and patterns are bytes here, as in git.
"""

import os
import re
from collections.abc import Iterator, Sequence

_CLASSES = {
    b"alnum": rb"a-zA-Z0-9", b"alpha": rb"a-zA-Z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e", b"lower": rb"a-z", b"print": rb"\x20-\x7e", b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb" \t-\r", b"upper": rb"A-Z", b"xdigit": rb"0-9a-fA-F",
}  # fmt: skip
_WILD = b"*?[\\"


class Globs:
    """Patterns that count from the top. One with `!` in front exempts."""

    def __init__(self, patterns: Sequence[str]) -> None:
        plain = [_plain(one) for one in patterns if not one.startswith("!")]
        self._wanted = [_Glob(one) for one in plain]
        self._exempt = [_Glob(_plain(one[1:])) for one in patterns if one.startswith("!")]
        self._begins = [_fixed(one) for one in plain]

    def match(self, name: str) -> bool:
        data = os.fsencode(name)
        return any(one.match(data) for one in self._wanted) and not any(one.match(data) for one in self._exempt)

    def may_hold(self, directory: str) -> bool:
        """Whether a file below it could match."""
        data = os.fsencode(directory) + b"/"
        return any(data.startswith(begin) or begin.startswith(data) for begin in self._begins)


class _Glob:
    def __init__(self, pattern: bytes) -> None:
        self._text = pattern
        self._below = pattern + b"/"
        at = _first_wild(pattern)
        # As in git, `**` counts from the first wildcard: x** is all that begins with x.
        self._regex = re.compile(re.escape(pattern[:at]) + _regex(pattern[at:]), re.DOTALL)

    def match(self, name: bytes) -> bool:
        if name == self._text or name.startswith(self._below) or self._text == b"":
            return True
        return self._regex.fullmatch(name) is not None


def _plain(pattern: str) -> bytes:
    """Without what names no directory; all that is below a directory for one that ends in a slash."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return os.fsencode("/".join([*parts, "**"] if pattern.endswith("/") else parts))


def _fixed(pattern: bytes) -> bytes:
    """What each match begins with: whole directories, and the slash after them. Of a pattern without wildcards, itself as one."""
    at = _first_wild(pattern)
    return pattern + b"/" if at == len(pattern) else pattern[: pattern.rfind(b"/", 0, at) + 1]


def _first_wild(pattern: bytes) -> int:
    return next((place for place, byte in enumerate(pattern) if byte in _WILD), len(pattern))


def _regex(pattern: bytes) -> bytes:
    """Matches in time that grows with the name's length and not its power: no step is taken back once a part is found. Each part
    between two `*` has one length, each between two `**` one number of directories, so the first place found is as good as any."""
    groups: list[list[bytes]] = [[]]
    for part in pattern.split(b"/"):
        if len(part) > 1 and not part.strip(b"*"):
            groups.append([])
        else:
            groups[-1].append(part)
    texts = [b"/".join(_segment(part) for part in group) for group in groups]
    if len(groups) == 1:
        return texts[0]
    found = texts[0] + b"/" if groups[0] else b""
    for group, text in zip(groups[1:-1], texts[1:-1], strict=True):
        found += b"(?>(?:[^/]*/)*?" + text + b"/)" if group else b""
    return found + (b"(?:[^/]*/)*" + texts[-1] if groups[-1] else b".*")


def _segment(part: bytes) -> bytes:
    pieces: list[bytes] = [b""]
    for token in _tokens(part):
        if token == b"*":
            pieces.append(b"")
        else:
            pieces[-1] += token
    if len(pieces) == 1:
        return pieces[0]
    middle = b"".join(b"(?>[^/]*?" + piece + b")" for piece in pieces[1:-1])
    return pieces[0] + middle + b"[^/]*" + pieces[-1]


def _tokens(part: bytes) -> Iterator[bytes]:
    """Regular expressions of one character each, and `*`."""
    at = 0
    while at < len(part):
        char = part[at : at + 1]
        if char == b"*":
            yield b"*"
        elif char == b"?":
            yield b"[^/]"
        elif char == b"[":
            end, text = _class(part, at)
            yield text
            at = end
        elif char == b"\\":
            at += 1
            yield re.escape(part[at : at + 1]) if at < len(part) else b"(?!)"
        else:
            yield re.escape(char)
        at += 1


def _class(part: bytes, at: int) -> tuple[int, bytes]:
    """Where a bracket expression ends, and the same as a regular expression. One that does not end matches nothing."""
    place = at + 1
    negated = part[place : place + 1] in (b"!", b"^")
    place += negated
    first, text = place, b""
    while place < len(part):
        char = part[place : place + 1]
        if char == b"]" and place > first:
            inside = b"[" + text + b"]" if text else b"(?!)"
            return place, (b"(?!" if negated else b"(?=") + inside + b")[^/]"
        if part[place : place + 2] == b"[:" and (end := part.find(b":]", place)) > 0:
            text += _CLASSES.get(part[place + 2 : end], b"")
            place = end + 2
            continue
        low, place = _member(part, place)
        if part[place : place + 1] == b"-" and part[place + 1 : place + 2] not in (b"]", b""):
            high, place = _member(part, place + 1)
            text += _byte(low) + b"-" + _byte(high) if low <= high else b""
        else:
            text += _byte(low)
    return len(part), b"(?!)"


def _member(part: bytes, place: int) -> tuple[int, int]:
    place += part[place : place + 1] == b"\\" and place + 1 < len(part)
    return part[place], place + 1


def _byte(value: int) -> bytes:
    return b"\\x%02x" % value
