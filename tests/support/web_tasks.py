"""Rows for the page of a task, as turbo leaves them: a superuser imitates turbo's own revisions."""

import hashlib
import json
from typing import Any

import psycopg

from turbo.sql import statement

TOKEN = 7


def insert(dsn: str, task_id: str, text: str = "Add a cache", **columns: Any) -> str:
    names = ", ".join(["task_id", "task_description", *columns])
    marks = ", ".join(["%s"] * (2 + len(columns)))
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"insert into agent_tasks ({names}) values ({marks})".encode(), [task_id, text, *columns.values()])
    return task_id


def runs(dsn: str, task_id: str, text: str = "Add a cache") -> str:
    insert(dsn, task_id, text)
    _becomes(dsn, task_id, status="running", fencing_token=TOKEN, assigned_worker_id="w-1-abcdef", started_at="now")
    return task_id


def ends(dsn: str, task_id: str, status: str = "completed", output: Any = "done", error: str | None = None) -> None:
    data = json.dumps({"output": output})
    columns = {"status": status, "fencing_token": -TOKEN, "completed_at": "now", "output_data": data}
    _becomes(dsn, task_id, **columns, error_message=error, agent_session_id="the-session")


def _becomes(dsn: str, task_id: str, **columns: Any) -> None:
    changes = ", ".join(f"{name} = %s" for name in columns)
    with psycopg.connect(dsn, autocommit=True) as db:
        row = db.execute(
            f"update agent_tasks set {changes}, turbo_rev = turbo_rev + 1 where task_id = %s".encode(),
            [*columns.values(), task_id],
        )
        assert row.rowcount == 1


def says(dsn: str, task_id: str, batch: int, *texts: str, result: str | None = None) -> None:
    """The agent says these: one batch of its transcript, written and announced as a worker does. `result`: of a tool."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    rows: list[dict[str, Any]] = [{"type": "assistant", "message": {"content": content}}] if texts else []
    if result is not None:
        rows.append({"type": "user", "message": {"content": [{"type": "tool_result", "content": result}]}})
    writes(dsn, task_id, batch, "".join(json.dumps(row) + "\n" for row in rows))


def writes(dsn: str, task_id: str, batch: int, lines: str) -> None:
    columns = {
        "task_id": [task_id],
        "token": [TOKEN],
        "batch": [batch],
        "session_id": ["the-session"],
        "kind": ["session"],
        "path": ["the-session.jsonl"],
        "lines": [lines],
        "sha256": [hashlib.sha256(lines.encode()).digest()],
    }
    with psycopg.connect(dsn, autocommit=True) as db:
        found = db.execute(statement("transcripts/write").encode(), columns).fetchall()
    assert [row[2] for row in found] == ["stored"]


def keeps(dsn: str, task_id: str, path: str, content: bytes) -> None:
    """The last run left this file."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_files (task_id, fencing_token, path, bytes, sha256) values (%s, %s, %s, %s, %s)",
            [task_id, TOKEN, path, content, hashlib.sha256(content).digest()],
        )
