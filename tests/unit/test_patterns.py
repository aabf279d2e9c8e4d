"""Every regular expression of the package takes time in proportion to its text, whatever the text is.

The patterns are found in the source. For each one, texts are made from its own parts: what stands before a repeat, the repeat
many times, both many times over. They match almost, which is what makes a pattern go back and try again.
"""

import ast
import re
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import turbo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_constants
    import sre_parse

CALLS = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
CALL = re.compile(rf"\bre\s*\.\s*({'|'.join(CALLS)})\s*\(")
LENGTH = 6000
SECONDS = 0.02
"""For LENGTH characters: a linear pattern takes less than 0.002, a quadratic one 0.03 and more."""

_ESCAPE = r"\\[dDwWsSbB.\\/^$*+?()\[\]{}|nrt]"
_CLASS = r"\[\^?(?:[^\\\[\]]|\\[dDwWsS](?!-[^\]])|\\[.\\/^$\]nrt-])+\]"
_TIMES = r"(?:(?:[*+?]|\{\d+(?:,\d*)?\})\??)?"

MADE = {
    "executors/claude/structured.py": rf"(?:(?:[^\\(){{}}\[\]*+?|^$]|{_ESCAPE}|{_CLASS}|\)){_TIMES}|[|^$]|\((?:\?:)?(?!\?))*+",
    "process/environment.py single": r"'([^']*)'\s*(?:#.*)?",
    "config/scripts.py": r"(?:-[a-z]*e|--eval|--execute)(?==|\{)",
    "domain/visible.py": r"[\t\n\x00-\x1f]",
    "migrate/ownership.py": r"create\s+(?:domain|type)\s+public\.(\w+)",
    "observability/log.py": r"(worker|task|attempt)=",
    "sql/__init__.py": r"--end which:(?P<end>(?:[^\n]*\n\s*--\|)*[^\n]*)",
    "process/environment.py double": r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?',
}
"""Patterns that are put together from parts."""

THE_OPERATORS = {"executors/schemas/answer_schema.py", "workspaces/globs.py", "domain/redact_patterns.py"}
"""Patterns of a schema file, tried in a process of its own, which ends itself in time (turbo.executors.schemas.fit); those of
`check.protect`, which step back over nothing; and those of `redact`, which are refused unless they take few ways."""

OUR_OWN_TEXT = {"migrate/ownership.py", "sql/__init__.py", "migrate/files.py", "migrate/locks.py", "doctor/schema.py"}
"""Read only files of this package."""


