"""Pages of a list of tasks that may have millions: each begins behind the last task of the one before, by an index.

    running ▶ waiting for a person ▶ pending, as they are claimed ▶ blocked ▶ scheduled ▶ ended, the newest first

A page that is not filled by one group goes on with the next. No page counts what comes before it, so the thousandth costs what
the first one does. A filter by text, type or worker reads on until it has found enough.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from turbo.client.models import TaskFilter, TaskLine
from turbo.client.operations import Query, Steps
from turbo.domain.states import FINAL, TaskState

GROUPS = ("running", "waiting", "pending", "blocked", "scheduled", "ended", "undated")
RESTING = (TaskState.WAITING, TaskState.BLOCKED, TaskState.SCHEDULED)


class BadCursor(ValueError):
    """A text that is no place in a list."""

    def __init__(self) -> None:
        super().__init__("this is no place in the list of tasks: begin with its first page")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the list: in `group`, behind the task of these keys; without an id, at its beginning."""

    group: str
    queue: str | None = None
    priority: int | None = None
    moment: str | None = None
    task_id: str | None = None

    def text(self) -> str:
        """For a URL."""
        keys = [self.group, self.queue, self.priority, self.moment, self.task_id]
        return base64.urlsafe_b64encode(json.dumps(keys).encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Raises BadCursor."""
        try:
            group, queue, priority, moment, task_id = json.loads(
                base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            )
        except (ValueError, TypeError, binascii.Error):
            raise BadCursor from None
        texts = all(one is None or (isinstance(one, str) and "\0" not in one) for one in (queue, moment, task_id))
        number = priority is None or (isinstance(priority, int) and abs(priority) < 2**31)
        if group not in GROUPS or not texts or not number or (task_id is not None and group == "pending" and not queue):
            raise BadCursor
        return cls(group, queue, priority, moment, task_id)


START = Cursor(GROUPS[0])


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page, and where the next one begins; None: this is the last."""

    tasks: list[TaskLine]
    next: Cursor | None


def page(criteria: TaskFilter, after: Cursor, limit: int) -> Steps[TaskPage]:
    """Raises BadCursor."""
    task_ids, following = yield from ids(criteria, after, limit)
    rows = (yield Query("client/task_lines", {"task_ids": task_ids})).rows if task_ids else []
    lines = {row["task_id"]: TaskLine(**row) for row in rows}
    return TaskPage([lines[one] for one in task_ids if one in lines], following)


def ids(criteria: TaskFilter, after: Cursor, limit: int) -> Steps[tuple[list[str], Cursor | None]]:
    """The ids of a page, and where the next one begins."""
    found: list[str] = []
    place: Cursor | None = after
    while place is not None:
        if _in(place.group, criteria):
            room = limit - len(found)
            rows = (yield _query(criteria, place, room + 1)).rows
            found += [row["task_id"] for row in rows[:room]]
            if len(rows) > room:
                last = rows[room - 1]
                return found, Cursor(place.group, last["queue"], last["priority"], last["moment"], last["task_id"])
        place = _group_after(place.group)
        if len(found) == limit:
            return found, place
    return found, None


def count(criteria: TaskFilter, most: int) -> Steps[int]:
    """How many tasks match, up to `most`."""
    statuses = list(criteria.statuses) if criteria.statuses is not None else [one.value for one in TaskState]
    parameters = {**_filter(criteria), "statuses": statuses, "most": most}
    tasks: int = (yield Query("client/count_tasks", parameters)).rows[0]["tasks"]
    return tasks


def _group_after(group: str) -> Cursor | None:
    number = GROUPS.index(group) + 1
    return Cursor(GROUPS[number]) if number < len(GROUPS) else None


def _in(group: str, criteria: TaskFilter) -> bool:
    """Whether the filter takes any task of the group."""
    return criteria.statuses is None or any(one in criteria.statuses for one in _statuses(group))


def _statuses(group: str) -> Sequence[str]:
    return tuple(FINAL) if group in ("ended", "undated") else (group,)


def _query(criteria: TaskFilter, place: Cursor, limit: int) -> Query:
    keys = {"moment": place.moment, "task_id": place.task_id, "limit": limit}
    parameters = {**_filter(criteria), **keys}
    if place.group in RESTING:
        return Query("client/page_resting", {**parameters, "status": place.group, "queue_key": place.queue})
    if place.group == TaskState.PENDING:
        return Query("client/page_pending", {**parameters, "queue_key": place.queue, "priority": place.priority})
    if place.group == TaskState.RUNNING:
        return Query("client/page_running", parameters)
    ended = [one for one in _statuses(place.group) if criteria.statuses is None or one in criteria.statuses]
    return Query(f"client/page_{place.group}", {**parameters, "ended": ended})


def _filter(criteria: TaskFilter) -> dict[str, object]:
    names = ("queue", "task_type", "worker", "failure_kind", "since", "text")
    return {name: getattr(criteria, name) for name in names}


def unfinished(criteria: TaskFilter) -> TaskFilter:
    """The filter without what has ended: what may be cancelled."""
    chosen = [
        one.value for one in TaskState if one not in FINAL and (criteria.statuses is None or one in criteria.statuses)
    ]
    return replace(criteria, statuses=tuple(chosen))


def retriable(criteria: TaskFilter) -> TaskFilter:
    """The filter without what has not ended; where it names no status: only what failed."""
    wanted = (TaskState.FAILED,) if criteria.statuses is None else criteria.statuses
    return replace(criteria, statuses=tuple(one.value for one in TaskState if one in FINAL and one in wanted))
