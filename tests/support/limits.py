"""Limits of keys as tests write them, and what runs of a key."""

from typing import Any

import psycopg

from tests.support.waiting import until_async

Connection = psycopg.Connection[Any]


def set_limit(db: Connection, key: str, running: int) -> None:
    db.execute(
        "insert into agent_limits values (%s, %s) on conflict (concurrency_key) do update set running = excluded.running",
        [key, running],
    )


def insert_keyed(db: Connection, key: str, *task_ids: str, queue: str = "default") -> None:
    """Tasks of a key, the first of them first in the queue."""
    for task_id in task_ids:
        db.execute(
            "insert into agent_tasks (task_id, task_description, concurrency_key, queue) values (%s, 'x', %s, %s)",
            [task_id, key, queue],
        )


def places(db: Connection, key: str = "k") -> dict[str, int]:
    """The running tasks of a key, each with its place."""
    rows = db.execute(
        "select task_id::text, coalesce(key_slot, 0) from agent_tasks where status = 'running' and concurrency_key = %s",
        [key],
    )
    return dict(rows.fetchall())


async def a_statement_waits(db: Connection) -> None:
    """Until a statement in this database waits for a lock. The server has other tests' databases, too."""
    waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    await until_async(lambda: bool(db.execute(waits).fetchall()), what="a statement waits for a lock")
