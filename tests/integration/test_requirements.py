"""`requires`: a task runs on a worker that has the labels; what a row may say; older workers; what no worker meets."""

import json
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from psycopg import errors

from tests.support.places import at, claims, older
from turbo import sql

INSERT = "insert into agent_tasks (task_id, task_description, requires) values (%s, 'x', %s)"
Connection = psycopg.Connection[Any]


def insert(db: Connection, task_id: str, **requires: object) -> None:
    db.execute(INSERT, [task_id, json.dumps(requires) if requires else None])


def requires(db: Connection, task_id: str) -> object:
    ((found,),) = db.execute("select requires from agent_tasks where task_id = %s", [task_id]).fetchall()
    return found


def unplaceable(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select queue, requires, tasks, task_id, worker_id, lacks from turbo_unplaceable(1000)"
    ).fetchall()


def noted(db: Connection) -> list[str]:
    return [row[0] for row in db.execute("select task_id from agent_requirements order by 1")]


# ── who claims it ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_task_runs_on_a_worker_with_its_labels(dsn, db):
    insert(db, "mac", os="macos")
    insert(db, "newest", os="macos", xcode="16")
    insert(db, "any")
    async with at(dsn, "a", os="linux") as linux, at(dsn, "b", os="macos", xcode="16") as mac:
        assert await claims(linux) == ["any"]
        assert await claims(mac) == ["mac", "newest"]


async def test_task_is_claimed_anywhere_without_the_guard(dsn, db):
    """The control of the test above."""
    text, guard = (
        sql.statement("tasks/claim"),
        "public.turbo_may_run(t.task_id::public.turbo_task_id, t.requires::jsonb,",
    )
    assert guard in text
    insert(db, "mac", os="macos")
    async with at(dsn, "a", os="linux") as linux:
        with patch(
            "turbo.db.store.statement",
            lambda name, variant=None: text.replace(guard, guard.replace("t.requires", "null")),
        ):
            assert (await linux.claims._rows("tasks/claim", _parameters(linux)))[0][0] == "mac"


def _parameters(stores: Any) -> dict[str, object]:
    return {
        "worker": stores.worker_id, "queue": "default", "only_types": None, "skip_types": None, "characters": 9,
        "place": '{"host": "a", "labels": {"os": "linux"}, "stay": 60}', "n": 1, "may_idle": False,
    }  # fmt: skip


async def test_task_may_require_a_host(dsn, db):
    insert(db, "here", host="a")
    async with at(dsn, "b") as other, at(dsn, "a") as own:
        assert await claims(other) == []
        assert await claims(own) == ["here"]


@pytest.mark.parametrize("value", [16, "16"])
async def test_values_are_compared_as_text(dsn, db, value):
    insert(db, "t", xcode=value, gpu=True)
    assert requires(db, "t") == {"xcode": "16", "gpu": "true"}
    async with at(dsn, "a", xcode="16", gpu="true") as worker:
        assert await claims(worker) == ["t"]


@pytest.mark.parametrize("empty", [None, "{}", "null"])
async def test_no_requirement_is_none(dsn, db, empty):
    db.execute(INSERT, ["t", empty])
    assert requires(db, "t") is None
    assert noted(db) == []
    async with at(dsn, "a") as worker:
        assert await claims(worker) == ["t"]


# ── what a row may say ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ('["os"]', "requires is a list, not an object"),
        ('"macos"', "requires is a string, not an object"),
        ("7", "requires is a number, not an object"),
        ('{"os": {"name": "macos"}}', "label 'os' in requires is an object, not a text"),
        ('{"os": ["macos", "linux"]}', "label 'os' in requires is a list, not a text"),
        ('{"os": null}', "label 'os' in requires is null, not a text"),
        ('{" ": "x"}', "requires has a label without a name"),
        (json.dumps({f"l{n}": "x" for n in range(21)}), "requires has 21 labels in 2.. bytes, more than 20 labels"),
        (json.dumps({"os": "x" * 3000}), "requires has 1 labels in 30.. bytes, more than 20 labels or 2000 bytes"),
    ],
    ids=lambda value: None if value.startswith(("{", "[")) else value[:40],
)
def test_requirement_that_is_none_is_refused(db, given, what):
    with pytest.raises(errors.CheckViolation, match=what) as refused:
        db.execute(INSERT, ["t", given])
    assert refused.value.diag.message_hint
    db.execute(INSERT, ["t", '{"os": "macos"}'])
    with pytest.raises(errors.CheckViolation, match=what):
        db.execute("update agent_tasks set requires = %s where task_id = 't'", [given])
    assert requires(db, "t") == {"os": "macos"}


async def test_person_changes_what_a_pending_task_requires(dsn, db):
    insert(db, "t", os="macos")
    async with at(dsn, "a", os="linux") as linux:
        assert await claims(linux) == []
        db.execute("update agent_tasks set requires = '{\"os\": \"linux\"}' where task_id = 't'")
        detail = db.execute("select detail from agent_actions where action_type = 'edited'").fetchone()
        assert detail is not None
        assert detail[0]["columns"] == ["requires"]
        assert await claims(linux) == ["t"]


