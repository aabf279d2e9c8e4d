"""`turbo migrate --roles`: what it asks for, what it leaves alone, whom it names when it may not."""

import json
import threading

import psycopg
import pytest

from tests.support.database import fresh_database
from tests.support.logins import login, user
from tests.support.migrations import OLD_TABLE, everything, query, turbo_migrate
from turbo.migrate import ROLES, MigrationError, grant_roles, migrate

ACLS = """
select c.relname, c.relacl::text, null from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'S')
union all
select c.relname || '.' || a.attname, a.attacl::text, null from pg_attribute a join pg_class c on c.oid = a.attrelid
 where c.relnamespace = 'public'::regnamespace and a.attacl is not null
 order by 1
"""


def test_roles_are_made_on_request_and_again_harmlessly(empty_dsn: str) -> None:
    assert turbo_migrate("--dsn", empty_dsn).exit_code == 0
    assert not [role for role in ROLES if role in json.dumps(query(empty_dsn, ACLS))]
    first = turbo_migrate("--dsn", empty_dsn, "--roles")
    assert first.exit_code == 0, first.stderr
    assert (
        "turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin have their privileges" in first.stdout
    )
    once = query(empty_dsn, ACLS)
    assert all(role in json.dumps(once) for role in ROLES)
    second = json.loads(turbo_migrate("--dsn", empty_dsn, "--roles", "--json").stdout)
    assert second["roles"]["created"] == []
    assert query(empty_dsn, ACLS) == once


def test_other_grants_are_revoked(dsn: str) -> None:
    grant_roles(dsn)
    right = query(dsn, ACLS)
    query(dsn, "grant truncate on agent_tasks to turbo_submitter")
    query(dsn, "grant update (status), insert (turbo_rev) on agent_tasks to turbo_submitter")
    query(dsn, "grant delete on agent_actions to turbo_admin with grant option")
    query(dsn, "revoke select on agent_tasks from turbo_reader")
    assert query(dsn, ACLS) != right
    grant_roles(dsn)
    assert query(dsn, ACLS) == right


def test_plan_prints_grants_and_changes_nothing(dsn: str) -> None:
    before = query(dsn, ACLS), everything(dsn)
    result = turbo_migrate("--dsn", dsn, "--roles", "--plan")
    assert result.exit_code == 0
    assert (query(dsn, ACLS), everything(dsn)) == before
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(result.stdout.encode())  # what it prints is SQL, and does it
    by_hand = query(dsn, ACLS)
    grant_roles(dsn)
    assert query(dsn, ACLS) == by_hand != before[0]
    assert json.loads(turbo_migrate("--dsn", dsn, "--roles", "--plan", "--json").stdout)["roles"].startswith("--")


def test_roles_and_check_exclude_each_other(dsn: str) -> None:
    result = turbo_migrate("--dsn", dsn, "--roles", "--check")
    assert result.exit_code == 2
    assert "--check covers the schema only" in result.stderr


def test_roles_migrate_first(empty_dsn: str) -> None:
    with pytest.raises(MigrationError, match="run `turbo migrate` first"):
        grant_roles(empty_dsn)
    assert turbo_migrate("--dsn", empty_dsn, "--roles").exit_code == 0


def test_roles_may_call_what_public_may_not(empty_dsn: str) -> None:
    query(empty_dsn, "alter default privileges revoke execute on functions from public")
    assert turbo_migrate("--dsn", empty_dsn).exit_code == 0
    assert turbo_migrate("--dsn", empty_dsn, "--roles").exit_code == 0

    def may(role: str, function: str) -> object:
        return query(empty_dsn, f"select has_function_privilege('{role}', 'public.{function}', 'execute')")[0][0]

    for function in (
        "turbo_take_key(text)",
        "turbo_take_conversation(bigint)",
        "turbo_stopped_status(text, timestamptz)",
        "turbo_database_id()",
    ):
        assert may("turbo_worker", function), function
    assert not may("turbo_submitter", "turbo_take_key(text)"), "the fault bit"


def test_missing_createrole_prints_what_to_run(own_server_dsn: str) -> None:
    """A cluster of its own: the five roles must not be there yet."""
    assert query(own_server_dsn, "select rolname from pg_roles where rolname like 'turbo%'") == []
    with login(own_server_dsn) as owner:
        tables = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        for (table,) in query(own_server_dsn, tables):
            query(own_server_dsn, f"alter table {table} owner to {user(owner)}")
        for sequence in ("turbo_fence_seq", "turbo_wait_seq", "turbo_quiet_seq", "turbo_unsent_seq"):
            query(own_server_dsn, f"alter sequence {sequence} owner to {user(owner)}")
        functions = "select oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace"
        for (function,) in query(own_server_dsn, functions):
            query(own_server_dsn, f"alter function {function} owner to {user(owner)}")
        refused = turbo_migrate("--dsn", owner, "--roles")
        assert refused.exit_code == 1
        create = " ".join(f"CREATE ROLE {role} NOLOGIN;" for role in ROLES)
        assert (
            f"{user(owner)} cannot create roles. Have a role with CREATEROLE run this once: {create}" in refused.stderr
        )
        assert len(refused.stderr.splitlines()) == 1
        query(own_server_dsn, create)
        granted = turbo_migrate("--dsn", owner, "--roles")  # the owner of the tables needs nothing else
        assert granted.exit_code == 0, granted.stderr
        assert "created" not in granted.stdout
        query(own_server_dsn, f"alter role {user(owner)} createrole")
        query(own_server_dsn, f"drop owned by {', '.join(ROLES)}; drop role {', '.join(ROLES)}")
        again = turbo_migrate("--dsn", owner, "--roles")
        assert again.exit_code == 0, again.stderr
        assert f"({', '.join(ROLES)} created)" in again.stdout


