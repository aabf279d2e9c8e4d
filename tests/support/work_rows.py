"""Rows of depending work as the settler leaves them, written past the triggers: edges, counts, places in a conversation."""

from typing import Any

import psycopg

from turbo.domain.claim import ClaimRef
from turbo.domain.task import Task

Connection = psycopg.Connection[Any]


def past_the_judges(db: Connection, *queries: str) -> None:
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        for query in queries:
            db.execute(query.encode())


def tie(db: Connection, task_id: str, *needs: str, mode: str = "cancel") -> None:
    """`task_id` waits for `needs`, and its notes are done with."""
    for need in needs:
        db.execute("insert into agent_dependencies (task_id, needs, mode) values (%s, %s, %s)", [task_id, need, mode])
        db.execute("update agent_tasks set needed = true, turbo_rev = turbo_rev + 1 where task_id::text = %s", [need])
    db.execute("insert into agent_blocked (task_id, needs_left) values (%s, %s)", [task_id, len(needs)])
    db.execute("delete from agent_unsettled where task_id::text = %s", [task_id])


def place(db: Connection, first: str, *follow_ups: str) -> None:
    """A conversation, in its order, each waiting for the one before it."""
    (number,) = db.execute(
        "insert into agent_conversations (task_id, place, first) values (%s, 0, %s) returning conversation",
        [first, first],
    ).fetchone() or (0,)
    before = first
    for number_there, task_id in enumerate(follow_ups, 1):
        db.execute(
            "insert into agent_conversations (task_id, conversation, place, after, first) values (%s, %s, %s, %s, %s)",
            [task_id, number, number_there, before, first],
        )
        tie(db, task_id, before, mode="run")
        before = task_id
    db.execute(
        "update agent_tasks set conversation = %s, turbo_rev = turbo_rev + 1 where task_id::text = any(%s)",
        [number, [first, *follow_ups]],
    )


def released(db: Connection, task_id: str) -> None:
    """Its needs are met: the settler lets it go."""
    db.execute("delete from agent_blocked where task_id::text = %s", [task_id])
    db.execute(
        "update agent_tasks set status = 'pending', turbo_rev = turbo_rev + 1 where task_id::text = %s", [task_id]
    )


def notes(db: Connection) -> list[str]:
    """Whom the settler is to look at, each once."""
    return [row[0] for row in db.execute("select task_id::text from agent_unsettled group by 1 order by min(note_id)")]


def count(db: Connection, task_id: str) -> tuple[int, str | None] | None:
    """What a blocked task still waits for: (needs left, the need that failed)."""
    return db.execute(
        "select needs_left, failed_need from agent_blocked where task_id::text = %s", [task_id]
    ).fetchone()


def edges(db: Connection, task_id: str) -> list[tuple[str, bool]]:
    """(need, whether it is settled)."""
    return db.execute(
        "select needs::text, settled from agent_dependencies where task_id::text = %s order by 1", [task_id]
    ).fetchall()


def claim_of(task: Task) -> ClaimRef:
    return ClaimRef(task.task_id, task.fencing_token)


def insert(db: "psycopg.Connection[Any]", task_id: str, **columns: object) -> None:
    names = ["task_id", "task_description", *columns]
    db.execute(
        f"insert into public.agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        [task_id, "x", *columns.values()],
    )


def past_the_triggers(db: "psycopg.Connection[Any]", query: str, *parameters: object) -> None:
    """As a restore, or a replica, writes rows."""
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        db.execute(query, parameters)


def placed(db: "psycopg.Connection[Any]", *task_ids: str) -> int:
    """The tasks are one conversation, in this order, and each is pending unless it runs or is over."""
    number = 0
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        for place, task_id in enumerate(task_ids):
            given = db.execute(
                "insert into public.agent_conversations (task_id, conversation, place, after, first)"
                " values (%s, coalesce(nullif(%s, 0), (select coalesce(max(conversation), 0) + 1 from public.agent_conversations)),"
                " %s, %s, %s) returning conversation",
                [task_id, number, place, task_ids[place - 1] if place else None, task_ids[0]],
            ).fetchone()
            number = next(iter(given.values())) if isinstance(given, dict) else given[0]  # type: ignore[index]
            db.execute(
                "update public.agent_tasks set conversation = %s, turbo_rev = turbo_rev + 1,"
                " status = case status when 'blocked' then 'pending' else status end where task_id = %s",
                [number, task_id],
            )
    return number
