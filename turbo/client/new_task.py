"""A task to insert, checked before the database sees it.

The database checks again (turbo_judge_insert), and its answer is final. Checking here names the bad field, so that one bad
line among ten thousand is reported before any line is inserted.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from turbo.domain.placement import MOST_REQUIRED, REQUIRED_BYTES, Scalar, as_text
from turbo.domain.trace import current_traceparent, parse_traceparent
from turbo.domain.work import MOST_NEEDS, OnNeedsFailed

INT_MAX = 2**31 - 1
KEY_MAX = 500
ID_MAX = 2048
"""Bytes of a task_id, as turbo_judge_insert has them."""
_TEXTS = (
    "task_description", "task_id", "task_type", "queue", "idempotency_key", "concurrency_key", "on_needs_failed", "continues",
    "parent_task_id",
)  # fmt: skip
_QUEUE = re.compile(r"[a-z0-9_-]{1,40}")

ALIASES = {
    "text": "task_description",
    "id": "task_id",
    "type": "task_type",
    "priority": "task_priority",
    "input": "input_data",
    "after": "run_after",
    "timeout": "timeout_seconds",
    "parent": "parent_task_id",
}
"""Short names for the columns of agent_tasks, as in the command line's options."""


class BadField(ValueError):
    """An invalid value. `field` is the column; the message has the remedy."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to insert; the columns of agent_tasks by their names. None: the column's default.

    `input_data` is any JSON value, `timeout_seconds` at least 1, `max_retries` at least 0. `hold`: the task waits
    until a person releases it (status `waiting`). `needs`: ids of tasks that must complete first, at most 20,000; one that is
    named twice counts once. `on_needs_failed`: cancel (None too), run or wait. `continues`: the task whose conversation and
    directory it goes on with. `requires`: labels that its worker must have; values are compared as text.
    `traceparent`: the trace that it belongs to; without one in the W3C form,
    OpenTelemetry's current one, where that is in use. Raises BadField.
    """

    task_description: str
    task_id: str | None = None
    task_type: str | None = None
    task_priority: int | None = None
    input_data: Any = None
    queue: str | None = None
    run_after: datetime | str | None = None
    timeout_seconds: int | None = None
    max_retries: int | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    hold: bool | None = None
    needs: Sequence[str] | None = None
    on_needs_failed: str | None = None
    continues: str | None = None
    parent_task_id: str | None = None
    requires: Mapping[str, str | int | float | bool] | None = None
    traceparent: str | None = None

    def __post_init__(self) -> None:
        for name in _TEXTS:
            check_text(name, getattr(self, name))
        if self.task_description is None or not self.task_description.strip():
            raise BadField("task_description", "is empty: write what the agent should do")
        if self.task_id is not None and not self.task_id.strip():
            raise BadField("task_id", "is empty: omit it to get a generated id")
        if len((self.task_id or "").encode()) > ID_MAX:
            raise BadField("task_id", f"is longer than {ID_MAX} bytes: write a shorter id, or a hash of it")
        if self.queue is not None and not _QUEUE.fullmatch(self.queue):
            raise BadField("queue", f"{self.queue[:60]!r} is not a queue name: 1 to 40 of a-z 0-9 _ -")
        check_whole("task_priority", self.task_priority, -INT_MAX)
        check_whole("timeout_seconds", self.timeout_seconds, 1)
        check_whole("max_retries", self.max_retries, 0)
        for name in ("idempotency_key", "concurrency_key"):
            if len(getattr(self, name) or "") > KEY_MAX:
                raise BadField(name, f"is longer than {KEY_MAX} characters: write a shorter key, or a hash of it")
        if self.hold is not None and not isinstance(self.hold, bool):
            raise BadField("hold", f"must be true or false, not {_kind(self.hold)}")
        self._judge_work()
        if parse_traceparent(self.traceparent) is None:
            object.__setattr__(self, "traceparent", current_traceparent())
        if self.requires is not None:
            object.__setattr__(self, "requires", _requires(self.requires))
        self.input_json()

    def _judge_work(self) -> None:
        """What it waits for, and what it goes on with. The database knows whether these are there."""
        if self.needs is not None:
            object.__setattr__(self, "needs", _needs(self.needs, self.task_id))
        known = [mode.value for mode in OnNeedsFailed]
        if self.on_needs_failed is not None and self.on_needs_failed not in known:
            raise BadField("on_needs_failed", f"is {self.on_needs_failed[:40]!r}: write {', '.join(known)}")
        for name in ("continues", "parent_task_id"):
            given = getattr(self, name)
            if given is not None and not given.strip():
                raise BadField(name, "is empty: write the id of a task, or leave it out")
        if self.continues is not None and self.continues == self.task_id:
            raise BadField("continues", "names the task itself: name the task whose conversation goes on")

    @property
    def waits(self) -> bool:
        """Whether it depends on another task, comes from one, or requires labels: what an ordinary submit does not name."""
        return not (
            self.needs is None
            and self.on_needs_failed is None
            and self.continues is None
            and self.parent_task_id is None
            and self.requires is None
            and self.traceparent is None
        )

    def needs_array(self) -> str | None:
        """`needs` as PostgreSQL writes an array of text."""
        if self.needs is None:
            return None
        quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in self.needs)
        return "{" + ",".join(f'"{name}"' for name in quoted) + "}"

    def requires_json(self) -> str | None:
        """`requires` as JSON text."""
        return None if self.requires is None else json.dumps(dict(self.requires), ensure_ascii=False)

    def input_json(self) -> str | None:
        """`input_data` as JSON text that jsonb accepts."""
        if self.input_data is None:
            return None
        try:
            text = json.dumps(self.input_data, allow_nan=False, ensure_ascii=False)
            text.encode()
        except (ValueError, TypeError, RecursionError) as error:  # NaN, a lone surrogate, or circular nesting
            raise BadField("input_data", f"cannot be stored as JSON: {error}") from None
        if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
            raise BadField("input_data", "contains a NUL character, which PostgreSQL cannot store: remove it")
        return text