def _text(node: ast.expr) -> str | None:
    """The pattern written there; one of bytes as the text with the same characters."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _flags(call: ast.Call) -> int:
    names = {
        n.attr
        for a in [*call.args[1:], *(k.value for k in call.keywords)]
        for n in ast.walk(a)
        if isinstance(n, ast.Attribute)
    }
    return sum(getattr(re, name) for name in names if name in ("IGNORECASE", "DOTALL", "MULTILINE", "VERBOSE"))


@cache
def patterns() -> dict[str, tuple[str, int, bool]]:
    """By place: the pattern, its flags, and whether it is tried only where the text begins."""
    found = {name: (text, 0, True) for name, text in MADE.items()}
    root = Path(turbo.__file__).parent
    for file in sorted(root.rglob("*.py")):
        source = file.read_text()
        if not CALL.search(source):
            continue
        tree = ast.parse(source)
        name_of = {
            one.value: one.targets[0].id
            for one in ast.walk(tree)
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re") or not node.args:
                continue
            where = f"{file.relative_to(root)}:{node.lineno}"
            text = _text(node.args[0])
            if text is None:
                if str(file.relative_to(root)) in THE_OPERATORS:
                    continue
                assert any(name.startswith(str(file.relative_to(root))) for name in MADE), f"{where}: add it to MADE"
                continue
            found[where] = (
                text,
                _flags(node),
                node.func.attr in ("match", "fullmatch") or _anchored(name_of.get(node)),
            )
    return found


@cache
def _searching() -> set[str]:
    """The names of the compiled patterns that are tried at every place of a text."""
    call = re.compile(r"\b(\w+)\.(?:search|sub|subn|findall|finditer|split)\(")
    return {name for file in Path(turbo.__file__).parent.rglob("*.py") for name in call.findall(file.read_text())}


def _anchored(name: str | None) -> bool:
    """Whether a compiled pattern is only tried where the text begins."""
    return name is not None and name not in _searching()


def _samples(tree: Any) -> list[str]:
    """A few texts that a part of a pattern matches, the shortest ones."""
    texts = [""]
    for op, value in tree:
        texts = [text + more for text in texts for more in _of(op, value)][:4]
    return texts


def _of(op: Any, value: Any) -> list[str]:
    match str(op):
        case "LITERAL":
            return [chr(value)]
        case "NOT_LITERAL":
            return ["a" if value != ord("a") else "b"]
        case "ANY":
            return ["a", '"', " "]
        case "IN":
            return _of_set(value)
        case "SUBPATTERN":
            return _samples(value[-1])
        case "ATOMIC_GROUP":
            return _samples(value)
        case "BRANCH":
            return [text for branch in value[1] for text in _samples(branch)[:2]][:6]
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return [text * max(value[0], 0) for text in _samples(value[2])]
    return [""]


CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a", "CATEGORY_NOT_SPACE": "x"}


def _of_set(items: Any) -> list[str]:
    if str(items[0][0]) == "NEGATE":
        pattern = [chr(v) for op, v in items[1:] if str(op) == "LITERAL"]
        blank = any(str(v) == "CATEGORY_SPACE" for op, v in items)
        return [c for c in ("a", "0", ":", "\\", "'", "(", *(() if blank else (" ",))) if c not in pattern][:5]
    found = []
    for op, value in items:
        if str(op) == "LITERAL":
            found.append(chr(value))
        elif str(op) == "RANGE":
            found.append(chr(value[0]))
        elif str(op) == "CATEGORY":
            found.append(CATEGORIES.get(str(value), "a"))
    return found[:5] or ["a"]


def _repeats(tree: Any, before: str) -> Iterator[tuple[str, str]]:
    """What stands before each unbounded repeat, and what it repeats."""
    for op, value in tree:
        kind = str(op)
        if kind.endswith("_REPEAT"):
            _least, most, body = value
            if most is sre_constants.MAXREPEAT or most > 100:
                for text in _samples(body):
                    yield before, text or "a"
            yield from _repeats(body, before)
        elif kind == "SUBPATTERN":
            yield from _repeats(value[-1], before)
        elif kind == "BRANCH":
            for branch in value[1]:
                yield from _repeats(branch, before)
        before += _of(op, value)[0]


def hostile(pattern: str, flags: int) -> Iterator[str]:
    for before, pump in {*_repeats(sre_parse.parse(pattern, flags), ""), ("", " "), ("", "a"), ("", "0")}:
        once = before + pump
        for tail in ("\0", ""):
            yield before + pump * (LENGTH // len(pump)) + tail
            yield once * (LENGTH // len(once)) + tail
            yield (once + pump * 20) * (LENGTH // (len(once) + 20 * len(pump)) + 1) + tail


def seconds(pattern: re.Pattern[str], text: str, *, anchored: bool = False) -> float:
    """Of computing; the best of five."""
    best = float("inf")
    for _ in range(5):
        at = time.process_time()
        if not anchored:
            for _match in pattern.finditer(text):
                pass
        pattern.match(text)
        pattern.fullmatch(text)
        best = min(best, time.process_time() - at)
        if best < SECONDS:
            break
    return best


def test_patterns_are_found() -> None:
    assert len(patterns()) > 50


@pytest.mark.parametrize(
    "room",
    sorted({where.partition("/")[0] for where in patterns()} - {""}),
    ids=lambda room: str(room).partition(".")[0],
)
def test_patterns_take_time_in_proportion_to_the_text(room: str) -> None:
    slow = []
    for where, (text, flags, anchored) in patterns().items():
        if where.partition("/")[0] != room or where.partition(":")[0] in OUR_OWN_TEXT:
            continue
        compiled = re.compile(text, flags)
        found = next((one for one in hostile(text, flags) if seconds(compiled, one, anchored=anchored) > SECONDS), None)
        if found is not None:
            slow.append(f"{where}: slow for {found[:60]!r}…: {text}")
    assert not slow, "\n".join(slow)


def test_a_quadratic_pattern_is_found_out() -> None:
    """The control."""
    for pattern in (r"(\w+://[^:/@\s]*:)[^@\s]+@", r"(env|sh|node): .*(No such file|not found)"):
        assert any(seconds(re.compile(pattern), text) > SECONDS for text in hostile(pattern, 0))
