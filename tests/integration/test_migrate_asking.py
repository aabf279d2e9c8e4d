"""The migration that brings questions, on tables that are turbo's already: adopted before it, in use, or with a column of its name."""

import json
from collections.abc import Callable

import psycopg
import pytest

from tests.support import database
from tests.support.logins import login
from tests.support.migrations import OLD_TABLE, Background, open_transaction, query, turbo_migrate
from tests.support.odd_tables import ENUM, PREDECESSOR, UUIDS, OddTable
from turbo.domain.states import TaskState
from turbo.migrate import SCHEMA_VERSION, MigrationError, Patience, grant_roles, migrate, plan
from turbo.migrate.adoption import contract, upgrade
from turbo.migrate.files import read

BEFORE = upgrade.BEFORE - 1


@pytest.fixture
def to_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Migrates a database as the turbo right before this migration did."""

    def run(dsn: str) -> None:
        old = [state for state in TaskState if state not in upgrade.NEW]
        with monkeypatch.context() as patch:
            patch.setattr("turbo.migrate.runner.read", lambda: read()[:BEFORE])
            for module in ("adopt", "survey", "judge_columns"):
                patch.setattr(f"turbo.migrate.adoption.{module}.TaskState", old)
            patch.setattr(contract, "ROWS", tuple(row for row in contract.ROWS if row[0] in old))
            migrate(dsn)

    return run


def make(dsn: str, table: OddTable) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        table.make(connection, 200)


def check(dsn: str, name: str) -> tuple[str, bool]:
    ((expression, valid),) = query(
        dsn, f"select pg_get_constraintdef(oid), convalidated from pg_constraint where conname = '{name}'"
    )
    return str(expression), bool(valid)


def hold_and_release(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        (task,) = db.execute(
            "insert into agent_tasks (task_description, task_type, task_priority, status) values ('x', 'x', 1, 'waiting')"
            " returning task_id::text"
        ).fetchone()  # type: ignore[misc]
        db.execute("update agent_tasks set answer = 'yes' where task_id::text = %s", [task])
        assert db.execute("select status::text from agent_tasks where task_id::text = %s", [task]).fetchone() == (
            "pending",
        )


@pytest.mark.parametrize("table", [PREDECESSOR, UUIDS, ENUM], ids=lambda table: table.name)
def test_table_adopted_before_takes_the_new_states(empty_dsn: str, to_before, table: OddTable) -> None:
    make(empty_dsn, table)
    to_before(empty_dsn)
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidTextRepresentation)):
        query(
            empty_dsn,
            "insert into agent_tasks (task_description, task_type, task_priority, status) values ('x', 'x', 1, 'waiting')",
        )
    planned = [s.sql for s in plan(empty_dsn).statements]
    report = migrate(empty_dsn)
    assert (report.version, len(report.applied)) == (SCHEMA_VERSION, SCHEMA_VERSION - BEFORE)
    if table is ENUM:
        assert any("add value if not exists 'waiting'" in text for text in planned)
    else:
        name = "known_status" if table is PREDECESSOR else "waiting_is_nobodys"
        expression, valid = check(empty_dsn, name)
        assert valid
        if table is PREDECESSOR:
            assert all(f"'{state}'" in expression for state in ("waiting", "blocked", "assigned", "scheduled"))
            assert any("drop constraint" in text and "not valid" in text for text in planned)
            assert any("validate constraint" in text for text in planned)
    hold_and_release(empty_dsn)
    assert query(empty_dsn, "select count(*) from turbo_meta where key like 'unvalidated %'") == [(0,)]
    assert plan(empty_dsn).statements == ()


def test_cut_between_the_steps_goes_on(empty_dsn: str, to_before) -> None:
    """The CHECK is replaced and not validated when the migration dies: the next run validates it."""
    make(empty_dsn, PREDECESSOR)
    to_before(empty_dsn)
    replaced = next(s for s in plan(empty_dsn).statements if "drop constraint" in s.sql)
    query(empty_dsn, replaced.sql)
    assert check(empty_dsn, "known_status")[1] is False
    migrate(empty_dsn)
    assert check(empty_dsn, "known_status")[1] is True
    hold_and_release(empty_dsn)


def test_check_of_an_operator_keeps_its_other_rules(empty_dsn: str, to_before) -> None:
    """One made since, on a table of turbo's own: only the new states are let through."""
    to_before(empty_dsn)
    five = "'pending', 'scheduled', 'running', 'completed', 'failed'"
    query(empty_dsn, f"alter table agent_tasks add constraint ours check (status in ({five}))")
    migrate(empty_dsn)
    hold_and_release(empty_dsn)
    with pytest.raises(psycopg.errors.CheckViolation):
        query(empty_dsn, "update agent_tasks set status = 'cancelled'")


