"""What a task's page shows, read by a few statements. A part that this role may not read is left out."""

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg

from turbo.client import drawing
from turbo.client.async_client import AsyncClient
from turbo.client.drawing import Line
from turbo.client.files import StoredFile
from turbo.client.graph import Blocked, MessageLine
from turbo.client.models import Action, RunView, TaskRow
from turbo.client.questions import OpenQuestion
from turbo.client.usage import RunUsage
from turbo.domain.kept import DIFF_PATH
from turbo.domain.states import TaskState

T = TypeVar("T")

NODES, EDGES = 60, 500
"""Of the graph, the nearest tasks first."""

TRAIL_SHOWN = 200
"""The latest entries of the audit trail."""

DETAIL_CHARACTERS = 2000
TITLE_CHARACTERS = 140
TEXT_CHARACTERS = 20_000
"""Of a prompt, a result or an error; the whole is a file to save."""


@dataclass(frozen=True, slots=True)
class TrailStep:
    """An entry of the audit trail. `after`: seconds since the one before."""

    action: Action
    after: float | None
    change: str
    detail: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TaskView:
    """`None` for a part that this role may not read."""

    task: TaskRow
    run: RunView
    trail: tuple[TrailStep, ...] | None
    more_trail: int
    asks: OpenQuestion | None
    blocked: Blocked | None
    usage: Sequence[RunUsage] | None
    files: Sequence[StoredFile] | None
    messages: Sequence[MessageLine] | None
    graph: Sequence[Line] | None
    graph_cut: bool

    @property
    def title(self) -> str:
        """The first line of its description."""
        first = next((line for line in map(str.strip, self.task.task_description.splitlines()) if line), "")
        return first if len(first) <= TITLE_CHARACTERS else f"{first[: TITLE_CHARACTERS - 1]}…"

    @property
    def attempts(self) -> str:
        return f"{(self.task.retry_count or 0) + 1} of {(self.task.max_retries or 0) + 1}"

    @property
    def cost(self) -> float | None:
        """In US dollars, of all its runs; None: nothing of it is known."""
        known = [one.cost_usd for one in self.usage or () if one.cost_usd is not None]
        return sum(known) if known else None

    @property
    def tokens(self) -> tuple[int, int]:
        """In and out."""
        used = self.usage or ()
        return sum(u.input_tokens + u.cache_read_tokens + u.cache_write_tokens for u in used), sum(
            u.output_tokens for u in used
        )

    @property
    def diff(self) -> StoredFile | None:
        return next((one for one in self.files or () if one.path == DIFF_PATH), None)

    @property
    def kept(self) -> list[StoredFile]:
        """The files that are no diff."""
        return [one for one in self.files or () if one.path != DIFF_PATH]

    @property
    def output(self) -> str | None:
        return as_text(self.task.output)

    @property
    def data(self) -> Mapping[str, Any]:
        """`output_data`, which a person may have written."""
        return self.task.output_data if isinstance(self.task.output_data, dict) else {}

    @property
    def check(self) -> str | None:
        """What became of the checks of its work."""
        check = self.data.get("check")
        if not isinstance(check, dict):
            return None
        rounds = check.get("rounds")
        number = rounds if isinstance(rounds, int) and rounds > 0 else None
        if check.get("passed") is True:
            return f"passed at check {number}" if number is not None and number > 1 else "passed"
        verdict = f"not passed in {number} check{'s' if number != 1 else ''}" if number else "not made"
        return f"{verdict}: {check['why']}" if check.get("why") else verdict

    @property
    def check_printed(self) -> str | None:
        check = self.data.get("check")
        return as_text(check.get("output")) if isinstance(check, dict) and check.get("passed") is not True else None

    @property
    def workspace(self) -> Mapping[str, Any]:
        found = self.data.get("workspace")
        return found if isinstance(found, dict) else {}


async def load(client: AsyncClient, task_id: str) -> TaskView:
    """Raises UnknownTask, psycopg.Error."""
    task, run = await client.get(task_id), await client.run(task_id)
    trail = await _readable(client.trail(task_id))
    asks = await _readable(client.questions(task_ids=[task_id], limit=1)) if task.status == TaskState.WAITING else None
    blocked = await _readable(client.blocked(task_id)) if task.status == TaskState.BLOCKED else None
    graph = await _readable(client.graph(task_id, nodes=NODES, edges=EDGES))
    drawn = await asyncio.to_thread(lambda: list(drawing.lines(graph))) if graph and len(graph.nodes) > 1 else []
    return TaskView(
        task=task,
        run=run,
        trail=None if trail is None else tuple(_steps(task.created_at, trail)[-TRAIL_SHOWN:]),
        more_trail=max(0, len(trail or ()) - TRAIL_SHOWN),
        asks=asks[0] if asks else None,
        blocked=blocked[0] if blocked else None,
        usage=await _readable(client.usage(task_id)),
        files=await _readable(client.files(task_id)),
        messages=await _readable(client.messages(task_id)),
        graph=None if graph is None else drawn,
        graph_cut=graph is not None and graph.cut,
    )


async def _readable(reading: Awaitable[T]) -> T | None:
    """None: this role may not read it, or the database is from before it."""
    try:
        return await reading
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return None


def _steps(created: datetime | None, trail: Sequence[Action]) -> list[TrailStep]:
    before, steps = created, []
    for action in trail:
        after = None if before is None else (action.executed_at - before).total_seconds()
        change = action.to_status or ""
        if action.from_status != action.to_status:
            change = f"{action.from_status or '?'} → {action.to_status or '?'}"
        steps.append(TrailStep(action, after if after is None or after >= 0 else None, change, _detail(action.detail)))
        before = action.executed_at
    return steps


def _detail(detail: Any) -> tuple[tuple[str, str], ...]:
    """Names and values, what is long last."""
    if not isinstance(detail, dict):
        return () if detail is None else (("", as_text(detail) or ""),)
    if isinstance(question := detail.get("question"), dict):
        detail = {**detail, "question": question.get("text")}
    ordered = sorted(detail.items(), key=lambda item: item[0] in ("why", "error", "output", "question"))
    return tuple((str(name), (as_text(value) or "")[:DETAIL_CHARACTERS]) for name, value in ordered)


def as_text(value: Any) -> str | None:
    """A text as it is, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
