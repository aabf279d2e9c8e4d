"""Walks through a JSON Schema: which parts of it are schemas themselves, and which keywords cost more than one look.

A property may be called `pattern` or `$ref`, and a constant may look like a schema. So only places that hold schemas count.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_ONE = (
    *("additionalProperties", "propertyNames", "unevaluatedProperties", "additionalItems", "unevaluatedItems"),
    *("items", "contains", "not", "if", "then", "else", "contentSchema", "extends", "disallow"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items", "extends", "type", "disallow")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions")

_COSTLY = frozenset(
    (
        *("pattern", "patternProperties", "uniqueItems", "$ref", "$dynamicRef", "$recursiveRef"),
        *("unevaluatedProperties", "unevaluatedItems", "extends"),
    )
)
"""A hostile answer can make these take time without bound: an expression that backtracks, items compared in pairs, a branch that is
taken again on every level."""


def subschemas(schema: object) -> Iterator[Mapping[str, Any]]:
    """The schema and all that it contains, as far as they are objects."""
    todo = [schema]
    while todo:
        one = todo.pop()
        if not isinstance(one, dict):
            continue
        yield one
        todo += [one[key] for key in _ONE if key in one]
        for key in _LISTS:
            if isinstance(several := one.get(key), list):
                todo += several
        for key in _MAPS:
            if isinstance(named := one.get(key), dict):
                todo += named.values()


def patterns(schema: object) -> Iterator[str]:
    """The regular expressions in it."""
    for one in subschemas(schema):
        if isinstance(pattern := one.get("pattern"), str):
            yield pattern
        if isinstance(named := one.get("patternProperties"), dict):
            yield from named


def is_costly(schema: object) -> bool:
    """Whether a comparison with it may take much longer than the product of both sizes."""
    return any(_COSTLY & one.keys() for one in subschemas(schema))