def test_widening_waits_for_a_reader_without_blocking(empty_dsn: str, to_before) -> None:
    make(empty_dsn, PREDECESSOR)
    to_before(empty_dsn)
    with open_transaction(empty_dsn, "select count(*) from agent_tasks") as reader:
        run = Background(empty_dsn, Patience(lock_timeout=0.2, attempts=1000, wait=60)).start()
        run.heard("waiting for a lock", f"pid {reader.info.backend_pid}")
        query(empty_dsn, "set lock_timeout = '5s'; select count(*) from agent_tasks")
    assert run.result().version == SCHEMA_VERSION


TAKEN = {
    "question": "alter table agent_tasks add column question text",
    "answer": "alter table agent_tasks add column answer text",
    "prefer_host": "alter table agent_tasks add column prefer_host boolean default true",
}


@pytest.mark.parametrize("name", TAKEN)
def test_column_of_another_meaning_is_named_and_kept(empty_dsn: str, to_before, name: str) -> None:
    to_before(empty_dsn)
    query(empty_dsn, TAKEN[name])
    before = query(empty_dsn, "select attname::text from pg_attribute where attrelid = 'agent_tasks'::regclass")
    done = turbo_migrate("--dsn", empty_dsn, "--check")
    assert (done.exit_code, f"agent_tasks.{name} exists already" in done.stdout) == (1, True)
    assert f"RENAME COLUMN {name} TO old_{name}" in done.stdout
    refused = json.loads(turbo_migrate("--dsn", empty_dsn, "--check", "--json").stdout)["refused"]
    assert [name in reason["what"] for reason in refused] == [True]
    assert turbo_migrate("--dsn", empty_dsn, "--plan").exit_code == 1
    with pytest.raises(MigrationError, match=f"{name} exists already and has another meaning"):
        migrate(empty_dsn)
    assert query(empty_dsn, "select attname::text from pg_attribute where attrelid = 'agent_tasks'::regclass") == before
    assert query(empty_dsn, "select max(version) from turbo_migrations") == [(BEFORE,)]
    query(empty_dsn, f"alter table agent_tasks rename column {name} to old_{name}")
    migrate(empty_dsn)
    hold_and_release(empty_dsn)


def test_last_guard_is_in_the_file_itself(empty_dsn: str, to_before, monkeypatch: pytest.MonkeyPatch) -> None:
    to_before(empty_dsn)
    query(empty_dsn, TAKEN["answer"])
    monkeypatch.setattr(upgrade, "judge", lambda _survey: [])
    with pytest.raises(MigrationError, match="columns that turbo needs for itself: answer"):
        migrate(empty_dsn)


def test_enum_of_another_owner_is_one_clear_error(empty_dsn: str, to_before) -> None:
    make(empty_dsn, ENUM)
    to_before(empty_dsn)
    with login(empty_dsn) as member:
        name = psycopg.conninfo.conninfo_to_dict(member)["user"]
        tables = query(
            empty_dsn,
            "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'",
        )
        query(
            empty_dsn,
            f"grant create, usage on schema public to {name}; grant all on all tables in schema public to {name}",
        )
        for (table,) in tables:
            query(empty_dsn, f"alter table public.{table} owner to {name}")
        functions = query(
            empty_dsn, "select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace"
        )
        for (function,) in functions:
            query(empty_dsn, f"alter function {function} owner to {name}")
        try:
            with pytest.raises(
                MigrationError, match=r"the enum app\.task_state lacks blocked, waiting, and .* does not own it"
            ) as refused:
                migrate(member)
            assert "ALTER TYPE app.task_state ADD VALUE 'waiting'" in str(refused.value)
            assert query(empty_dsn, "select count(*) from pg_attribute where attname = 'prefer_host'") == [(0,)]
        finally:
            query(empty_dsn, f"reassign owned by {name} to current_user; drop owned by {name}")


