"""The clients' operations on work that hangs together: graphs, follow-ups, messages. See turbo.client.operations for what drives
them."""

from collections.abc import Sequence

import psycopg

from turbo.client.graph import (
    NAMED,
    NODES,
    RELATED,
    Blocked,
    Dependents,
    Graph,
    MessageLine,
    Refused,
    Relations,
    TaskIsOver,
    Told,
    read_blocked,
    read_graph,
    read_relations,
)
from turbo.client.models import Changed, Submitted, UnknownTask
from turbo.client.new_task import BadField, NewTask, check_text
from turbo.client.operations import Query, Steps, change, listed, submit
from turbo.domain.states import TaskState
from turbo.domain.work import MESSAGE_BYTES

MESSAGES_LISTED = 100

CHANGEABLE = {
    "cancel": (
        TaskState.SCHEDULED,
        TaskState.PENDING,
        TaskState.BLOCKED,
        TaskState.RUNNING,
        TaskState.WAITING,
    ),
    "retry": (TaskState.FAILED, TaskState.CANCELLED),
}
"""Which tasks of a graph a verb changes. What completed is not run again with its graph."""


def graph(task_id: str, nodes: int | None, edges: int | None) -> Steps[Graph]:
    """Raises UnknownTask."""
    try:
        rows = (yield Query("client/graph", {"task_id": task_id, "tasks": nodes, "edges": edges})).rows
    except psycopg.DataError:  # the id is not valid for the column's type
        rows = []
    if not rows:
        raise UnknownTask(f"no task {task_id!r}")
    return read_graph(task_id, rows, nodes, edges)


def change_graph(verb: str, task_ids: str | Sequence[str]) -> Steps[list[Changed]]:
    """All tasks of these graphs in one statement: `cancel`, or `retry` of those that did not complete. Raises UnknownTask."""
    chosen: dict[str, None] = {}
    for task_id in listed(task_ids):
        if task_id in chosen:
            continue
        whole = yield from graph(task_id, None, 0)
        chosen |= dict.fromkeys(node.task_id for node in whole.nodes if node.status in CHANGEABLE[verb])
    return (yield from change(verb, sorted(chosen))) if chosen else []


def dependents(task_ids: str | Sequence[str]) -> Steps[Dependents]:
    if not (names := listed(task_ids)):
        return Dependents(0, 0)
    row = (yield Query("client/dependents", {"task_id": names, "most": NODES + 1})).rows[0]
    return Dependents(row["blocked"], row["cancelled"], row["blocked"] + row["cancelled"] > NODES)


def blocked(task_ids: Sequence[str]) -> Steps[list[Blocked]]:
    if not task_ids:
        return []
    rows = (yield Query("client/blocked", {"task_id": list(task_ids), "most": NAMED})).rows
    return [read_blocked(row) for row in rows]


def relations(task_id: str) -> Steps[Relations]:
    rows = (yield Query("client/relations", {"task_id": task_id, "most": RELATED})).rows
    return read_relations(rows)


def directory_id(task_id: str) -> Steps[str]:
    """The task itself where its schema has no conversations, or they may not be read."""
    try:
        return str((yield Query("client/directory", {"task_id": task_id})).rows[0]["directory_id"])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return task_id


def reply(task: NewTask) -> Steps[Submitted]:
    """Insert a follow-up: `task.continues` names the task whose conversation goes on. Raises UnknownTask, Refused."""
    other = task.continues or ""
    try:
        return (yield from submit(task))
    except psycopg.errors.ForeignKeyViolation as error:
        raise (yield from _why(other, error)) from None
    except psycopg.errors.CheckViolation as error:
        raise Refused(_said(error)) from None
    except psycopg.DataError as error:  # the id is not valid for the column's type
        raise (yield from _why(other, error)) from None


def tell(task_id: str, text: str) -> Steps[Told]:
    """Raises UnknownTask, Refused (TaskIsOver is one), BadField."""
    check_text("message", text)
    if not text.strip():
        raise BadField("message", "is empty: write what the agent should know")
    if (size := len(text.encode())) > MESSAGE_BYTES:
        raise BadField(
            "message", f"has {size} bytes, more than {MESSAGE_BYTES}: put the rest where the agent can read it"
        )
    try:
        row = (yield Query("client/tell", {"task_id": task_id, "body": text})).rows[0]
    except psycopg.errors.ForeignKeyViolation as error:
        raise (yield from _why(task_id, error)) from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise TaskIsOver(error.diag.message_primary or str(error), error.diag.message_hint or "") from None
    except psycopg.errors.CheckViolation as error:
        raise Refused(_said(error)) from None
    except psycopg.DataError as error:
        raise (yield from _why(task_id, error)) from None
    return Told(row["task_id"], row["message_id"])


def messages(task_id: str) -> Steps[list[MessageLine]]:
    rows = (yield Query("client/messages", {"task_id": task_id, "limit": MESSAGES_LISTED})).rows
    return [MessageLine(**row) for row in rows]


def _why(task_id: str, error: psycopg.Error) -> Steps[Exception]:
    """Whether the task is not there, or the database refuses what was to be inserted for it."""
    try:
        if not (yield Query("client/asks", {"task_id": task_id})).rows:
            return UnknownTask(f"no task {task_id!r}")
    except psycopg.DataError:
        return UnknownTask(f"no task {task_id!r}")
    except psycopg.errors.InFailedSqlTransaction:  # the caller's transaction: nothing can be asked any more
        pass
    return Refused(_said(error))


def _said(error: psycopg.Error) -> str:
    """What the database's trigger says, with its hint."""
    hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary or error}{hint}"
