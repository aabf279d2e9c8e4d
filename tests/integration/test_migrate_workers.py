"""Workers' roles of a database that had them at version 12: the migrations give them what the new worker needs, without --roles."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.support import budgets, schedules
from tests.support.database import migrated_database
from tests.support.logins import login
from tests.support.schedules import scheduling, utc
from tests.support.steps import claim_one, ended, registered
from turbo.domain.states import Verdict
from turbo.domain.usage import UsageRow
from turbo.migrate import grant_roles, migrate
from turbo.migrate.files import read
from turbo.sql import statement

GRANT = Path(__file__).parents[1] / "support" / "schema_12" / "grant.sql"
"""What `turbo migrate --roles` did at version 12."""

RIGHTS = """
select c.relname || '.' || a.attname, p from pg_class c
  join pg_attribute a on a.attrelid = c.oid and (a.attnum > 0 or a.attname = 'ctid')
 cross join unnest(array['SELECT', 'INSERT', 'UPDATE']) p
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and has_column_privilege(%(role)s, c.oid, a.attnum, p)
union all
select c.relname, p from pg_class c cross join unnest(array['DELETE', 'TRUNCATE']) p
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and has_table_privilege(%(role)s, c.oid, p)
union all
select s.sequencename, 'USAGE' from pg_sequences s
 where s.schemaname = 'public' and has_sequence_privilege(%(role)s, format('public.%%I', s.sequencename), 'USAGE')
union all
select f.oid::regprocedure::text, 'EXECUTE' from pg_proc f
 where f.pronamespace = 'public'::regnamespace and has_function_privilege(%(role)s, f.oid, 'EXECUTE')
"""
BY_HAND = """
grant select, insert, update, delete on all tables in schema public to {role};
grant usage on all sequences in schema public to {role};
"""
OPTIONAL = {
    *(
        (table, "DELETE")
        for table in ("agent_tasks", "agent_actions", "agent_usage", "agent_events", "agent_transcripts")
    ),
    *((table, "SELECT") for table in ("agent_usage", "agent_events")),
}
"""A worker without them works: they are retention's."""


def rights(dsn: str, role: str) -> set[tuple[str, str]]:
    with psycopg.connect(dsn) as db:
        return set(db.execute(RIGHTS, {"role": role}).fetchall())


@contextlib.contextmanager
def upgraded(dsn: str, monkeypatch: pytest.MonkeyPatch, before: str = "select") -> Iterator[tuple[str, str]]:
    """A database that had its roles at version 12, and has every later migration. `before`: SQL to run at version 12.

    DSNs of two workers: a member of turbo_worker, and a login with grants of its own."""
    with migrated_database() as other:
        grant_roles(other)  # makes the roles of the cluster
    with monkeypatch.context() as patch:
        patch.setattr("turbo.migrate.runner.read", lambda: read()[:12])
        migrate(dsn)
    with login(dsn, "turbo_worker") as member, login(dsn) as by_hand:
        name = str(conninfo.conninfo_to_dict(by_hand)["user"])
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(GRANT.read_bytes())
            db.execute(sql.SQL(BY_HAND).format(role=sql.Identifier(name)))
            db.execute(before.encode())
        migrate(dsn)
        yield member, by_hand


def test_upgrade_gives_workers_all_that_roles_would(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with upgraded(empty_dsn, monkeypatch) as dsns:
        names = "turbo_worker", str(conninfo.conninfo_to_dict(dsns[1])["user"])
        had = {name: rights(empty_dsn, name) for name in names}
        grant_roles(empty_dsn)
        needed = rights(empty_dsn, "turbo_worker")
    assert ("agent_usage.task_id", "INSERT") in needed
    lacks = {(name, *right) for name, may in had.items() for right in needed - may}
    assert not lacks, sorted(lacks)
    assert had["turbo_worker"] == needed, f"more than --roles gives: {sorted(had['turbo_worker'] - needed)}"


def test_upgrade_gives_no_worker_new_deletes(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an operator has taken DELETE away from workers, because retention is not theirs."""
    with upgraded(empty_dsn, monkeypatch, "revoke delete on agent_tasks, agent_actions from turbo_worker"):
        had = rights(empty_dsn, "turbo_worker")
    assert not had & {(table, "DELETE") for table in ("agent_tasks", "agent_usage", "agent_events")}
    assert ("agent_usage.task_id", "INSERT") in had


async def test_upgraded_workers_do_all_that_is_new(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with upgraded(empty_dsn, monkeypatch) as dsns, psycopg.connect(empty_dsn, autocommit=True) as db:
        for number, dsn in enumerate(dsns):
            name, begin = f"n{number}", utc(2026, 1, 1)
            budgets.add(db, name, usd=5, period="total", account=name)
            schedules.add(db, name)
            schedules.begin(db, begin, name)
            async with scheduling(dsn) as hand:
                await hand.at(begin)
                assert await hand.at(begin + timedelta(hours=4)) == 1
            async with registered(dsn) as stores:
                held = await claim_one(stores)
                usage = (UsageRow(held.task_id, held.token, "x", name, "m", 1, "default", "default", 10, cost_usd=0.5),)
                assert [a.verdict for a in await stores.results.finish([ended(held, usage=usage)])] == [
                    Verdict.RECORDED
                ]
            async with budgets.keeping(dsn) as keeper:
                await keeper.once()
            assert budgets.spent(db, name) == (0.5, 10, 1), name


def lacks(db: psycopg.Connection, revoke: str) -> list[str]:
    """What doctor says a member of turbo_worker lacks, after `revoke`; which is taken back."""
    with db.transaction(force_rollback=True):
        db.execute(revoke.encode())
        db.execute("set local role turbo_worker")
        return [lack for (lack,) in db.execute(statement("doctor/privileges").encode())]


def test_doctor_names_each_right_a_worker_lacks(dsn: str) -> None:
    grant_roles(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        assert lacks(db, "select") == []
        functions = [
            name
            for (name,) in db.execute(
                "select f.oid::regprocedure::text from pg_proc f cross join lateral aclexplode(f.proacl) a"
                " where f.pronamespace = 'public'::regnamespace and a.grantee = 'turbo_worker'::regrole"
            )
        ]
        assert len(functions) >= 25
        for function in functions:
            (lack,) = lacks(db, f"revoke execute on function public.{function} from turbo_worker")
            assert lack.startswith(f"{function.partition('(')[0]}("), function
        tables = db.execute(
            "select distinct c.relname, a.privilege_type from pg_class c join pg_attribute t on t.attrelid = c.oid"
            " cross join lateral aclexplode(coalesce(c.relacl, '{}') || coalesce(t.attacl, '{}')) a"
            " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.grantee = 'turbo_worker'::regrole"
        ).fetchall()
        told = {right: lacks(db, f"revoke {right[1]} on public.{right[0]} from turbo_worker") for right in tables}
    silent = {right for right, found in told.items() if found != [f"{right[0]}: {right[1].lower()}"]}
    assert silent == OPTIONAL