def test_domain_that_refuses_is_one_clear_error(empty_dsn: str, to_before) -> None:
    query(empty_dsn, "create domain public.state as text check (value <> 'never')")
    make(empty_dsn, UUIDS)
    query(empty_dsn, "alter table agent_tasks alter column status drop default, alter column status type public.state")
    to_before(empty_dsn)
    query(empty_dsn, "alter domain public.state add constraint known check (value not in ('waiting', 'blocked'))")
    with pytest.raises(MigrationError, match=r"domain public\.state, which refuses blocked, waiting"):
        migrate(empty_dsn)


def test_trail_that_refuses_answers_is_one_clear_error(empty_dsn: str, to_before) -> None:
    to_before(empty_dsn)
    query(empty_dsn, "alter table agent_actions add constraint known check (action_type not in ('asked', 'answered'))")
    with pytest.raises(
        MigrationError, match=r"agent_actions\.known refuses turbo's audit trail rows \(asked, answered\)"
    ):
        migrate(empty_dsn)


def test_workers_and_admins_need_no_new_grants_by_hand(empty_dsn: str, to_before) -> None:
    """Where they had their roles before: nobody is to run --roles again for the statements that they ran before."""
    rights = (
        "select r, c, array(select p from unnest(array['select', 'update', 'insert']) p"
        " where has_column_privilege(r, 'agent_tasks', c, p)) from unnest(array['turbo_worker', 'turbo_admin', 'turbo_submitter']) r"
        " cross join unnest(array['question', 'answer', 'prefer_host']) c order by 1, 2"
    )
    to_before(empty_dsn)
    with database.migrated_database() as other:
        grant_roles(other)  # makes the roles of the cluster
    query(empty_dsn, "grant select (status), update (status, fencing_token) on agent_tasks to turbo_worker;"
                     " grant select on agent_tasks to turbo_admin, turbo_submitter;"
                     " grant update (status, agent_session_id) on agent_tasks to turbo_admin")  # fmt: skip
    migrate(empty_dsn)
    both, read, write = ["select", "update"], ["select"], ["select", "update"]
    assert query(empty_dsn, rights) == [
        ("turbo_admin", "answer", write),
        ("turbo_admin", "prefer_host", write),
        ("turbo_admin", "question", read),
        ("turbo_submitter", "answer", read),
        ("turbo_submitter", "prefer_host", read),
        ("turbo_submitter", "question", read),
        ("turbo_worker", "answer", both),
        ("turbo_worker", "prefer_host", both),
        ("turbo_worker", "question", both),
    ]


def test_program_of_the_deployment_keeps_its_blocked_rows(empty_dsn: str) -> None:
    """On an adopted table, in rows that turbo never claimed: `blocked` may be its own word, and passes untouched."""
    query(empty_dsn, OLD_TABLE)
    query(
        empty_dsn,
        "insert into agent_tasks (task_id, task_description, status) values ('old', 'x', 'blocked'), ('ask', 'x', 'waiting')",
    )
    migrate(empty_dsn)
    query(empty_dsn, "insert into agent_tasks (task_id, task_description, status) values ('new', 'x', 'blocked')")
    for status in ("running", "blocked", "pending", "blocked", "completed"):
        query(empty_dsn, f"update agent_tasks set status = '{status}' where task_id in ('old', 'new')")
        assert query(empty_dsn, "select distinct status from agent_tasks where task_id in ('old', 'new')") == [
            (status,)
        ]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="it was asked nothing"):
        query(empty_dsn, "update agent_tasks set answer = 'yes' where task_id = 'ask'")
    query(empty_dsn, "update agent_tasks set status = 'pending' where task_id = 'ask'")
    assert query(empty_dsn, "select status, question, run_after <= now() from agent_tasks where task_id = 'ask'") == [
        ("pending", None, True)
    ]


def test_plan_tells_of_rows_that_wait_already(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    query(empty_dsn, "insert into agent_tasks (task_id, task_description, status) values ('ask', 'x', 'waiting')")
    assert "1 rows are 'waiting' already" in turbo_migrate("--dsn", empty_dsn, "--plan").stdout
