"""The patterns of `redact:` in worker.yaml: which of them can be looked for in what an agent wrote, without end.

(?:acme|corp)-[A-Za-z0-9]{20,64}      fine: it takes 84 characters at most, and few ways to take them
acme-.*                               refused: without an end
(a{1,50}){1,50}                       refused: a text can be taken in more ways than anybody waits for
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from turbo.domain.redaction import BoundedPattern

MOST_PATTERNS = 100
MOST_CHARACTERS = 500
WIDEST = 2000
"""Characters that a pattern may take. One without an end would be tried to the end of the text, from each place in it."""

MOST_WAYS = 2000
"""In how many ways it may take the same text: each is tried where the end does not fit."""


class PatternRefused(ValueError):
    """A pattern that cannot be used. The message says what to write."""


def bounded_patterns(patterns: Sequence[str]) -> tuple[BoundedPattern, ...]:
    """Raises PatternRefused."""
    if len(patterns) > MOST_PATTERNS:
        raise PatternRefused(f"has {len(patterns)} patterns, more than {MOST_PATTERNS}: join some of them with |")
    return tuple(bounded_pattern(text) for text in patterns)


def bounded_pattern(text: str) -> BoundedPattern:
    """Raises PatternRefused."""
    shown = repr(text if len(text) <= 80 else f"{text[:80]}…")
    if len(text) > MOST_CHARACTERS:
        raise PatternRefused(f"{shown} has {len(text)} characters, more than {MOST_CHARACTERS}: write several patterns")
    try:
        pattern = re.compile(text)
        parsed = re._parser.parse(text)  # type: ignore[attr-defined]
        _, widest = parsed.getwidth()
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternRefused(f"{shown} is not a regular expression of Python's: {error}") from error
    if pattern.search("") is not None:
        raise PatternRefused(
            f"{shown} also takes an empty text, so it would take nothing out: write what a secret begins with"
        )
    if widest > WIDEST:
        raise PatternRefused(
            f"{shown} takes more than {WIDEST} characters, or any number of them: "
            "write {1,200} in place of + and {0,200} in place of *"
        )
    if _ways(parsed) > MOST_WAYS:
        raise PatternRefused(
            f"{shown} takes the same text in more than {MOST_WAYS} ways, which could take hours: nest no repeats, and let what "
            "follows a repeat begin with a fixed character"
        )
    return BoundedPattern(pattern, int(widest))


def _ways(parsed: Iterable[tuple[object, object]]) -> int:
    """At most in how many ways, or MOST_WAYS + 1."""
    ways = 1
    for operation, argument in parsed:
        ways *= max(1, _ways_of(str(operation), argument))
        if ways > MOST_WAYS:
            return MOST_WAYS + 1
    return ways


def _ways_of(operation: str, argument: Any) -> int:
    match operation, argument:
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (least, most, body):
            inner, total = _ways(body), 0
            if inner == 1 and least == most:
                return 1
            for times in range(least, most + 1):
                total += inner**times
                if total > MOST_WAYS:
                    return MOST_WAYS + 1
            return total
        case "SUBPATTERN", (*_, body):
            return _ways(body)
        case "BRANCH", (_, bodies):
            return sum(_ways(body) for body in bodies)
        case "ASSERT" | "ASSERT_NOT", (_, body):
            return _ways(body)
        case "ATOMIC_GROUP", body:
            return _ways(body)
        case "GROUPREF" | "GROUPREF_EXISTS", _:
            return MOST_WAYS + 1
    return 1
