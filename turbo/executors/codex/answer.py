"""How a Codex agent comes to answer in JSON: by --output-schema, or by words in its prompt.

    a schema in the service's strict form ──▶ --output-schema FILE
    any other ──▶ the prompt has the schema

turbo judges the answer in both cases: the CLI does not notice one that breaks the schema (measured with 0.169.0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turbo.executors.agent.answer import in_words
from turbo.executors.schemas.answer_schema import AnswerSchema

BY_SCHEMA = "Your last message is your answer: one JSON value in the form that you were given, and nothing else."

_PLAIN = frozenset(
    (
        *("type", "enum", "const", "description", "title", "pattern", "format", "multipleOf", "minimum", "maximum"),
        *("exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "$ref", "$schema", "$comment"),
    )
)
_NAMED_IN = ("properties", "$defs", "definitions")


@dataclass(frozen=True, slots=True)
class CodexAnswer:
    """`flags` for the CLI, `words` for the prompt, in place of asking for an account. Without words it answers in text."""

    flags: tuple[str, ...] = ()
    words: str = ""


IN_WORDS = CodexAnswer()


FLAG = "--output-schema"


def codex_answer(name: str, schema: AnswerSchema, command: Sequence[str]) -> CodexAnswer:
    """`command`: the executor's own. Raises ValueError if it has a schema as well."""
    if any(word.split("=", 1)[0] == FLAG for word in command[1:]):
        raise ValueError(f"executor {name}: {FLAG} in command does not go with output_schema: keep one of them")
    if strict(schema.document, top=True):
        return CodexAnswer((FLAG, str(schema.path)), BY_SCHEMA)
    return CodexAnswer((), in_words(schema.text))


def strict(schema: object, *, top: bool = False) -> bool:
    """Whether the service takes it as it is: objects that name all they may have, and require it."""
    if not isinstance(schema, Mapping):
        return False
    if top and schema.get("type") != "object":
        return False
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required") or ()) != set(properties):
            return False
    for key, value in schema.items():
        if key in _NAMED_IN:
            sound = isinstance(value, Mapping) and all(strict(one) for one in value.values())
        elif key == "items":
            sound = strict(value)
        elif key == "anyOf":
            sound = isinstance(value, list) and not top and all(strict(one) for one in value)
        else:
            sound = key in _PLAIN or key in ("required", "additionalProperties")
        if not sound:
            return False
    return True
