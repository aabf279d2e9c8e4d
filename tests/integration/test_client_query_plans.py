"""What people's statements cost does not grow with the table either: what they touch is bounded by what they ask for. With the settings
of a client's session, and plans made on tables that nobody analysed, and on analysed ones."""

import json
import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.test_query_plans import LOAD, TRAIL, Plan, nodes, touched
from tests.support.database import migrated_database
from tests.support.size import sized
from turbo.client.fleet_status import SETTLING_SCHEMA
from turbo.sql import statement

ROWS = sized(30_000, 1_000_000)

pytestmark = [pytest.mark.sized, pytest.mark.xdist_group("client_query_plans")]

PAIRS = "generate_series(1008, {rows} - 10, 10) n"
"""completed1008 and completed1009, completed1018 and completed1019, …: the second one needs the first, and goes on with it."""
WORK = {
    "agent_dependencies": f"(task_id, needs, settled) select 'completed' || n + 1, 'completed' || n, true from {PAIRS}",
    "agent_blocked": f"(task_id, needs_left) select 'completed' || n, 1 from {PAIRS}",
    "agent_conversations": "(task_id, conversation, place, after, first) select 'completed' || n + p, n, p,"
    f" case p when 1 then 'completed' || n end, 'completed' || n from {PAIRS} cross join generate_series(0, 1) p",
    "agent_transcripts": "(task_id, fencing_token, batch, kind, lines, sha256)"
    " select 'completed' || 2008 + n % 3, 1, n, 'event', 'x', '' from generate_series(1, {rows}) n",
    "agent_usage": "(task_id, fencing_token, executor, attempt, queue, task_type)"
    f" select 'completed' || n, n, 'a', 1, 'q', 't' from {PAIRS}",
    "agent_messages": f"(task_id, body) select 'completed' || n, 'x' from {PAIRS}",
}
SCHEDULED = (
    "update agent_tasks set idempotency_key = 'schedule nightly@' || to_char('2026-01-01'::timestamp + n * interval '1 minute',"
    " 'YYYY-MM-DD\"T\"HH24:MI:SSZ') from generate_series(1008, 1508) n where task_id = 'completed' || n"
)
SOME = [f"completed{n}8" for n in range(200, 210)]
PAGE = {**dict.fromkeys(("queue", "task_type", "worker", "failure_kind", "since", "text")), "limit": 50}
STATEMENTS: dict[str, tuple[dict[str, object], int, int]] = {
    # parameters, rows that a node may touch, rows that come back
    "client/task": ({"task_id": "completed2008"}, 4, 1),
    "client/asks": ({"task_id": "waiting127"}, 4, 1),
    "client/answer": (
        {"answer": "yes", "task_ids": [f"waiting{n}7" for n in range(20, 30)], "kinds": None, "keys": [None] * 10},
        4 * 10,
        10,
    ),
    "client/cancel": ({"task_id": [f"pending{n}1" for n in range(20, 30)]}, 4 * 10, 10),
    "client/retry": ({"task_id": SOME}, 4 * 10, 10),
    "client/retry_anew": ({"task_id": SOME}, 4 * 10, 10),
    "client/follow": ({"task_id": SOME}, 4 * 10, 10),
    "client/run_view": ({"task_id": "completed2008"}, 4, 1),
    "client/graph": ({"task_id": "completed2009", "tasks": 100, "edges": 100}, 4 * 10, 3),
    "client/dependents": ({"task_id": SOME, "most": 100}, 4 * 10, 1),
    "client/blocked": ({"task_id": SOME, "most": 10}, 4 * 10, 0),
    "client/relations": ({"task_id": "completed2009", "most": 20}, 4 * 20, 2),
    "client/messages": ({"task_id": "completed2008", "limit": 100}, 4, 1),
    "client/task_version": ({"task_id": "completed2008"}, 4, 1),
    "client/message_version": ({"task_id": "completed2008"}, 4, 1),
    "client/transcript_since": (
        {"task_id": "completed2008", "token": 1, "batch": 2, "most": 100, "limit": 4},
        4 * 4,
        4,
    ),
    "client/transcript_before": (
        {"task_id": "completed2008", "token": None, "batch": None, "most": 100, "limit": 4},
        4 * 4,
        4,
    ),
    "client/transcript_batch": ({"task_id": "completed2008", "token": 1, "batch": 500}, 4, 1),
    "client/usage": ({"task_id": "completed2008", "limit": 200}, 4, 1),
    "client/throughput": ({"seconds": 86400, "bucket": 3600, "most": 200}, 200, 1),
    "client/schedule_tasks": (
        {
            "prefix": "schedule nightly@",
            "first": "schedule nightly@0000-00-00T00:00:00Z",
            "last": "schedule nightly@9999-99-99T99:99:99.999999Z",
            "limit": 10,
        },
        501,  # of this schedule; ten, once the table was analysed
        10,
    ),
    # pages of the list of tasks, far behind its beginning
    "client/page_pending": (
        {**PAGE, "queue_key": "default", "priority": 5, "moment": "1970-01-01T00:00:00Z", "task_id": "a"},
        4 * 50,
        50,
    ),
    "client/page_resting": (
        {**PAGE, "status": "waiting", "queue_key": "default", "moment": "1970-01-01T00:00:00Z", "task_id": "a"},
        4 * 50,
        50,
    ),
    "client/task_lines": ({"task_ids": SOME}, 4 * 10, 10),
    "questions/remind": (
        {"worker": "w", "task_id": ["waiting127"], "asked_at": ["2026-01-01"], "number": [1]},
        4 * 10,
        1,
    ),
    "status/unsettled": ({"settling_schema": SETTLING_SCHEMA}, 4000, 0),
}


