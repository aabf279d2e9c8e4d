"""Needs and follow-ups in adopted tables: ids of other types, an enum or a CHECK on status, names that are taken."""

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row

from tests.support.adoption import each, make
from tests.support.migrations import query
from tests.support.odd_tables import ENUM, PREDECESSOR, OddTable
from tests.support.work_rows import count, edges, tie
from turbo.migrate import MigrationError, migrate
from turbo.migrate.adoption.contract import RESERVED
from turbo.sql import statement

NOWHERE = {"uuid": "00000000-0000-0000-0000-000000000001", "integer": "999999", "bigint": "999999"}


@each
def test_adopted_task_needs_continues_and_is_forgotten(empty_dsn: str, table: OddTable) -> None:
    make(empty_dsn, table, 50)
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as db:
        number = iter(range(900, 999))

        def insert(**columns: object) -> str:
            given = {"task_type": "mine", "task_description": "x", "task_priority": 9} | columns
            if table.name == "bare":
                given.setdefault("task_id", next(number))  # its ids have no default
            names = ", ".join(given)
            values = ", ".join(f"%({name})s" for name in given)
            row = db.execute(
                f"insert into agent_tasks ({names}) values ({values}) returning task_id::text as id".encode(), given
            )
            found = row.fetchone()
            assert found is not None
            return str(found["id"])

        def row(task_id: str) -> dict[str, object]:
            found = db.execute(
                "select *, status::text as status, task_id::text as id from agent_tasks where task_id::text = %s",
                [task_id],
            ).fetchone()
            assert found is not None
            return found

        plan = insert()
        do = insert(needs=[plan])
        reply = insert(continues=plan, task_type="default")
        assert [row(task)["status"] for task in (do, reply)] == ["blocked", "blocked"]
        assert (row(do)["needs"], row(reply)["task_type"]) == ([plan], "mine")
        kind = query(empty_dsn, "select format_type(typbasetype, null) from pg_type where typname = 'turbo_task_id'")[
            0
        ][0]
        for wrong in ("no id", NOWHERE.get(str(kind), "nowhere"), plan + " ", plan + "x" * 200):
            with pytest.raises(errors.ForeignKeyViolation, match="needs names"):
                insert(needs=[plan, wrong])
            with pytest.raises(errors.ForeignKeyViolation, match="continues names"):
                insert(continues=wrong)
        if kind in NOWHERE:  # other ways to write the same id
            other = plan.upper() if kind == "uuid" else f"0{plan}"
            assert row(insert(needs=[other, plan]))["needs"] == [plan]
            assert row(insert(continues=other))["continues"] == plan
        with psycopg.connect(empty_dsn, autocommit=True) as plain:
            tie(plain, do, plan)
            db.execute("update agent_tasks set status = 'pending' where task_id::text = %s", [do])
            assert (row(do)["status"], count(plain, do)) == ("pending", None)
            db.execute("update agent_tasks set status = 'blocked' where task_id::text = %s", [do])
            assert (row(do)["status"], edges(plain, do)) == ("blocked", [])
            tie(plain, do, plan)
            db.execute("delete from agent_tasks where task_id::text = %s", [plan])
            assert count(plain, do) == (1, plan)
            db.execute("update agent_tasks set needs = null where task_id::text = %s", [do])
            assert (row(do)["needs"], count(plain, do)) == (None, None)


def test_parent_of_the_deployments_own_is_kept(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute(
            "create table agent_tasks (task_id serial primary key, parent_task_id json, task_description text, status text)"
        )
        migrate(empty_dsn)
        db.execute("insert into agent_tasks (task_description, parent_task_id) values ('x', '{}')")
        db.execute("insert into agent_tasks (task_description, parent_task_id, needs) values ('x', '{}', '{1}')")
        db.execute("update agent_tasks set parent_task_id = '[]'")
        told = db.execute("select detail -> 'columns' from agent_actions where action_type = 'edited'").fetchall()
    assert told == [(["parent_task_id"],), (["parent_task_id"],)]


@pytest.mark.parametrize("column", RESERVED)
def test_column_of_a_taken_name_is_refused_by_name(empty_dsn: str, column: str) -> None:
    make(empty_dsn, PREDECESSOR, 10)
    query(empty_dsn, f"alter table agent_tasks add column {column} integer")
    with pytest.raises(MigrationError, match=column):
        migrate(empty_dsn)
    assert query(empty_dsn, "select to_regclass('public.agent_dependencies')") == [(None,)]


def test_pollers_own_blocked_rows_stay_its_own(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute("create table agent_tasks (task_id serial primary key, task_description text, status text)")
        migrate(empty_dsn)
        db.execute("insert into agent_tasks (task_description, status) values ('x', 'blocked'), ('x', 'on hold')")
        db.execute("update agent_tasks set status = 'blocked'")
        db.execute("update agent_tasks set status = 'running', retry_count = 1")
        assert db.execute("select distinct status, turbo_rev from agent_tasks").fetchall() == [("running", 0)]
        assert db.execute("select count(*) from agent_unsettled").fetchone() == (0,)


def test_task_of_an_adopted_enum_can_be_failed_as_poison(empty_dsn: str) -> None:
    make(empty_dsn, ENUM, 50)
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        (task_id,) = query(
            empty_dsn,
            "select task_id::text from public.agent_tasks where status = 'pending' and fencing_token is null limit 1",
        )[0]
        given = {
            "task_id": task_id, "status": "pending", "token": None, "worker": "w", "error": "refused",
            "statement": "claim", "audit": True,
        }  # fmt: skip
        db.execute(statement("tasks/set_aside"), given)
    assert query(
        empty_dsn, f"select status::text, failure_kind from public.agent_tasks where task_id::text = '{task_id}'"
    ) == [("failed", "poison")]
