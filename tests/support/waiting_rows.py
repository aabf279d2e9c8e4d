"""Rows that wait for a person, as a run that asks leaves them; and what stands in the audit trail of a task."""

import json
import threading
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.support.steps import claim_one
from tests.support.stores import Stores
from tests.support.waiting import until
from turbo.domain.claim import ClaimRef
from turbo.domain.question import MOST_QUESTIONS
from turbo.sql import statement

HOST = "h"
"""The host of the worker of tests/support/steps.py."""
ONE: dict[str, Any] = {"kind": "question", "text": "Which?", "questions": [{"question": "Which?", "options": []}]}
TWO = ONE | {"questions": [{"question": "Which database?"}, {"question": "Which version?"}]}
APPROVAL: dict[str, Any] = {
    "kind": "approval", "text": "git push", "tool": "Bash", "input": {"command": "git push", "timeout": None},
    "rule": "Bash(git push *)", "then": "deny",
}  # fmt: skip

Connection = psycopg.Connection[Any]


def insert(db: Connection, task_id: object = "t", **columns: object) -> None:
    given = {"task_id": task_id, "task_description": "x", **columns}
    db.execute(
        f"insert into agent_tasks ({', '.join(given)}) values ({', '.join(['%s'] * len(given))})",
        [*given.values()],
    )


def row(db: Connection, task_id: str = "t") -> dict[str, Any]:
    with db.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "select *, run_after <= clock_timestamp() as due from agent_tasks where task_id::text = %s", [task_id]
        ).fetchone()
    assert found is not None
    return found


def trail(db: Connection, task_id: str = "t") -> list[tuple[str, str | None, str | None]]:
    """The hand edits and answers of a task: (action, from, to)."""
    return db.execute(
        "select action_type, from_status, to_status from agent_actions where task_id::text = %s"
        " and action_type in ('edited', 'answered', 'unanswered') order by action_id",
        [task_id],
    ).fetchall()


def last_detail(db: Connection, task_id: str = "t") -> dict[str, Any]:
    found = db.execute(
        "select detail from agent_actions where task_id::text = %s order by action_id desc limit 1", [task_id]
    ).fetchone()
    assert found is not None
    return dict(found[0])


def record_question(
    db: Connection, held: ClaimRef, question: Mapping[str, Any] = ONE, *, within: float | None = None
) -> tuple[str, str | None]:
    """The run of `held` ends by asking. Returns the verdict, and what the task becomes."""
    result = {"task_id": held.task_id, "token": held.token, "question": json.dumps(question), "within": within, "ms": 1}
    parameters = {"results": json.dumps([result]), "worker": "w-1-abc", "host": HOST, "most": MOST_QUESTIONS}
    found = db.execute(statement("tasks/ask").encode(), parameters).fetchone()
    assert found is not None
    return str(found[2]), found[3]


async def waiting(
    db: Connection, stores: Stores, question: Mapping[str, Any] = ONE, *, within: float | None = None, **columns: object
) -> ClaimRef:
    """Task `t` waits for an answer to `question`; the claim of the run that asked."""
    insert(db, **columns)
    held = await claim_one(stores)
    assert record_question(db, held, question, within=within) == ("recorded", "waiting")
    return held


def answer(db: Connection, text: str | None, task_id: str = "t") -> None:
    db.execute("update agent_tasks set answer = %s where task_id::text = %s", [text, task_id])


def in_another_session(dsn: str, query: str) -> tuple[threading.Thread, list[Exception | int]]:
    """Runs `query` in a session of its own, which is waited for until it waits for a lock."""
    done: list[Exception | int] = []

    def run() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True, application_name="second") as second:
                done.append(second.execute(query.encode()).rowcount)
        except psycopg.Error as error:
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with psycopg.connect(dsn, autocommit=True) as watcher:
        until(
            lambda: watcher.execute(
                "select true from pg_stat_activity where application_name = 'second' and wait_event_type = 'Lock'"
            ).fetchone(),
            what="the second session waits for the row",
        )
    return thread, done
