"""The statements that run all day cost the same with a million rows in the table: what they touch is bounded by what they
ask for. Looked at with EXPLAIN ANALYZE of the prepared statement, as a worker's sessions keep it: planned while the table was
empty and kept while it grew, planned on tables nobody analysed, and on analysed ones."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from tests.support.database import migrated_database
from tests.support.size import sized
from turbo.db.claimed import MORE_PARAMETERS
from turbo.db.lane import PLAN_SETTINGS
from turbo.sql import statement

ROWS = sized(100_000, 1_000_000)

pytestmark = [pytest.mark.sized, pytest.mark.xdist_group("query_plans")]
RUNNING = 100
LOAD = """
insert into agent_tasks (task_id, task_description, task_priority, status, run_after, completed_at, fencing_token,
                         assigned_worker_id, question)
select s.status || n, 'x', 5 + n % 3, s.status,
       case when s.status = 'waiting' and n % 20 = 7 then '9000-01-01'
            else now() + case when s.status in ('scheduled', 'waiting') then interval '1 day' else - interval '1 day' end
                 + n * interval '10 ms' end,
       case s.status when 'completed' then now() end,
       case s.status when 'completed' then -n when 'running' then n end,
       case s.status when 'completed' then 'somebody' when 'running' then case when n % 2 = 0 then 'w' else 'dead' end end,
       case s.status when 'waiting' then '{{"kind": "question", "text": "?", "then": "proceed", "number": 1}}'::jsonb end
  from (select n, case when n <= 100 then 'running' when n % 10 < 3 then 'pending' when n % 10 < 6 then 'scheduled'
                       when n % 10 = 7 then 'waiting'
                       else 'completed' end as status
          from generate_series(1, {rows}) n) s
"""
TRAIL = """
insert into agent_actions (task_id, action_type, fencing_token)
select task_id, 'finished', abs(fencing_token) from agent_tasks where status = 'completed'
union all
select task_id, 'answered', null from agent_tasks where status = 'waiting'
"""
FINISHED = [
    {"task_id": f"running{n}", "token": n, "outcome": "succeeded", "output": {}, "ms": 1, "delay": 0, "final": False}
    | {"uncounted": False, "worker": "w", "detail": None}
    for n in range(1, RUNNING + 1)
]
ASKED = [
    {"task_id": f"running{n}", "token": n, "outcome": "asked", "question": {"kind": "question", "text": "?"}, "ms": 1}
    for n in range(1, RUNNING + 1)
]
STATEMENTS: dict[str, tuple[dict[str, object], int]] = {
    "tasks/claim": (
        {
            "worker": "w",
            "queue": "default",
            "n": 10,
            "may_idle": True,
            "only_types": None,
            "skip_types": None,
            "characters": 16_000_001,
            "place": '{"host": "h", "labels": {}, "stay": 60}',
        },
        4 * 10,
    ),
    "tasks/poll": ({"worker": "w", "queues": ["default"], "accounts": [], "host": "h", "stay": 60.0}, 4 * RUNNING),
    "tasks/poll_one": (
        {"worker": "w", "queue": "default", "queues": ["default"], "accounts": [], "host": "h", "stay": 60.0},
        4 * RUNNING,
    ),
    "tasks/finish": ({"worker": "w", "results": json.dumps(FINISHED), "infra_cap": 5, "host": "h"}, 4 * RUNNING),
    "tasks/expire": ({"worker": "w", "queues": ["default"]}, 4 * RUNNING),
    "tasks/ask": (
        {"worker": "w", "results": json.dumps(ASKED), "host": "h", "most": 20},
        4 * RUNNING,
    ),
    "tasks/more": ({"task_id": [f"waiting{n}7" for n in range(20, 30)], **MORE_PARAMETERS}, 4 * RUNNING),
    "tasks/reassert": (
        {"worker": "w", "task_id": ["waiting127"], "token": [10**9], "number": [1], "answer": ["yes"]},
        4 * 10,
    ),
    "tasks/rescue": ({"worker": "w", "infra_cap": 5, "reason": "worker_silent"}, 4 * RUNNING),
}
# Past a crowd of refused rows: nearly all pending rows are before the position.
_NEARLY_ALL = {"moment": f"{datetime.now(UTC) - timedelta(days=1, seconds=20) + ROWS * timedelta(milliseconds=10)}"}
STATEMENTS["tasks/claim_after"] = (
    {"queue": "default", **_NEARLY_ALL, "after_id": "pending1", "aside": []},
    4 * RUNNING,
)
STATEMENTS["tasks/poll_after"] = (
    {"queues": ["default"], "moment": "-infinity", "after_id": None, "aside": []},
    4 * RUNNING,
)
# Past rows at the head that this worker may not take, with some of their keys free again.
_RANGES = [
    (6, 1 << 62, "-infinity", False),
    (5, 5, "-infinity", True),
    (5, 5, "2000-01-01", False),
    (-9, 4, "-infinity", False),
]
_PAST = [
    {"low": low, "high": high, "since": since, "until": "infinity", "passed": passed}
    for low, high, since, passed in _RANGES
]
for _more in ({}, {"keys": ["a", "b"]}):
    _name = "tasks/claim+past+keys" if _more else "tasks/claim+past"
    STATEMENTS[_name] = ({**STATEMENTS["tasks/claim"][0], "ranges": json.dumps(_PAST), **_more}, 4 * 10)
STATEMENTS["tasks/claim survey"] = (
    {key: STATEMENTS["tasks/claim"][0][key] for key in ("queue", "only_types", "skip_types", "place")}
    | {"most": 1000, "most_keys": 9, "most_priorities": 9, "young": "2 s"},
    4 * 10,
)
# Around a refused row: one is left out, or nothing but a few is taken.
for _name in ("tasks/claim", "tasks/poll", "tasks/poll_one", "tasks/expire", "tasks/rescue"):
    _parameters, _limit = STATEMENTS[_name]
    STATEMENTS[f"{_name} aside"] = ({**_parameters, "aside": ["pending10", "running51"]}, _limit)
    STATEMENTS[f"{_name} only"] = ({**_parameters, "only": [f"pending{n}0" for n in range(10, 20)]}, _limit)
PLANNED = ("while the table was empty", "never analysed", "analysed")
Plan = dict[str, object]


def prepared(dsn: str) -> psycopg.Connection:
    """A session as a worker's lane has it, with every statement prepared."""
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(PLAN_SETTINGS)
    connection.execute("set jit = off")
    for name, (parameters, _) in STATEMENTS.items():
        places = {key: f"${number}" for number, key in enumerate(parameters, 1)}
        whole = statement(*name.split())  # type: ignore[arg-type]
        text = re.sub(r"%\((\w+)\)s", lambda m, places=places: places[m[1]], whole).replace("%%", "%")
        connection.execute(f'prepare "{name}" as {text}')  # type: ignore[arg-type]
    return connection


