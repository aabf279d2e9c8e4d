"""The names of the tests: short enough for one line of a report, and each once in its file."""

import ast
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LONGEST = 60


def names_in(file: Path) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node.name for node in nodes if isinstance(node, functions) and node.name.startswith("test_")]


def test_every_test_name_has_at_most_60_characters() -> None:
    names = {f"{file.name}: {name}": len(name) for file in TESTS.rglob("test_*.py") for name in names_in(file)}
    assert len(names) > 800, "the files were found"
    assert [name for name, length in names.items() if length > LONGEST] == []


def test_no_test_name_appears_twice_in_its_file() -> None:
    for file in TESTS.rglob("test_*.py"):
        assert [name for name, count in Counter(names_in(file)).items() if count > 1] == [], file


@pytest.mark.parametrize(
    "value", ["plain", "\x03", "über\n'x'", b"\xff\xfe", "one two three four five six seven eight"]
)
def test_parametrized_id_is_short_and_plain(request: pytest.FixtureRequest, value: str | bytes) -> None:
    name = request.node.name
    assert name.isascii()
    assert name.isprintable()
    assert len(name.partition("[")[2]) <= 25