COLUMNS = tuple(field.name for field in fields(NewTask))


def _needs(given: object, task_id: str | None) -> tuple[str, ...] | None:
    """The ids, each once; None for none. Raises BadField."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise BadField("needs", f"must be a list of task ids, not {_kind(given)}")
    names = tuple(dict.fromkeys(given))
    for name in names:
        if name is None:
            raise BadField("needs", "holds a null: write the ids of tasks")
        check_text("needs", name)
        if not name.strip():
            raise BadField("needs", "holds an empty id: write the ids of tasks")
    if len(names) > MOST_NEEDS:
        raise BadField(
            "needs", f"names {len(names)} tasks, more than {MOST_NEEDS}: let a task in between need some of them"
        )
    if task_id is not None and task_id in names:
        raise BadField("needs", "names the task itself: a task cannot wait for its own end")
    return names or None


def _requires(given: object) -> dict[str, str]:
    """The labels, with their values as text. Raises BadField."""
    if not isinstance(given, Mapping):
        raise BadField("requires", f"must be an object of labels, not {_kind(given)}: {{'os': 'macos'}}")
    for name, value in given.items():
        check_text("requires", name)
        if not name.strip():
            raise BadField("requires", "has a label without a name")
        if not isinstance(value, Scalar):
            raise BadField("requires", f"label {name[:60]!r} must be a text, not {_kind(value)}")
        check_text("requires", as_text(value))
    labels = {name: as_text(value) for name, value in given.items()}
    if len(labels) > MOST_REQUIRED or len(json.dumps(labels, ensure_ascii=False).encode()) > REQUIRED_BYTES:
        raise BadField("requires", f"is more than {MOST_REQUIRED} labels or {REQUIRED_BYTES} bytes: name fewer labels")
    return labels


def required(words: Sequence[str]) -> dict[str, str]:
    """The labels of `os=macos` and the like. Raises BadField."""
    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise BadField("requires", f"{word[:60]!r} is not label=value: write os=macos")
        if labels.setdefault(name.strip(), value.strip()) != value.strip():
            raise BadField("requires", f"names {name.strip()[:60]!r} twice, with two values")
    return labels


def new_task(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> NewTask:
    """A task from a mapping of column names (or short names) to values; `defaults` fills in the rest.

    Raises BadField for an unknown or repeated name, or an invalid value.
    """
    columns: dict[str, Any] = {}
    for name, value in values.items():
        column = column_named(name)
        if column in columns:
            raise BadField(column, "is given twice, once under its short name: keep one")
        if value is not None:
            columns[column] = value
    known = {name: value for name, value in (defaults or {}).items() if value is not None}
    return NewTask(**{"task_description": "", **known, **columns})


def column_named(name: str) -> str:
    """The column for a name or short name. Raises BadField."""
    column = ALIASES.get(name, name)
    if column in COLUMNS:
        return column
    near = difflib.get_close_matches(name, [*COLUMNS, *ALIASES], n=1)
    what = f"no such column; did you mean {near[0]}?" if near else f"no such column; known: {', '.join(COLUMNS)}"
    raise BadField(name[:60], what)


def check_text(name: str, value: object) -> None:
    """Raises BadField for what is no text, or what PostgreSQL cannot store."""
    if value is None:
        return
    if not isinstance(value, str):
        raise BadField(name, f"must be text, not {_kind(value)}")
    if "\0" in value:
        raise BadField(name, "contains a NUL character, which PostgreSQL cannot store: remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadField(name, "contains a lone surrogate (half a character), which PostgreSQL cannot store") from None


def check_whole(name: str, value: object, least: int, most: int = INT_MAX) -> None:
    """Raises BadField for what is no whole number from `least` to `most`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadField(name, f"must be a whole number, not {_kind(value)}")
    if not least <= value <= most:
        what = f"at least {least}" if value < least else f"at most {most}"
        raise BadField(name, f"is {value}: write {what}")


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "an infinite or undefined number"
    return f"{value!r:.40}"
