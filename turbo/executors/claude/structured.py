"""How an agent's answer comes to fit `output_schema`: by a tool of the CLI, or by words in its prompt.

    a schema that the CLI can enforce ──▶ --json-schema: the agent answers by the tool StructuredOutput
    any other ──▶ the prompt has the schema, and the answer is the agent's last text

turbo judges the answer in both cases. Measured with 2.1.330 and 2.1.197: the CLI knows draft 7, in the strict mode of ajv. It refuses a
`$schema` of 2020-12 and unknown keys; 2.1.197 says nothing, offers no tool, and fails after five answers. So it gets only what
both take. A model takes a tool's schema only if that is an object at its top.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from turbo.executors.agent.answer import BY_TEXT
from turbo.executors.claude.answer_form import FLAG, TOOL, AnswerForm, tool_is_barred
from turbo.executors.schemas.answer_schema import AnswerSchema

MOST_BYTES = 100_000
"""Linux takes 128 KiB of one argument."""

BY_TOOL = f"Your answer is what you give to the tool {TOOL}: call it once, at the end."
_NOTES = ("title", "description", "default", "examples", "$comment", "format")
_ENFORCED = frozenset(
    (
        *(
            "type",
            "enum",
            "const",
            "required",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minLength",
            "maxLength",
            "pattern",
        ),
        *("minProperties", "maxProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "$ref",
    )
)
_SCHEMA_IN = ("additionalProperties", "propertyNames", "items", "contains", "not")
_SCHEMAS_IN = ("allOf", "anyOf", "oneOf")
_NAMED_IN = ("properties", "patternProperties", "$defs", "definitions")

_ESCAPE = r"\\[dDwWsSbB.\\/^$*+?()\[\]{}|nrt]"
_CLASS = r"\[\^?(?:[^\\\[\]]|\\[dDwWsS](?!-[^\]])|\\[.\\/^$\]nrt-])+\]"
_TIMES = r"(?:(?:[*+?]|\{\d+(?:,\d*)?\})\??)?"
_PATTERN = re.compile(rf"(?:(?:[^\\(){{}}\[\]*+?|^$]|{_ESCAPE}|{_CLASS}|\)){_TIMES}|[|^$]|\((?:\?:)?(?!\?))*+")
"""Regular expressions that mean the same to Python and to the CLI."""


def answer_form(name: str, schema: AnswerSchema, disallowed_tools: Sequence[str], flags: Sequence[str]) -> AnswerForm:
    """`flags`: the words of the executor's own command. Raises ValueError if it has a schema as well."""
    if FLAG in flags:
        raise ValueError(f"executor {name}: {FLAG} in command does not go with output_schema: keep one of them")
    text = None if tool_is_barred(disallowed_tools, flags) else enforceable(schema)
    if text is None:
        return AnswerForm((), f"{BY_TEXT}\n\n{schema.text.strip()}")
    return AnswerForm((FLAG, text), BY_TOOL)


class Inexpressible(Exception):
    """The CLI does not take it, or would take it for something else."""


def enforceable(schema: AnswerSchema) -> str | None:
    """The schema for `--json-schema`, or None. What it leaves out checks nothing."""
    document = schema.document
    if "draft-04" in str(document.get("$schema")) or document.get("type") != "object":
        return None
    if any(key in document for key in ("allOf", "anyOf", "oneOf", "not", "enum", "const", "$ref")):
        return None
    try:
        text = json.dumps(_expressed(document), ensure_ascii=False)
    except Inexpressible:
        return None
    return text if len(text.encode("utf-8", "replace")) <= MOST_BYTES else None


def _expressed(schema: object) -> object:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        raise Inexpressible
    if "properties" in schema and "patternProperties" in schema:  # strict mode: a property may match a pattern
        raise Inexpressible
    expressed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NOTES or key in _ENFORCED:
            expressed[key] = _plain(key, value)
        elif key in _SCHEMA_IN:
            expressed[key] = _expressed(value)
        elif key in _SCHEMAS_IN:
            expressed[key] = [_expressed(one) for one in value]
        elif key in _NAMED_IN:
            expressed[key] = {
                _pattern(n) if key == "patternProperties" else n: _expressed(one) for n, one in value.items()
            }
        elif key == "$schema" or not _means_something(key):
            continue
        else:
            raise Inexpressible
    return expressed


def _plain(key: str, value: Any) -> Any:
    if key == "pattern":
        return _pattern(value)
    if key == "$ref" and value != "#" and not value.startswith("#/"):
        raise Inexpressible
    return value


def _pattern(pattern: str) -> str:
    if _PATTERN.fullmatch(pattern) is None:
        raise Inexpressible
    return pattern


def _means_something(key: str) -> bool:
    """Whether any draft gives the key a meaning."""
    return key.startswith("$") or key in _OTHERS


_OTHERS = frozenset(
    (
        *("id", "if", "then", "else", "additionalItems", "prefixItems", "unevaluatedItems", "unevaluatedProperties"),
        *("dependencies", "dependentSchemas", "dependentRequired", "minContains", "maxContains"),
    )
)