async def test_follow_up_requires_what_its_task_did(dsn, db):
    insert(db, "first", os="macos")
    follow = "insert into agent_tasks (task_id, task_description, continues, requires) values (%s, 'x', 'first', %s)"
    for task_id, own in (("as before", None), ("its own", '{"xcode": 16}'), ("anywhere", "{}")):
        db.execute(follow, [task_id, own])
    assert [requires(db, task_id) for task_id in ("as before", "its own", "anywhere")] == [
        {"os": "macos"},
        {"xcode": "16"},
        None,
    ]


# ── an older worker ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_older_worker_keeps_requirements_out_of_its_queue(db):
    older(db)
    with pytest.raises(
        errors.ObjectNotInPrerequisiteState, match="worker old-2-abc of queue default is older"
    ) as refused:
        insert(db, "t", os="macos")
    assert "Upgrade that worker" in str(refused.value.diag.message_hint)
    insert(db, "plain")
    db.execute(
        "insert into agent_tasks (task_id, task_description, queue, requires) values ('o', 'x', 'new', '{\"a\": 1}')"
    )
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="old-2-abc"):
        db.execute("update agent_tasks set queue = 'default' where task_id = 'o'")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="old-2-abc"):
        db.execute("update agent_tasks set requires = '{\"a\": 1}' where task_id = 'plain'")
    db.execute("update agent_workers set state = 'dead' where worker_id = 'old-2-abc'")
    insert(db, "t", os="macos")


def test_older_worker_cannot_begin_beside_requirements(db):
    insert(db, "t", os="macos")
    with pytest.raises(
        errors.ObjectNotInPrerequisiteState, match="worker old-2-abc is older than tasks in queue default"
    ):
        older(db)
    older(db, "elsewhere", "other")
    db.execute("delete from agent_tasks where task_id = 't'")
    older(db)
    db.execute("update agent_workers set state = 'dead'")
    insert(db, "t", os="macos")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="older than tasks"):
        db.execute("update agent_workers set state = 'up' where worker_id = 'old-2-abc'")


def test_retry_by_hand_is_refused_beside_an_older_worker(db):
    insert(db, "t", os="macos")
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")
    db.execute("delete from agent_requirements")  # as the leader does, once it is over
    older(db)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="old-2-abc"):
        db.execute("update agent_tasks set status = 'pending' where task_id = 't'")


# ── what no worker meets ────────────────────────────────────────────────────────────────────────────────────────────


async def test_task_that_nobody_can_take_is_found(dsn, db):
    insert(db, "t1", os="macos", xcode="16")
    insert(db, "t2", os="macos", xcode="16")
    insert(db, "met", os="linux")
    assert unplaceable(db) == [], "nobody serves the queue: that is the trouble"
    async with at(dsn, "a", os="linux"), at(dsn, "b", os="macos", xcode="15"):
        found = unplaceable(db)
        assert found == [("default", {"os": "macos", "xcode": "16"}, 2, "t1", "b-1-abc", {"xcode": "15"})]
        async with at(dsn, "c", os="macos", xcode="16"):
            assert unplaceable(db) == []
        db.execute("update agent_workers set heartbeat_at = now() - interval '2 minutes' where host = 'c'")
        assert unplaceable(db) == found, "a silent worker takes nothing"
        db.execute("update agent_tasks set status = 'cancelled' where task_id = 't1'")
        assert [row[2:4] for row in unplaceable(db)] == [(1, "t2")]
        db.execute("update agent_tasks set run_after = now() + interval '1 day' where task_id = 't2'")
        assert unplaceable(db) == [], "its time has not come"
        db.execute("update agent_tasks set status = 'pending', run_after = now() where task_id in ('t1', 't2')")
        assert [row[2:4] for row in unplaceable(db)] == [(2, "t1")]
        db.execute("update agent_tasks set queue = 'empty' where task_id = 't1'")
        assert [row[2:4] for row in unplaceable(db)] == [(1, "t2")]


async def test_what_is_over_is_forgotten_by_the_leader(dsn, db):
    insert(db, "over", os="macos")
    insert(db, "left", os="macos")
    insert(db, "gone", os="macos")
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 'over'")
    db.execute("delete from agent_tasks where task_id = 'gone'")
    assert noted(db) == ["left", "over"]
    async with at(dsn, "a") as worker:
        await worker.registry.prune()
    assert noted(db) == ["left"]
    db.execute("update agent_tasks set task_id = 'renamed' where task_id = 'left'")
    assert noted(db) == ["renamed"]
    db.execute("truncate agent_tasks cascade")
    assert noted(db) == []


async def test_ten_thousand_unplaceable_are_one_look(dsn, db):
    """Each requirement is looked at once: what is read does not grow with the tasks that have it."""
    db.execute(
        "insert into agent_tasks (task_description, requires) select 'x', '{\"os\": \"macos\"}' from generate_series(1, 10000)"
    )
    db.execute(
        "insert into agent_tasks (task_description, requires) select 'x', '{\"os\": \"linux\"}' from generate_series(1, 10000)"
    )
    db.execute("vacuum analyze agent_tasks, agent_requirements")
    async with at(dsn, "a", os="linux"):
        ((plan,),) = db.execute(
            "explain (analyze, buffers, format json) select * from turbo_unplaceable(1000)"
        ).fetchall()
        assert [row[2] for row in unplaceable(db)] == [1000], "counted as far as a thousand"
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 8000
