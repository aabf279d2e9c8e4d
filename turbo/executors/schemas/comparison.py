"""Compares a value with a JSON Schema. The child process imports this too, so it imports little.

What is wrong is said in words for an agent: at most MOST_NAMED places, each with its path, and values as JSON has them.
"""

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing.jsonschema import EMPTY_REGISTRY

from turbo.executors.schemas.ecma import with_patterns_for_python

LATEST = "https://json-schema.org/draft/2020-12/schema"
DRAFTS = (
    LATEST,
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
)

MOST_NAMED = 5
MESSAGE_CHARACTERS = 300


_PYTHONS = re.compile(r"""'(?:[^'\\]|\\.)*(?:'|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)|\b(?:None|True|False)\b""", re.DOTALL)
"""A text or a constant, as Python shows it. One that does not end goes to the end."""

_CONSTANTS = {"None": "null", "True": "true", "False": "false"}


class UnknownDraft(ValueError):
    """`$schema` names no draft that turbo knows."""


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """By the draft that `$schema` names, else 2020-12. It fetches nothing. Raises UnknownDraft."""
    named = schema.get("$schema", LATEST)
    if not isinstance(named, str) or named.rstrip("#") not in DRAFTS:
        raise UnknownDraft(f"$schema is {str(named)[:200]!r}; known: {', '.join(DRAFTS)}")
    return validator_for({"$schema": named.rstrip("#")})(with_patterns_for_python(schema), registry=EMPTY_REGISTRY)


def misfit(validator: Validator, value: Any) -> str | None:
    """What keeps the value from fitting, or None. RecursionError comes through."""
    try:
        found = list(itertools.islice(validator.iter_errors(value), MOST_NAMED + 1))
    except RecursionError:
        raise
    except OverflowError:
        return "it cannot be compared: a number in it is too large"
    except Exception as error:  # a reference that leads nowhere
        return f"it cannot be compared: {type(error).__name__}: {str(error)[:MESSAGE_CHARACTERS]}"
    if not found:
        return None
    more = "; and more" if len(found) > MOST_NAMED else ""
    return "; ".join(_words(found[:MOST_NAMED])) + more


def _words(errors: list[ValidationError]) -> Iterator[str]:
    for error in errors:
        closest = best_match([error]) or error  # of several alternatives, the nearest one
        message = _in_json(closest.message)
        if len(message) > MESSAGE_CHARACTERS:  # it repeats the value
            message = f"{message[: MESSAGE_CHARACTERS // 2]} … {message[-MESSAGE_CHARACTERS // 2 :]}"
        yield f"{closest.json_path}: {message}"


def _in_json(message: str) -> str:
    """A message of jsonschema, with `null` for None and "a" for 'a'."""
    return _PYTHONS.sub(_value_in_json, message)


def _value_in_json(found: re.Match[str]) -> str:
    shown = found[0]
    if (constant := _CONSTANTS.get(shown)) is not None:
        return constant
    if len(shown) < 2 or shown[-1] != shown[0]:
        return shown
    try:
        text = ast.literal_eval(shown) if "\\" in shown else shown[1:-1]
    except (ValueError, SyntaxError):
        return shown
    return json.dumps(text, ensure_ascii=False)
