"""Compares a value with a JSON Schema. The child process imports this too, so it imports little.

What is wrong is said in words for an agent: at most MOST_NAMED places, each with its path.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing.jsonschema import EMPTY_REGISTRY

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


class UnknownDraft(ValueError):
    """`$schema` names no draft that turbo knows."""


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """By the draft that `$schema` names, else 2020-12. It fetches nothing. Raises UnknownDraft."""
    named = schema.get("$schema", LATEST)
    if not isinstance(named, str) or named.rstrip("#") not in DRAFTS:
        raise UnknownDraft(f"$schema is {str(named)[:200]!r}; known: {', '.join(DRAFTS)}")
    return validator_for({"$schema": named.rstrip("#")})(schema, registry=EMPTY_REGISTRY)


def misfit(validator: Validator, value: Any) -> str | None:
    """What keeps the value from fitting, or None. RecursionError comes through."""
    try:
        found = list(itertools.islice(validator.iter_errors(value), MOST_NAMED + 1))
    except RecursionError:
        raise
    except Exception as error:  # a number too large for `multipleOf`, a reference that leads nowhere
        return f"it cannot be compared: {type(error).__name__}: {str(error)[:MESSAGE_CHARACTERS]}"
    if not found:
        return None
    more = "; and more" if len(found) > MOST_NAMED else ""
    return "; ".join(_words(found[:MOST_NAMED])) + more


def _words(errors: list[ValidationError]) -> Iterator[str]:
    for error in errors:
        closest = best_match([error]) or error  # of several alternatives, the nearest one
        message = closest.message
        if len(message) > MESSAGE_CHARACTERS:  # it repeats the value
            message = f"{message[: MESSAGE_CHARACTERS // 2]} … {message[-MESSAGE_CHARACTERS // 2 :]}"
        yield f"{closest.json_path}: {message}"
