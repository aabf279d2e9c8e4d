"""Where a task may run: the labels that it requires of a worker (`requires`), beside those that the worker has.

Values are compared as text: 16 and "16" are the same label. The database holds both sides as text.
"""

import json
from collections.abc import Mapping

STAY_SECONDS = 60.0
"""How long a task whose conversation can be had anywhere waits for the host that has it."""

MOST_REQUIRED = 20
REQUIRED_BYTES = 2000
"""Of a task's requirements, as turbo_judge_requires has them."""

Scalar = str | int | float | bool


def as_text(value: Scalar) -> str:
    """A label's value as PostgreSQL shows a JSON value: `true`, `16`, `16.0`."""
    return value if isinstance(value, str) else json.dumps(value)


def label_list(labels: object) -> str:
    """`os=macos, xcode=16`. What came past the triggers, and is no object, is shown as it is."""
    if not isinstance(labels, Mapping):
        return json.dumps(labels)[:REQUIRED_BYTES]
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def lacking(requires: object, lacks: Mapping[str, object]) -> str:
    """What a worker lacks of `requires`, and what it has in its place: `os=macos (it has os=linux), xcode=16`."""
    wanted = requires if isinstance(requires, Mapping) else {}
    return ", ".join(
        f"{name}={wanted.get(name)}" + ("" if has is None else f" (it has {name}={has})")
        for name, has in sorted(lacks.items())
    )
