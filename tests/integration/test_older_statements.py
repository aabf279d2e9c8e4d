"""What workers of schema 11 send, on the schema of this turbo: they share the queue, and touch nothing that waits.

tests/support/schema_11 has their statements as they were.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.limits import a_statement_waits, insert_keyed, places, set_limit
from tests.support.rig import finished
from tests.support.waiting_rows import ONE, answer, insert, row, waiting
from tests.support.work_rows import count, edges, notes, tie

OLDER = Path(__file__).parents[1] / "support" / "schema_11"


def older(db, name: str, **parameters: object) -> list[tuple[Any, ...]]:
    lines = (OLDER / f"{name}.sql").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("--"))
    return db.execute(text.encode(), parameters).fetchall()


def claim(db) -> list[tuple[str, int]]:
    """(task, token) of what it claims."""
    found = older(
        db,
        "claim",
        worker="w-1-abc",
        queue="default",
        n=9,
        may_idle=True,
        only_types=None,
        skip_types=None,
        characters=99,
    )
    return [(row[0], row[9]) for row in found if row[0] is not None]


def poll(db) -> int:
    (found,) = older(db, "poll", worker="w-1-abc", queues=["default"], accounts=[], host="h")
    return int(found[0])


async def test_older_worker_leaves_what_waits(db, stores):
    await waiting(db, stores, ONE | {"then": "fail"}, within=3600)
    db.execute("update agent_tasks set run_after = now()")
    insert(db, "held", status="waiting")
    before = [row(db), row(db, "held")]
    assert (poll(db), claim(db)) == (0, [])
    assert [row(db), row(db, "held")] == before


async def test_older_worker_claims_promotes_and_finishes(db, stores):
    insert(db, "later", run_after="2999-01-01")
    db.execute("set session_replication_role = replica")
    db.execute("update agent_tasks set run_after = now()")
    db.execute("set session_replication_role = origin")
    insert(db, "held", status="waiting")
    answer(db, "yes", "held")
    assert poll(db) == 1
    claimed = claim(db)
    assert {task for task, _ in claimed} == {"later", "held"}
    results = [
        {"task_id": task, "token": token, "outcome": "succeeded", "output": "{}", "ms": 1} for task, token in claimed
    ]
    answers = older(db, "finish", worker="w-1-abc", infra_cap=5, results=json.dumps(results))
    assert [found[2] for found in answers] == ["recorded", "recorded"]
    assert (row(db, "later")["status"], row(db, "held")["status"]) == ("completed", "completed")


async def test_older_worker_leaves_blocked_tasks_and_ends_their_needs(db, stores):
    insert(db, "plan")
    insert(db, needs=["plan"])
    insert(db, "reply", continues="plan")
    before = [row(db), row(db, "reply"), notes(db)]
    assert poll(db) == 0
    ((task, token),) = claim(db)
    assert [row(db), row(db, "reply"), notes(db)] == before
    tie(db, "t", "plan")
    older(
        db,
        "finish",
        worker="w-1-abc",
        infra_cap=5,
        results=json.dumps([{"task_id": task, "token": token, "outcome": "succeeded", "output": "{}", "ms": 1}]),
    )
    assert (row(db, "plan")["status"], row(db, "plan")["needed"], notes(db)) == ("completed", True, ["reply"])
    db.execute("delete from agent_unsettled")
    assert db.execute("select turbo_unsettled()").fetchone() == (True,), "its end is found without a note"


def test_older_retention_of_a_need_lets_its_dependent_go(db):
    """It does not know that others wait: the need had completed, and that counts."""
    insert(db, "plan", status="completed", completed_at="2001-01-01", run_after="2001-01-01")
    insert(db, needs=["plan"])
    tie(db, "t", "plan")
    ((deleted, *_),) = older(db, "retention_tasks", task_id=["plan"], completed=60, failed=60, cancelled=60)
    assert (deleted, count(db, "t"), edges(db, "t")) == (1, (0, None), [("plan", True)])


def test_older_poll_is_served_by_the_new_index(db):
    """It looks for due rows by status, queue and moment, as agent_tasks_scheduled had them."""
    db.execute(
        "insert into agent_tasks (task_description, run_after) select 'x', '2999-01-01' from generate_series(1, 3000)"
    )
    db.execute("analyze agent_tasks")
    plan = db.execute(
        "explain select task_id from agent_tasks where status = 'scheduled' and queue = 'default'"
        " and run_after <= statement_timestamp() order by run_after limit 10 for update skip locked"
    ).fetchall()
    assert "agent_tasks_at_rest" in str(plan)
    assert "Sort" not in str(plan)


async def test_older_worker_takes_place_zero_of_a_key_or_none(db, stores):
    set_limit(db, "k", 3)
    insert_keyed(db, "k", *"abcdef")
    stores.claims.limits_told()
    (first,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    assert claim(db) == []
    await stores.results.finish([finished(first, stores.worker_id)])
    assert [task for task, _ in claim(db)] == ["b"]
    assert places(db) == {"b": 0}
    newer = (await stores.claims.claim("default", 9, may_idle=False)).tasks
    assert places(db) == {"b": 0, "c": 1, "d": 2}
    results = [{"task_id": t.task_id, "token": t.fencing_token, "outcome": "failed", "ms": 1} for t in newer]
    older(db, "finish", worker="w-1-abc", infra_cap=5, results=json.dumps(results))
    assert places(db) == {"b": 0}
    assert db.execute("select count(*) from agent_tasks where key_slot is not null").fetchone() == (0,)


async def test_older_worker_that_raced_for_a_place_runs_nothing(dsn, db, stores):
    """It meets another index than it knows, and goes around the row: the next claim finds that the key is taken."""
    insert_keyed(db, "k", "a", "b")
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'b'")
        claiming = asyncio.create_task(asyncio.to_thread(in_another_claim, dsn))
        await a_statement_waits(db)
        await other.commit()
        with pytest.raises(psycopg.errors.UniqueViolation, match="agent_tasks_one_running_per_place"):
            await claiming
    assert claim(db) == []
    assert places(db) == {"b": 0}


def in_another_claim(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        claim(connection)
