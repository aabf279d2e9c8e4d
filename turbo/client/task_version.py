"""Whether a task has changed, for those who look at it again and again."""

from dataclasses import dataclass

import psycopg

from turbo.client.models import UnknownTask
from turbo.client.operations import Query, Steps


@dataclass(frozen=True, slots=True)
class TaskVersion:
    """Equal as long as nothing has changed. `messages` None: they were not asked for, or this role may not read them."""

    status: str
    row: str
    messages: str | None = None


def version(task_id: str, *, messages: bool) -> Steps[TaskVersion]:
    """Raises UnknownTask."""
    try:
        rows = (yield Query("client/task_version", {"task_id": task_id})).rows
    except psycopg.DataError:  # the id is not valid for the column's type
        rows = []
    if not rows:
        raise UnknownTask(f"no task {task_id!r}")
    told = None
    if messages:
        try:
            told = (yield Query("client/message_version", {"task_id": task_id})).rows[0]["version"]
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            told = None
    return TaskVersion(rows[0]["status"], rows[0]["version"], told)