def test_error_names_the_owner_of_the_tables(dsn: str) -> None:
    grant_roles(dsn)
    before = query(dsn, ACLS)
    with login(dsn, "turbo_reader") as stranger, login(dsn, "turbo_reader") as owner:
        query(dsn, f"alter table agent_tasks owner to {user(owner)}")
        owned = query(dsn, ACLS)
        result = turbo_migrate("--dsn", stranger, "--roles")
        assert result.exit_code == 1
        assert f"{user(stranger)} cannot grant on all of turbo's tables" in result.stderr
        assert f"agent_tasks belongs to {user(owner)}" in result.stderr
        assert "turbo migrate --roles --plan" in result.stderr
        assert query(dsn, ACLS) == owned
        # the owner of one table only, with rights but no grant option on the others: a warning of PostgreSQL's is an error here
        result = turbo_migrate("--dsn", owner, "--roles")
        assert result.exit_code == 1
        assert "agent_workers belongs to" in result.stderr
        assert query(dsn, ACLS) == owned
        grant_roles(dsn)  # a superuser may, whoever the owner is
        query(dsn, "alter table agent_tasks owner to current_user")
    assert query(dsn, ACLS) == before


def test_adopted_table_keeps_its_columns_and_sequences_usable(empty_dsn: str) -> None:
    """Somebody else's table: a key from a sequence, a column of their own, an owner who is no superuser."""
    with login(empty_dsn) as legacy:
        query(
            empty_dsn, OLD_TABLE.replace("task_id text primary key", "task_id serial primary key, team text not null")
        )
        query(
            empty_dsn,
            "create table agent_actions (id serial primary key, task_id int, action_type text not null,"
            " success boolean, executed_at timestamp default now(), execution_time_ms int)",
        )
        for table in ("agent_tasks", "agent_actions"):
            query(empty_dsn, f"alter table {table} owner to {user(legacy)}")
        query(empty_dsn, "insert into agent_tasks (team, task_description, status) values ('old', 'x', 'completed')")
        migrate(empty_dsn)
        grant_roles(empty_dsn)
        with login(empty_dsn, "turbo_submitter") as website, psycopg.connect(website, autocommit=True) as db:
            row = db.execute(
                "insert into agent_tasks (team, task_description) values ('ours', 'x') returning task_id"
            ).fetchone()
            assert row == (2,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(
                    "insert into agent_tasks (team, task_description, assigned_worker_id) values ('o', 'x', 'me')"
                )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute("update agent_tasks set team = 'stolen'")
        with login(empty_dsn, "turbo_admin") as operator, psycopg.connect(operator, autocommit=True) as db:
            assert db.execute("update agent_tasks set team = 'new' where task_id = 2").rowcount == 1
        with login(empty_dsn, "turbo_worker") as fleet, psycopg.connect(fleet, autocommit=True) as db:
            db.execute("insert into agent_actions (task_id, action_type) values (2, 'claimed')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute("select team from agent_tasks")
    assert query(empty_dsn, "select task_id, team, status from agent_tasks order by 1") == [
        (1, "old", "completed"),
        (2, "new", "pending"),
    ]


def test_schema_closed_to_public_is_opened_to_the_roles(dsn: str) -> None:
    query(dsn, "revoke all on schema public from public")
    grant_roles(dsn)
    with login(dsn, "turbo_submitter") as website:
        query(website, "insert into agent_tasks (task_description) values ('x')")


def test_several_databases_of_one_cluster_at_once_succeed() -> None:
    errors: list[BaseException] = []
    with fresh_database() as one, fresh_database() as two, fresh_database() as three:
        for dsn in (one, two, three):
            migrate(dsn)

        def again(dsn: str) -> None:
            try:
                for _ in range(5):
                    grant_roles(dsn)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=again, args=(dsn,)) for dsn in (one, two, three, one)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert query(one, ACLS) == query(two, ACLS) == query(three, ACLS)


def test_notes_list_other_grants_and_row_security(dsn: str) -> None:
    assert grant_roles(dsn).notes == ()
    query(dsn, "grant select on agent_tasks to public")
    query(dsn, "grant update (error_message) on agent_tasks to public")
    query(dsn, "alter table agent_actions enable row level security")
    query(dsn, "grant create on schema public to public")
    notes = "\n".join(grant_roles(dsn).notes)
    assert "PUBLIC may SELECT, UPDATE on public.agent_tasks" in notes
    assert "row level security is on for public.agent_actions" in notes
    assert "PUBLIC may CREATE in schema public" in notes


def test_migration_adds_what_workers_newly_read(dsn: str) -> None:
    """Where the roles have their privileges already: nobody is to run --roles again after an upgrade."""
    has = "select has_column_privilege('turbo_worker', 'agent_tasks', 'created_at', 'select')"
    grant_roles(dsn)
    query(dsn, "revoke select (created_at) on agent_tasks from turbo_worker")
    query(
        dsn,
        "delete from turbo_migrations where version >= (select version from turbo_migrations where name = 'judges')",
    )
    assert query(dsn, has) == [(False,)]
    migrate(dsn)
    assert query(dsn, has) == [(True,)]
    query(dsn, "revoke all on agent_tasks from turbo_worker")
    query(
        dsn,
        "delete from turbo_migrations where version >= (select version from turbo_migrations where name = 'judges')",
    )
    migrate(dsn)
    assert query(dsn, has) == [(False,)], "another database's roles get nothing here"
