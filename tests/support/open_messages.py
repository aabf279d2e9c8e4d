"""Rows of agent_messages: written as people do, and read."""

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def message(db: Connection, task_id: str, body: str | None) -> int:
    row = db.execute(
        "insert into agent_messages (task_id, body) values (%s, %s) returning message_id", [task_id, body]
    ).fetchone()
    assert row is not None
    return int(row[0])


def open_bodies(db: Connection) -> list[str]:
    return [
        row[0] for row in db.execute("select body from agent_messages where delivered_at is null order by message_id")
    ]


def body(db: Connection, text: str) -> Any:
    """(it is delivered or closed, to which run, its follow-up)."""
    return db.execute(
        "select delivered_at is not null, fencing_token, follow_up from agent_messages where body = %s", [text]
    ).fetchone()


def left_over(db: Connection) -> tuple[int, int]:
    """As the settler does: (messages that are open no more, follow-ups)."""
    row = db.execute("select moved, follow_ups from turbo_left_over('w')").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def follow_ups(db: Connection) -> list[tuple[str, str, str, str]]:
    """(task before, text, author, task type), in the order in which they were made."""
    return db.execute(
        "select continues, task_description, submitted_by, task_type from agent_tasks"
        " where idempotency_key like 'message %' order by substr(idempotency_key, 9)::int"
    ).fetchall()