def plans(connection: psycopg.Connection) -> dict[str, Plan]:
    """Run every statement, take back what it did, and return how the database went about it."""
    found = {}
    for name, (parameters, _, _) in STATEMENTS.items():
        text = re.sub(r"^/\*.*?\*/ ", "explain (analyze, timing off, format json) ", statement(name))
        with connection.transaction(force_rollback=True):
            row = connection.execute(text.encode(), parameters, prepare=False).fetchone()
        assert row is not None
        found[name] = (row[0] if not isinstance(row[0], str) else json.loads(row[0]))[0]["Plan"]
    return found


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, dict[str, Plan]]]:
    """The plans of every statement, by when they were made."""
    with migrated_database() as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        for table in ("agent_tasks", "agent_actions", *WORK):
            admin.execute(f"alter table {table} set (autovacuum_enabled = false)".encode())
        admin.execute("set session_replication_role = replica")
        admin.execute(LOAD.format(rows=ROWS))
        admin.execute(TRAIL)
        admin.execute(SCHEDULED.format(rows=ROWS))
        for table, rows in WORK.items():
            admin.execute(f"insert into {table} {rows.format(rows=ROWS)}".encode())
        admin.execute("set session_replication_role = origin")
        with psycopg.connect(dsn, autocommit=True) as client:
            found = {"never analysed": plans(client)}
            for table in ("agent_tasks", "agent_actions", *WORK):
                admin.execute(f"vacuum (analyze) {table}".encode())
            found["analysed"] = plans(client)
        yield found


@pytest.mark.parametrize("planned", ["never analysed", "analysed"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_touched_are_bounded_for_clients(seen, name, planned):
    limit = STATEMENTS[name][1]
    for node in nodes(seen[planned][name]):
        what = f"{node['Node Type']} on {node.get('Relation Name')} by {node.get('Index Name')}"
        if node.get("Relation Name") in ("agent_tasks", "agent_actions", *WORK):
            assert node["Node Type"] != "Seq Scan", f"{name}, {planned}: {what}"
            assert touched(node) <= limit, f"{name}, {planned}: {what} touched {touched(node):.0f} rows"
        if "Sort" in str(node["Node Type"]):
            assert touched(node) <= limit, f"{name}, {planned}: sorted {touched(node):.0f} rows"


@pytest.mark.parametrize("name", STATEMENTS)
def test_planned_client_statements_found_their_rows(seen, name):
    """The control: plans of statements that found nothing would prove nothing."""
    assert seen["analysed"][name]["Actual Rows"] == STATEMENTS[name][2]
