"""Answers that must fit a schema: files, judges and a scripted model that answers in JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import messages_api
from tests.support.messages_api import Answer
from turbo.executors.checks.loop import Checks
from turbo.executors.checks.schema import SchemaJudge
from turbo.executors.claude.structured import answer_form
from turbo.executors.schemas.answer_schema import AnswerSchema, read_schema
from turbo.executors.schemas.fit import Fit
from turbo.process.journal import Journal

VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"pass": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["pass", "why"],
    "additionalProperties": False,
}
GOOD = {"pass": True, "why": "it is"}


def schema_file(directory: Path, schema: object) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return path


def schema_of(directory: Path, schema: object) -> AnswerSchema:
    return read_schema(schema_file(directory, schema))


def fit_of(directory: Path, schema: object, **more: int) -> Fit:
    return Fit(schema_of(directory, schema), Journal(directory / "journal"), **more)


def answering(directory: Path, schema: object, *, rounds: int = 2, converses: bool = True) -> dict[str, Any]:
    """The settings of a Claude executor with `output_schema`."""
    fit = fit_of(directory, schema)
    return {
        "answer": answer_form("claude", fit.schema, (), ()),
        "checks": Checks((SchemaJudge(fit, reads_text=True),), rounds, converses),
    }


def structured(answer: Mapping[str, Any]) -> Answer:
    """The model answers by the CLI's tool."""
    return messages_api.tool("StructuredOutput", answer, say="Here it is.")
