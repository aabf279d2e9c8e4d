"""JSON from a program or an agent, as PostgreSQL and jsonschema can take it: of bounded size and depth, without NaN, and each key once.

An answer that the database could not keep as it is would not be what was judged, so it is refused here.
"""

import json
import sys
from collections.abc import Iterator

from turbo.domain.limits import bytes_of, too_long, too_many_values
from turbo.host.sanitize import sanitize

DEEPEST = 100
ANSWER_BYTES = 1024 * 1024
LONGEST_SHOWN = 80


_LONG_NUMBER = "set_int_max_str_digits"
"""In Python's message for a number that takes too long to read."""


class NotJson(ValueError):
    """Why a text is not JSON that turbo takes, in words for an agent or an operator."""


def parsed(text: str, what: str, most_bytes: int = ANSWER_BYTES) -> object:
    """The value of a JSON text. `what` begins the message. Raises NotJson."""
    refuse(too_long(what, bytes_of(text), most_bytes, "bytes") or too_many_values(what, text))
    try:
        value = json.loads(without_mark(text), parse_constant=_no_constant, object_pairs_hook=_each_key_once)
    except _KeyTwice as error:
        raise NotJson(f"{what} has an object with the key {error} twice") from None
    except RecursionError:
        raise NotJson(f"{what} is nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        if _LONG_NUMBER in str(error):
            raise NotJson(f"{what} has a number of too many digits; at most {sys.get_int_max_str_digits():,}") from None
        shown = text.strip()[:LONGEST_SHOWN]
        begins = f"; it begins: {shown!r}" if shown else ": it is empty"
        raise NotJson(f"{what} is not JSON ({error}){begins}") from None
    return plain(value, what)


def without_mark(text: str) -> str:
    """Without the byte order mark that some programs write in front."""
    return text.removeprefix("\ufeff")


def rendered(value: object, what: str, most_bytes: int = ANSWER_BYTES) -> str:
    """A value of Python as a JSON text. Raises NotJson."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise NotJson(f"{what} is nested deeper than {DEEPEST} levels") from None
    except (TypeError, ValueError) as error:
        raise NotJson(f"{what} is not JSON ({error})") from None
    refuse(too_long(what, bytes_of(text), most_bytes, "bytes"))
    return text


def plain(value: object, what: str) -> object:
    """The value, if it is not nested too deep and the database keeps it as it is. Raises NotJson."""
    if depth(value) > DEEPEST:
        raise NotJson(f"{what} is nested deeper than {DEEPEST} levels")
    notes: set[str] = set()
    sanitize(value, notes)
    if notes:
        raise NotJson(f"{what} holds what the database cannot store: {', '.join(sorted(notes))}")
    return value


def depth(value: object) -> int:
    """Levels of lists and objects; of what is nested too deep, at least DEEPEST + 1."""
    level, found = [value], 0
    while level and found <= DEEPEST:
        level = [inner for outer in level for inner in _inside(outer)]
        found += 1
    return found - 1 if not level else found


def values(value: object) -> int:
    """How many values it holds, itself included."""
    todo, found = [value], 0
    while todo:
        found += 1
        todo.extend(_inside(todo.pop()))
    return found


def refuse(problem: str | None) -> None:
    if problem is not None:
        raise NotJson(problem)


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _no_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


class _KeyTwice(ValueError):
    """The message is the key, as JSON."""


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """What a key that is there twice means, every reader decides for itself."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _KeyTwice(json.dumps(twice[:LONGEST_SHOWN], ensure_ascii=False))
    return made