def plans(connection: psycopg.Connection) -> dict[str, Plan]:
    """Run every statement, take back what it did, and return how the database went about it."""
    found = {}
    for name, (parameters, _) in STATEMENTS.items():
        call = sql.SQL("explain (analyze, timing off, format json) execute {}({})").format(
            sql.Identifier(name), sql.SQL(", ").join(sql.Literal(value) for value in parameters.values())
        )
        with connection.transaction(force_rollback=True):
            (plan,) = connection.execute(call).fetchone() or ({},)
        found[name] = plan[0]["Plan"]
    return found


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, dict[str, Plan]]]:
    """The plans of every statement, by when they were made."""
    with migrated_database() as dsn, psycopg.connect(dsn, autocommit=True) as admin, prepared(dsn) as kept:
        for table in ("agent_tasks", "agent_actions"):
            admin.execute(f"alter table {table} set (autovacuum_enabled = false)")
        admin.execute(
            "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, state)"
            " values ('w', 'w', 'h', 1, '0', 1, '{default}', 'up'), ('dead', 'w', 'h', 2, '0', 1, '{default}', 'dead')"
        )
        plans(kept)
        admin.execute("set session_replication_role = replica")
        admin.execute(LOAD.format(rows=ROWS))
        admin.execute(TRAIL)
        found = {PLANNED[0]: plans(kept)}
        with prepared(dsn) as fresh:
            found[PLANNED[1]] = plans(fresh)
            admin.execute("vacuum (analyze) agent_tasks")
            admin.execute("analyze agent_actions")
            found[PLANNED[2]] = plans(fresh)
        yield found


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):  # type: ignore[attr-defined]
        yield from nodes(child)


def touched(node: Plan) -> float:
    """Rows that a node produced and threw away, over all its loops."""
    loops = float(node["Actual Loops"])  # type: ignore[arg-type]
    each = sum(
        float(node.get(key, 0))  # type: ignore[arg-type]
        for key in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    )
    return loops * each


@pytest.mark.parametrize("planned", PLANNED)
@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_touched_are_bounded_by_rows_requested(seen, name, planned):
    limit = STATEMENTS[name][1]
    for node in nodes(seen[planned][name]):
        what = f"{node['Node Type']} on {node.get('Relation Name')} by {node.get('Index Name')}"
        if node.get("Relation Name") in ("agent_tasks", "agent_actions"):
            assert node["Node Type"] != "Seq Scan", f"{name}, {planned}: {what}"
            assert touched(node) <= limit, f"{name}, {planned}: {what} touched {touched(node):.0f} rows"
        if "Sort" in str(node["Node Type"]):
            assert touched(node) <= limit, f"{name}, {planned}: sorted {touched(node):.0f} rows"


@pytest.mark.parametrize(
    ("name", "rows"),
    [("tasks/claim", 10), ("tasks/finish", RUNNING), ("tasks/ask", RUNNING), ("tasks/rescue", RUNNING // 2)],
)
def test_planned_statements_did_their_work(seen, name, rows):
    """The control: plans of statements that found nothing would prove nothing."""
    updates = [n for n in nodes(seen["analysed"][name]) if n["Node Type"] == "ModifyTable"]
    assert any(n.get("Relation Name") == "agent_tasks" and n["Actual Rows"] == rows for n in updates)


def test_look_past_a_crowd_found_rows(seen):
    assert [seen[planned]["tasks/claim_after"]["Actual Rows"] for planned in PLANNED] == [100, 100, 100]
