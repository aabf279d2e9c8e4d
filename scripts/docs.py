"""make docs: writes docs/reference/configuration.md and docs/reference/commands.md from what the program says of itself.

The configuration from the JSON Schema that `turbo config schema` prints (every kind of file it knows), the commands from
their --help. tests/unit/test_reference.py holds the pages to it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from turbo.cli.config import Kind
from turbo.cli.main import COMMANDS, _build

WIDTH = 100
REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE = "<!-- Written by `make docs`; change the program instead. -->"
INTRODUCTIONS = {
    "worker": "What one worker process is told: `turbo worker --config FILE`. [config/worker.yaml](../../config/worker.yaml)"
    " is a working example with comments.",
    "fleet": "Hosts and the workers on them: `turbo fleet`. [config/fleet.yaml](../../config/fleet.yaml) is a working example with"
    " comments; [Fleets](../fleet.md) tells the rest. A null in a host or worker means what the section above it says.",
}
Schema = dict[str, Any]


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────


def configuration() -> str:
    """The page."""
    import json

    parts = [
        "# Configuration",
        MADE,
        "Every key of every configuration file. Unknown keys are errors, and so is a key that stands twice. Times are seconds"
        " unless the name says otherwise. `${VAR}` and `${VAR:-default}` expand, `$$` is a dollar, a lone `$` is text; paths"
        " may begin with `~`. `turbo config check FILE` reads a file as it will be used; `turbo config schema KIND` prints"
        " the JSON Schema, for an editor's completion.",
    ]
    for kind in Kind:
        schema = json.loads(output_of("config", "schema", kind.value))
        parts += [f"## {kind.value}.yaml", INTRODUCTIONS.get(kind.value) or _sentence(schema.get("description", ""))]
        parts += _section(schema, schema, "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(schema: Schema, root: Schema, path: str) -> Iterator[str]:
    """A table of the keys at `path`, then the sections below it."""
    rows, below = [], []
    required = set(schema.get("required", []))
    for name, value in schema.get("properties", {}).items():
        nested = list(_nested(value, root))
        shown = f"`{name}`"
        default = "required" if name in required else _default(value, bool(nested))
        rows.append(f"| {shown} | {_type(value, root)} | {default} | {_cell(value.get('description', ''))} |")
        below += [(f"{path}.{name}".lstrip(".") + suffix, child) for suffix, child in nested]
    yield "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])
    for where, child in below:
        yield f"### `{where}`"
        if text := _sentence(child.get("description", "")):
            yield text
        yield from _section(child, root, where.partition(" (")[0])


def _nested(value: Schema, root: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections that a key's value is made of: itself, those by name, those of a list; one a kind."""
    for option in _options(value):
        target = _resolved(option, root)
        if target.get("type") == "object" and "properties" in target:
            kind = target["properties"].get("kind", {}).get("const")
            yield f" (kind: {kind})" if kind else "", target
        elif target.get("type") == "object" and isinstance(target.get("additionalProperties"), dict):
            yield from ((f".NAME{suffix}", child) for suffix, child in _nested(target["additionalProperties"], root))
        elif target.get("type") == "array" and isinstance(target.get("items"), dict):
            yield from ((f"[]{suffix}", child) for suffix, child in _nested(target["items"], root))


def _options(value: Schema) -> list[Schema]:
    return value.get("anyOf") or value.get("oneOf") or [value]


def _resolved(value: Schema, root: Schema) -> Schema:
    while "$ref" in value:
        value = root["$defs"][value["$ref"].rpartition("/")[2]]
    return value


def _type(value: Schema, root: Schema) -> str:
    """In words: `whole number, 1 to 1000, or null`."""
    words = []
    for option in _options(value):
        option = _resolved(option, root)
        if "const" in option:
            words.append(f"`{option['const']}`")
        elif "enum" in option:
            words.append(", ".join(f"`{value}`" for value in option["enum"]))
        elif option.get("type") == "array":
            words.append(f"list of {_type(option.get('items', {}), root)}")
        elif option.get("type") == "object":
            each = option.get("additionalProperties")
            words.append(f"names, each with {_type(each, root)}" if isinstance(each, dict) else "section")
        else:
            plain = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
            words.append(plain.get(option.get("type", ""), option.get("type", "anything")) + _bounds(option))
    return ", or ".join(dict.fromkeys(words))


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if above is not None:
        return f" above {above:g}" + (f", to {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    return f", at least {low:g}" if low is not None else f", at most {high:g}" if high is not None else ""


def _default(value: Schema, nested: bool) -> str:
    import json

    default = value.get("default")
    if nested and default is not None:
        return "as below" if default else "none"
    if "const" in value:
        return ""
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{json.dumps(default)}`" if "default" in value else ""


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _sentence(text).replace("|", r"\|")


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> str:
    """The page."""
    app = typer.main.get_command(_build(list(COMMANDS)))
    parts = [
        "# Commands",
        MADE,
        "Every command, as its `--help` says it. All of them: `--dsn` or `TURBO_DSN` names the database, else libpq's `PG*`"
        " variables do. Exit code 0: done; 1: failed; 2: wrong usage or configuration. Results go to standard output, all"
        " else to standard error; into a pipe, tables are whole and plain. `TURBO_DEBUG=1` shows the traceback of an error.",
        _help(),
    ]
    for name in COMMANDS:
        parts += [f"## turbo {name}", _help(name)]
        for command in getattr(app.commands[name], "commands", {}):  # type: ignore[attr-defined]
            parts += [f"### turbo {name} {command}", _help(name, command)]
    return "\n\n".join(parts) + "\n"


def _help(*names: str) -> str:
    text = output_of(*names, "--help")
    return "```text\n" + "\n".join(line.replace("\b", "").rstrip() for line in text.strip().splitlines()) + "\n```"


def output_of(*arguments: str) -> str:
    """What `turbo …` prints."""
    environment = {"TURBO_DSN": None, "TURBO_CONFIG": None, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    done = CliRunner().invoke(
        _build(list(COMMANDS)), list(arguments), prog_name="turbo", env=environment, terminal_width=WIDTH
    )
    assert done.exit_code == 0, done.output
    return done.output


PAGES = {"configuration.md": configuration, "commands.md": commands}


def main() -> int:
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
