"""Where tasks may run, for `turbo status`, `turbo show` and `turbo submit`: what requires labels that no worker has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from turbo.client.operations import Query, Steps
from turbo.domain.finding import Finding, warn
from turbo.domain.placement import label_list, lacking

UNPLACEABLE_LISTED = 10


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Pending tasks of a queue that require labels which none of its live workers has. `tasks`: how many, at most 1,000; `task_id`:
    one of them. `worker_id`: the worker that comes closest; `lacks`: the labels that it has not, with what it has in place of each."""

    queue: str
    requires: dict[str, str]
    tasks: int
    task_id: str
    worker_id: str
    lacks: dict[str, str | None]

    @property
    def finding(self) -> Finding:
        many = "1 task" if self.tasks == 1 else f"{self.tasks}{' or more' if self.tasks >= 1000 else ''} tasks"
        return warn(
            f"queue {self.queue}: {many} can run nowhere: no live worker of it has {label_list(self.requires)}. {self.worker_id} comes"
            f" closest, and lacks {lacking(self.requires, self.lacks)}: {self.task_id}{', ...' if self.tasks > 1 else ''}",
            "give a worker these labels (worker.labels), or start one that has them; or change what the task requires",
        )


def unplaceable_lines(rows: Iterable[Mapping[str, Any]]) -> list[Unplaceable]:
    """The rows of status/unplaceable.sql."""
    return [Unplaceable(**row) for row in rows]


def unplaceable(limit: int = UNPLACEABLE_LISTED) -> Steps[list[Unplaceable]]:
    """Those of the most tasks first. None for a role that may not see them, and before schema 22."""
    try:
        rows = (yield Query("status/unplaceable", {"limit": limit})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
        return []
    return unplaceable_lines(rows)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task may run. `workers`: the live ones of its queue; `able`: those that have what it requires. `nearest`: the worker that
    lacks the fewest labels, and `lacks`, what it has in place of each. `portable`: its conversation can be had on any host, and
    `prefer_host` is a preference. `host_live`: a live worker of that host serves the queue."""

    queue: str
    requires: dict[str, str] | None
    prefer_host: str | None
    portable: bool
    workers: int
    able: int
    nearest: str | None
    lacks: dict[str, str | None] | None
    host_live: bool

    @property
    def nowhere(self) -> str | None:
        """Why no live worker of its queue may take it, for its labels; None if one may, or if there is none at all."""
        if not self.requires or self.able or not self.workers or self.nearest is None:
            return None
        return f"no live worker of queue {self.queue} has these labels; {self.nearest} lacks {lacking(self.requires, self.lacks or {})}"


def place(task_id: str) -> Steps[Place | None]:
    """None: no such task, or a role that may not see where it may run."""
    try:
        rows = (yield Query("client/place", {"task_id": task_id})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DataError):
        return None
    return Place(**rows[0]) if rows else None
