"""The file of `output_schema:`, read and checked once, when a worker starts.

    file ──▶ JSON ──▶ a schema of a known draft ──▶ its expressions compile, its references are inside it ──▶ AnswerSchema

The draft is the one that `$schema` names, else 2020-12. Nothing is ever fetched. `format` is a note and checks nothing, as the
drafts have it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from turbo.executors.schemas.comparison import UnknownDraft, validator_of
from turbo.executors.schemas.ecma import for_python
from turbo.executors.schemas.keywords import is_costly, patterns, subschemas
from turbo.executors.schemas.strict_json import NotJson, parsed, values
from turbo.host.regular_file import read_regular

FILE_BYTES = 256 * 1024
MOST_VALUES = 20_000
_TRIALS: tuple[Any, ...] = (None, True, 0, "", [], {})


class SchemaRefused(ValueError):
    """The file cannot be used. The message names it, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """What an answer must fit. `text` is the file's, `document` its value. `costly`: a comparison with it may take long."""

    path: Path
    text: str
    document: Mapping[str, Any]
    validator: Validator
    costly: bool
    values: int


def read_schema(path: Path) -> AnswerSchema:
    """Raises SchemaRefused."""
    try:
        return _read(path)
    except (SchemaRefused, NotJson) as error:
        raise SchemaRefused(f"output_schema {path}: {error}") from None


def _read(path: Path) -> AnswerSchema:
    real = path.resolve()
    try:
        text = read_regular(real, FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SchemaRefused("is not UTF-8 text") from None
    except OSError as error:
        raise SchemaRefused(f"cannot be read: {str(error.strerror).removeprefix(f'{real}: ')}") from None
    document = parsed(text, "the file", FILE_BYTES)
    if not isinstance(document, dict):
        raise SchemaRefused('is not a JSON Schema: it must be an object, such as {"type": "object"}')
    if (count := values(document)) > MOST_VALUES:
        raise SchemaRefused(f"has {count} values; at most {MOST_VALUES}")
    validator = _checked(document)
    for problem in (*_bad_patterns(document), *_bad_references(document)):
        raise SchemaRefused(problem)
    _try(validator)
    return AnswerSchema(path, text, document, validator, is_costly(document), count)


def _checked(document: dict[str, Any]) -> Validator:
    try:
        validator = validator_of(document)
        validator.check_schema(document)
    except UnknownDraft as error:
        raise SchemaRefused(str(error)) from None
    except SchemaError as error:
        raise SchemaRefused(f"is not a JSON Schema: {error.json_path}: {error.message[:500]}") from None
    except (RecursionError, TypeError, ValueError) as error:
        raise SchemaRefused(f"is not a JSON Schema: {type(error).__name__}: {str(error)[:500]}") from None
    return validator


def _bad_patterns(document: dict[str, Any]) -> Iterator[str]:
    for pattern in patterns(document):
        try:
            re.compile(for_python(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            yield f"the regular expression {pattern[:200]!r} cannot be used: {error}"


def _bad_references(document: dict[str, Any]) -> Iterator[str]:
    """References that lead out of the file, or nowhere in it. With `$id` inside, where they lead is not known here."""
    inside = [one for one in subschemas(document) if one is not document]
    if any("$id" in one or "id" in one for one in inside):
        return
    resolver = EMPTY_REGISTRY.resolver_with_root(Resource.from_contents(document, default_specification=DRAFT202012))
    for one in (document, *inside):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(reference := one.get(key), str):
                try:
                    resolver.lookup(reference)
                except (Unresolvable, ValueError):
                    where = (
                        "nothing in the file" if reference.startswith("#") else "another file, and nothing is fetched"
                    )
                    yield f"the {key} {reference[:200]!r} leads to {where}: put what it means under $defs"


def _try(validator: Validator) -> None:
    """A schema that refers to nothing but itself never comes to an end."""
    for trial in _TRIALS:
        try:
            validator.is_valid(trial)
        except RecursionError:
            raise SchemaRefused("refers to itself without end") from None
        except Exception as error:  # whatever jsonschema raises for a schema that it has accepted
            raise SchemaRefused(f"cannot be used: {type(error).__name__}: {str(error)[:500]}") from None
