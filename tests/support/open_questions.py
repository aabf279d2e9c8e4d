"""Rows that wait for a person, as turbo leaves them: a superuser imitates a run's ask by turbo's own revision."""

import json
from typing import Any

import psycopg

DATABASE = {
    "question": "Which database?",
    "header": "Database",
    "options": [{"label": "PostgreSQL", "description": "as everywhere"}, {"label": "SQLite"}],
    "multi": False,
}
PARTS = {
    "question": "Which parts?",
    "header": "",
    "options": [{"label": "api"}, {"label": "web"}, {"label": "docs"}],
    "multi": True,
}
PUSH = {
    "kind": "approval",
    "text": "May it run git push?",
    "tool": "Bash",
    "input": {"command": "git push origin main"},
}

_ASK = """
update agent_tasks
   set status = 'waiting', fencing_token = -7, agent_session_id = 'the-session', prefer_host = %(host)s,
       question = %(question)s::jsonb || jsonb_strip_nulls(jsonb_build_object(
         'number', 1, 'asked_at', clock_timestamp() - make_interval(secs => %(ago)s),
         'answer_by', clock_timestamp() + make_interval(secs => %(within)s))),
       answer = null, run_after = coalesce(clock_timestamp() + make_interval(secs => %(within)s), '9000-01-01 00:00+00'),
       turbo_rev = turbo_rev + 1
 where task_id = %(task_id)s
"""


def question(*singles: dict[str, Any], text: str = "") -> dict[str, Any]:
    """A question of an agent's; without any: which database?"""
    asked = singles or (DATABASE,)
    return {"kind": "question", "text": text or asked[0]["question"], "questions": list(asked)}


def ask(
    dsn: str,
    task_id: str,
    asked: dict[str, Any] | None = None,
    *,
    ago: float = 60.0,
    within: float | None = None,
    host: str | None = None,
    queue: str = "default",
) -> str:
    """The task, inserted if it is not there, asks this: since `ago` seconds, for `within` more (None: for ever)."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_id, task_description, queue) values (%s, 'Add a cache', %s) on conflict do nothing",
            [task_id, queue],
        )
        parameters = {"task_id": task_id, "question": json.dumps(asked or question()), "ago": ago, "within": within}
        assert db.execute(_ASK, {**parameters, "host": host}).rowcount == 1
    return task_id
