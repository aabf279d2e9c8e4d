"""Objects of turbo's names that somebody else made before: `turbo migrate` does not use them, and doctor reports them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.database import fresh_database
from tests.support.logins import login, user
from tests.support.migrations import OLD_TABLE, query
from tests.support.shell import Shell
from tests.support.workers import Bench
from turbo import db
from turbo.migrate import MigrationError, history, migrate, plan

SQUATS = {
    "history": "create table turbo_migrations (version int primary key, name text, checksum text)",
    "table": "create table turbo_meta (key text primary key, value jsonb)",
    "tasks": OLD_TABLE,
    "view": "create view agent_workers as select 1 as worker_id",
    "sequence": "create sequence turbo_fence_seq",
    "function": "create function turbo_judge_insert() returns trigger language plpgsql security definer as 'begin return new; end'",
    "overload": "create function turbo_stopped_status(varchar, timestamptz) returns text language sql as 'select ''completed'''",
    "index": "create table mine (a int); create index agent_tasks_claim on mine (a)",
    "type": "create domain turbo_status as text",
}


@pytest.fixture
def open_dsn() -> Iterator[str]:
    """A database where PUBLIC may create in public, the default before PostgreSQL 15."""
    with fresh_database() as dsn:
        query(dsn, "grant create on schema public to public")
        yield dsn


def objects(dsn: str) -> list[tuple[object, ...]]:
    return query(dsn, "select relname::text from pg_class where relnamespace = 'public'::regnamespace order by 1")


def test_objects_of_a_stranger_stop_the_migration(open_dsn: str) -> None:
    with login(open_dsn) as mallory:
        for name, squat in SQUATS.items():
            query(mallory, squat)
            before = objects(open_dsn)
            with pytest.raises(MigrationError, match=f"belongs to {user(mallory)}.*[Nn]othing has been changed"):
                migrate(open_dsn)
            assert plan(open_dsn).refused, name
            assert objects(open_dsn) == before, name
            query(open_dsn, f"drop owned by {user(mallory)}")
        migrate(open_dsn)


def test_every_command_names_the_strangers_object_once(open_dsn: str, tmp_path: Path) -> None:
    shell = Shell(open_dsn, tmp_path)
    with login(open_dsn) as mallory:
        query(
            mallory,
            "create sequence turbo_fence_seq; create table turbo_meta (key text); create domain turbo_status as text",
        )
        names = ["sequence public.turbo_fence_seq", "table public.turbo_meta", "type public.turbo_status"]
        for command in (["migrate"], ["migrate", "--check"], ["migrate", "--plan"]):
            done = shell(*command)
            shown = done.out + done.err
            assert done.code == 1
            assert [shown.count(name) for name in names] == [1, 1, 1], (command, shown)
            assert shown.count("GRANT") == 1, (command, shown)
            assert "no turbo schema yet" not in shown
        document = shell("migrate", "--check", "--json").json
        assert (document["behind"], len(document["refused"])) == (True, 3)
        assert "turbo migrate is refused: the sequence public.turbo_fence_seq" in shell("doctor").out
    assert "no turbo schema yet" in shell("migrate", "--check").out


def test_view_in_place_of_the_history_is_not_read(open_dsn: str) -> None:
    with login(open_dsn) as mallory:
        query(mallory, "create sequence read_by")
        query(mallory, "create function spy() returns int language sql as 'select nextval(''public.read_by'')::int'")
        query(mallory, "create view turbo_migrations as select spy() as version, 'x' as name, 'x' as checksum")
        with pytest.raises(MigrationError, match=r"view public\.turbo_migrations belongs to"):
            migrate(open_dsn)
        assert plan(open_dsn).refused
        with db.open_client(open_dsn, "x") as connection:
            assert history.status(connection).version == 0
        assert query(open_dsn, "select is_called from read_by") == [(False,)]


def test_stranger_who_is_trusted_by_a_grant_is_accepted(open_dsn: str) -> None:
    with login(open_dsn) as operator:
        query(operator, OLD_TABLE)
        with pytest.raises(MigrationError) as refused:
            migrate(open_dsn)
        grant = f'GRANT "{user(operator)}" TO "postgres";'
        assert grant in str(refused.value)
        query(open_dsn, grant)
        migrate(open_dsn)
        migrate(open_dsn)


def test_later_migration_judges_owners_too(open_dsn: str) -> None:
    migrate(open_dsn)
    query(open_dsn, "delete from turbo_migrations where version > 6")
    with login(open_dsn) as mallory:
        query(open_dsn, f"alter function turbo_wake(text) owner to {user(mallory)}")
        with pytest.raises(MigrationError, match=rf"function public.turbo_wake\(text\) belongs to {user(mallory)}"):
            migrate(open_dsn)
        query(open_dsn, "alter function turbo_wake(text) owner to postgres")
    migrate(open_dsn)


def test_trigger_of_a_strangers_function_is_refused(open_dsn: str, tmp_path) -> None:
    with login(open_dsn) as mallory:
        migrate(open_dsn)
        query(open_dsn, f"grant trigger on agent_tasks to {user(mallory)}")
        query(mallory, "create function spy() returns trigger language plpgsql as 'begin return null; end'")
        query(mallory, "create trigger spy after update on agent_tasks for each row execute function spy()")
        query(open_dsn, "delete from turbo_migrations where version > 6")
        with pytest.raises(
            MigrationError, match=rf"calls the function public\.spy\(\), which belongs to {user(mallory)}"
        ):
            migrate(open_dsn)
        query(open_dsn, "drop trigger spy on agent_tasks")
        migrate(open_dsn)
        query(mallory, "create trigger spy after update on agent_tasks for each row execute function spy()")
        examined = Shell(open_dsn, tmp_path)("doctor")
        assert user(mallory) in examined.out


def test_triggers_behind_a_foreign_key_and_domains_are_judged(open_dsn: str) -> None:
    with login(open_dsn) as mallory:
        migrate(open_dsn)
        query(open_dsn, f"grant references on agent_tasks to {user(mallory)}")
        query(mallory, "create table notes (task_id text references agent_tasks on delete cascade)")
        query(mallory, "create function spy() returns trigger language plpgsql as 'begin return null; end'")
        query(mallory, "create trigger spy after delete on notes for each row execute function spy()")
        (refused,) = plan(open_dsn).findings
        assert "trigger spy on table public.notes calls" in refused.what
        query(mallory, "drop table notes")
        query(mallory, "create domain label as text")
        query(open_dsn, "alter table agent_tasks add column label label")
        (refused,) = plan(open_dsn).findings
        assert f"the type public.label belongs to {user(mallory)}" in refused.what
        query(open_dsn, "alter table agent_tasks drop column label")


@pytest.mark.parametrize(
    "made",
    [
        "create domain outer_type as {}.label",
        "create domain outer_type as {}.label[]",
        "create type outer_type as (one int, two {}.label)",
        "create type span as range (subtype = {}.label); create domain outer_type as span",
        "create type span as range (subtype = {}.label); create domain outer_type as span_multirange",
    ],
)
def test_type_beneath_the_type_of_a_column_is_judged(dsn: str, made: str) -> None:
    """Its owner may give it a CHECK at any time, which runs with the rights of whoever writes the column."""
    with login(dsn) as mallory:
        own = user(mallory)
        query(dsn, f"create schema {own} authorization {own}; grant usage on schema {own} to public")
        query(mallory, f"create domain {own}.label as text")
        query(dsn, made.format(own))
        query(dsn, "alter table agent_tasks add column label outer_type")
        (refused,) = plan(dsn).findings
        assert f"the type {own}.label belongs to {own}" in refused.what
        query(mallory, f"create function {own}.spy(text) returns boolean language plpgsql as 'begin return true; end'")
        query(mallory, f"alter domain {own}.label add constraint c check ({own}.spy(value::text)) not valid")
        assert any(f"calls the function {own}.spy(text)" in finding.what for finding in plan(dsn).findings)
        query(dsn, "alter table agent_tasks drop column label")
        assert not plan(dsn).findings


NOTE = """
create table noted (task_id text);
create function note() returns trigger language plpgsql as 'begin insert into noted values (new.task_id); return null; end';
create trigger note after update of status on agent_tasks for each row execute function note();
"""


def test_owners_trigger_finds_its_table_where_public_is_closed(dsn: str, bench: Bench) -> None:
    query(dsn, NOTE)
    bench.start().listening()
    bench.insert("a", task_type="noop")
    bench.wait("a")
    assert ("a",) in query(dsn, "select task_id from noted")


def test_owners_trigger_is_refused_where_public_is_open(open_dsn: str) -> None:
    migrate(open_dsn)
    query(open_dsn, NOTE)
    query(open_dsn, "delete from turbo_migrations where version > 6")
    with pytest.raises(MigrationError) as refused:
        migrate(open_dsn)
    assert "PUBLIC may create in it" in str(refused.value)
    assert "SET search_path = pg_catalog, pg_temp" in str(refused.value)
    query(open_dsn, "alter function note() set search_path = public, pg_temp")
    migrate(open_dsn)


def test_migration_warns_where_public_is_open(open_dsn: str, tmp_path) -> None:
    lines: list[str] = []
    migrate(open_dsn, report=lines.append)
    (warning,) = lines
    assert "PUBLIC may create in schema public" in warning
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC;" in warning
    assert "REVOKE CREATE" in Shell(open_dsn, tmp_path)("doctor").out
    query(open_dsn, "revoke create on schema public from public")
    migrate(open_dsn, report=lines.append)
    assert len(lines) == 1


def test_ambiguous_overload_is_named_and_stops_no_insert(dsn: str, bench: Bench, shell: Shell) -> None:
    query(dsn, "grant create on schema public to public")
    with login(dsn) as mallory:
        bench.start().listening()
        for overload in ("turbo_may_notify(int default 0)", "turbo_bound_moment(timestamptz, int default 0)"):
            query(mallory, f"create function public.{overload} returns boolean language sql as 'select true'")
        bench.insert("a", task_type="noop")
        bench.wait("a")
        query(dsn, "update agent_workers set heartbeat_at = heartbeat_at")
        query(
            mallory,
            "create function public.turbo_database_id(int default 0) returns text language sql as 'select null'",
        )
        bench.start().said(
            "`turbo doctor` names it and its owner. Drop it, and REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        )
        assert "turbo_database_id(integer) belongs to" in shell("doctor").out


def test_doctor_names_an_object_of_a_stranger(dsn: str, tmp_path) -> None:
    shell = Shell(dsn, tmp_path)
    assert "owned by" in shell("doctor").out
    with login(dsn) as mallory:
        query(dsn, f"alter table agent_leader owner to {user(mallory)}")
        assert f"agent_leader belongs to {user(mallory)}" in shell("doctor").out
        query(dsn, "alter table agent_leader owner to postgres")
