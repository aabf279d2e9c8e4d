"""A class name means one thing in the whole package (docs/glossary.md)."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "turbo"


def test_each_class_name_is_used_once() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert len(places) > 100, "the package was not found"
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
