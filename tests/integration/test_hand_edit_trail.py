"""Whatever a person writes into a task, or deletes, stands in the audit trail: who, when, which columns; never the texts."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.logins import login
from tests.support.shell import Shell
from tests.support.steps import claim_one, ended, registered
from turbo.migrate import grant_roles
from turbo.sql import statement

SECRET = "the old text"


@pytest.fixture
def admin(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of turbo_admin, and a waiting task."""
    grant_roles(dsn)
    with login(dsn, "turbo_admin") as operator, psycopg.connect(operator, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', %s)", [SECRET])
        yield db


def trail(db: psycopg.Connection[Any], task_id: str | None = "t") -> list[tuple[Any, ...]]:
    query = "select action_type, from_status, to_status, actor, detail from agent_actions where task_id is not distinct from %s"
    return db.execute(f"{query} order by action_id", [task_id]).fetchall()


EDITS = {
    "task_type": "'z'", "task_description": "'new'", "task_priority": "9", "input_data": "'{\"a\": 1}'",
    "output_data": "'{\"output\": 1}'", "error_message": "'e'", "timeout_seconds": "9", "max_retries": "9", "retry_count": "1",
    "completed_at": "'2001-01-01'", "idempotency_key": "'k'", "queue": "'q'", "run_after": "'2001-01-01'", "concurrency_key": "'k'",
    "agent_session_id": "null", "prefer_host": "'h'", "needs": "null", "parent_task_id": "'p'",
    "requires": "'{\"os\": \"linux\"}'",
}  # fmt: skip


def test_each_column_that_an_admin_may_write_is_told(admin: psycopg.Connection[Any]) -> None:
    may = admin.execute(
        "select column_name::text from information_schema.column_privileges"
        " where table_name = 'agent_tasks' and privilege_type = 'UPDATE' and grantee = 'turbo_admin'"
    ).fetchall()
    # an answer is told as such: tests/integration/test_answers_by_hand.py
    assert {name for (name,) in may} - {"status", "answer"} == EDITS.keys(), "what an admin may write"
    for column, value in EDITS.items():
        if value == "null":  # it may only be set to null: tests/integration/test_blocked_by_hand.py
            continue
        before = len(trail(admin))
        admin.execute(f"update agent_tasks set {column} = {value} where task_id = 't'")
        *_, (action, _, _, actor, detail) = trail(admin)
        assert len(trail(admin)) == before + 1, column
        assert (action, actor, detail["columns"]) == ("edited", admin.info.user, [column])
        admin.execute(f"update agent_tasks set {column} = {value} where task_id = 't'")
        assert len(trail(admin)) == before + 1, "what changes nothing is not told"
    assert SECRET not in str(trail(admin))
    (detail,) = (detail for *_, detail in trail(admin) if detail["columns"] == ["task_description"])
    assert detail["bytes"] == {"task_description": [len(SECRET), 3]}


def test_no_setting_of_a_session_hides_an_edit(dsn: str, admin: psycopg.Connection[Any]) -> None:
    """The values differ, and their texts are the same with these settings."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(
            "alter table agent_tasks add column price float8, add column weight float4, add column list float8[],"
            " add column moment timestamptz, add column long text, add column doc json"
        )
        owner.execute("grant update (price, weight, list, moment, long, doc) on agent_tasks to turbo_admin")
    text = "(select string_agg(md5(n::text), '') from generate_series(1, 1000) n)"  # stored beside the row, compressed
    first = f"price = 1234.5, weight = 1.5, list = '{{1234.5}}', moment = '2020-01-01 00:30+00', long = {text}, doc = '{{}}'"
    admin.execute(f"update agent_tasks set {first} where task_id = 't'".encode())
    admin.execute("set extra_float_digits = -15; set timezone = 'X0X-1,0/0,364/23'; set datestyle = 'SQL'")
    admin.execute("set bytea_output = 'escape'; set intervalstyle = 'iso_8601'")
    edits = {
        "price": "1399", "weight": "1.6", "list": "'{1399}'", "moment": "moment + interval '1 microsecond'",
        "long": "long || 'x'", "doc": "'[]'",
    }  # fmt: skip
    for column, value in edits.items():
        before = len(trail(admin))
        admin.execute(f"update agent_tasks set {column} = {value} where task_id = 't'".encode())
        admin.execute(f"update agent_tasks set {column} = {column} where task_id = 't'".encode())
        assert [detail["columns"] for *_, detail in trail(admin)[before:]] == [[column]]


def test_deployments_own_columns_are_told(dsn: str, admin: psycopg.Connection[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(
            'alter table agent_tasks add column "a Note" text, add column doc json, add column place point,'
            " add column double int generated always as (task_priority * 2) stored"
        )
        owner.execute('grant update ("a Note", doc, place) on agent_tasks to turbo_admin')
    edits = {
        "\"a Note\" = 'secret'": ["a Note"],
        """doc = '"\\u0000"', place = '(1,2)'""": ["doc", "place"],
        "status = 'failed', \"a Note\" = null": ["a Note"],
        "task_priority = 1, doc = '[]'": ["task_priority", "doc"],
    }
    for edit, columns in edits.items():
        before = len(trail(admin))
        for _ in range(2):  # what changes nothing is not told
            admin.execute(f"update agent_tasks set {edit} where task_id = 't'")
        *_, (action, _, _, actor, detail) = trail(admin)
        assert (len(trail(admin)), action, actor) == (before + 1, "edited", admin.info.user), edit
        assert detail["columns"] == columns
    assert "secret" not in str(trail(admin))


@pytest.mark.parametrize("moment", ["infinity", "294276-12-31", "-infinity"])
def test_task_cannot_have_ended_in_the_future(dsn: str, admin: psycopg.Connection[Any], moment: str) -> None:
    ago = "select {} between clock_timestamp() - interval '1 minute' and clock_timestamp() from agent_tasks"
    admin.execute("update agent_tasks set status = 'completed', completed_at = %s", [moment])
    assert admin.execute(ago.format("completed_at")).fetchone() == (True,)
    admin.execute("update agent_tasks set completed_at = %s", [moment])
    assert admin.execute(ago.format("completed_at")).fetchone() == (True,)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("update agent_tasks set started_at = %s", [moment])
        assert owner.execute(ago.format("started_at")).fetchone() == (True,)


def test_end_in_the_future_is_in_no_list_of_the_latest(dsn: str, shell: Shell) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")  # a row from before
        db.execute(
            "insert into agent_tasks (task_id, task_description, status, completed_at) values ('t', 'x', 'completed', 'infinity')"
        )
        assert db.execute(statement("status/finished"), {"seconds": 3600, "limit": 5}).fetchall() == []
        assert db.execute(statement("top/ended"), {"limit": 5}).fetchall() == []
    assert "0ms ago" in shell("tasks").out


async def test_edit_of_a_result_is_told_and_answers_for_no_run(dsn: str, admin: psycopg.Connection[Any]) -> None:
    async with registered(dsn) as stores:
        held = await claim_one(stores)
        admin.execute("update agent_tasks set error_message = 'x', input_data = '[1]' where task_id = 't'")
        assert (await stores.results.finish([ended(held)]))[0].verdict == "recorded", "the run goes on"
        admin.execute("update agent_tasks set output_data = '{\"output\": \"forged\"}' where task_id = 't'")
        assert (await stores.results.finish([ended(held)]))[0].verdict == "already"
    told = [(action, detail.get("columns")) for action, *_, detail in trail(admin) if action == "edited"]
    assert told == [("edited", ["input_data", "error_message"]), ("edited", ["output_data"])]
    admin.execute("update agent_tasks set status = 'failed', output_data = null where task_id = 't'")
    *_, (_, was, becomes, _, detail) = trail(admin)
    assert (was, becomes, detail["asked"], detail["columns"]) == ("completed", "failed", "failed", ["output_data"])


def test_admin_cannot_hide_an_edit_as_a_pollers(admin: psycopg.Connection[Any]) -> None:
    """Other edits of a row that turbo never claimed may be an older poller's, and are not told."""
    for edit in (
        "output_data = '{}', retry_count = 5",
        "status = 'failed', error_message = 'no', retry_count = 6",
        "status = 'pending', retry_count = 7",
        "status = 'running', input_data = '{}'",
        "output_data = '[]'",
        "status = 'completed', output_data = '{}'",
    ):
        before = len(trail(admin))
        admin.execute(f"update agent_tasks set {edit} where task_id = 't'")
        *_, (action, _, _, actor, _) = trail(admin)
        assert (len(trail(admin)), action, actor) == (before + 1, "edited", admin.info.user), edit


def test_deletions_by_hand_are_told(dsn: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("insert into agent_tasks (task_id, task_description) values ('u', 'x')")
    admin.execute("/* turbo retention/tasks */ delete from agent_tasks where task_id in ('t', 'u')")
    for task_id in ("t", "u"):
        *_, (action, was, _, actor, _) = trail(admin, task_id)
        assert (action, was, actor) == ("deleted", "pending", admin.info.user)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("truncate agent_tasks")
        ((action, *_, detail),) = trail(owner, None)
        assert (action, detail["truncated"]) == ("deleted", True)


def test_retention_leaves_no_line(dsn: str) -> None:
    grant_roles(dsn)
    with login(dsn, "turbo_worker") as fleet, psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_id, task_description, status, run_after) values ('t', 'x', 'completed', '2001-01-01')"
        )
        db.execute("update agent_tasks set completed_at = '2001-01-01', turbo_rev = turbo_rev + 1")
        with psycopg.connect(fleet, autocommit=True) as worker:
            ages = dict.fromkeys(("completed", "failed", "cancelled"), 1.0)
            (deleted, *_) = worker.execute(statement("retention/tasks"), {"task_id": ["t"], **ages}).fetchone() or (0,)
            assert deleted == 1
        assert trail(db) == []


def test_trail_that_refers_to_the_task_lets_it_go(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("alter table agent_actions add foreign key (task_id) references agent_tasks on delete cascade")
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x'), ('u', 'x')")
        db.execute("delete from agent_tasks where task_id = 't'")
        ((action, *_, detail),) = trail(db, None)
        assert (action, detail["task_id"]) == ("deleted", "t")
        db.execute("alter table agent_actions add check (action_type <> 'deleted') not valid")
        db.execute("delete from agent_tasks where task_id = 'u'")
        assert db.execute("select count(*) from agent_tasks").fetchone() == (0,)
