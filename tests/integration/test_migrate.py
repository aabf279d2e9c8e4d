"""`turbo migrate` against real databases: what it applies, what it waits for, what it refuses, and that it can be cut
short at any point."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from tests.support.migrations import (
    INDEXES,
    OLD_TABLE,
    QUICK,
    Background,
    everything,
    forget,
    open_transaction,
    query,
)
from turbo.migrate import (
    SCHEMA_VERSION,
    MigrationError,
    Patience,
    SchemaFit,
    SchemaStatus,
    migrate,
    plan,
    status,
    worker_verdict,
)
from turbo.migrate.files import read
from turbo.migrate.session import LOCK_KEY

# ── applying ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fresh_database_gets_every_file_with_its_checksum(empty_dsn: str) -> None:
    report = migrate(empty_dsn)
    assert (report.version_before, report.version, report.latest) == (0, SCHEMA_VERSION, SCHEMA_VERSION)
    assert [one.label for one in report.applied] == [file.label for file in read()]
    assert query(empty_dsn, "select version, name, checksum from turbo_migrations order by version") == [
        (file.version, file.name, file.checksum) for file in read()
    ]
    query(empty_dsn, "insert into agent_tasks (task_description) values ('the least insert')")
    assert query(empty_dsn, "select count(*) from pg_index where not indisvalid") == [(0,)]


def test_second_run_finds_nothing_to_do(dsn: str) -> None:
    before = everything(dsn), query(dsn, "select * from turbo_migrations")
    assert migrate(dsn).applied == ()
    assert (everything(dsn), query(dsn, "select * from turbo_migrations")) == before


def test_every_file_can_be_interrupted_and_rerun(dsn: str) -> None:
    """The files are repeatable from their top, which is what resuming rests on."""
    before = everything(dsn)
    for file in reversed(read()):
        forget(dsn, file.version)
        assert [one.version for one in migrate(dsn).applied] == list(range(file.version, SCHEMA_VERSION + 1))
    assert everything(dsn) == before


def test_search_path_of_the_role_changes_nothing(empty_dsn: str) -> None:
    query(
        empty_dsn,
        "create schema elsewhere; create function elsewhere.now() returns timestamptz language sql"
        " as $$ select timestamptz '1970-01-01' $$",
    )
    migrate(psycopg.conninfo.make_conninfo(empty_dsn, options="-c search_path=elsewhere,pg_catalog"))
    assert query(empty_dsn, "select count(*) from pg_class where relnamespace = 'elsewhere'::regnamespace") == [(0,)]
    query(empty_dsn, "insert into public.agent_tasks (task_description) values ('x')")
    assert query(empty_dsn, "select count(*) from public.agent_tasks where run_after < '1971-01-01'") == [(0,)]


def test_statement_timeout_of_the_role_does_not_interrupt(empty_dsn: str) -> None:
    """The first statement, which takes the limit off, must end in time itself."""
    limited = psycopg.conninfo.make_conninfo(empty_dsn, options="-c statement_timeout=15ms")
    with pytest.raises(psycopg.errors.QueryCanceled):
        query(limited, "select pg_sleep(5)")
    assert migrate(limited).applied


# ── the history ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changed_file_is_named_and_nothing_is_applied(dsn: str) -> None:
    forget(dsn, SCHEMA_VERSION)
    query(dsn, "update turbo_migrations set checksum = md5('what it was then') where version = 1")
    with pytest.raises(MigrationError, match=r"migrations/0001_\w+\.sql has changed since it was applied"):
        migrate(dsn)
    assert query(dsn, "select max(version) from turbo_migrations") == [(SCHEMA_VERSION - 1,)]


def test_history_with_a_gap_is_refused(dsn: str) -> None:
    query(dsn, "delete from turbo_migrations where version = 1")
    with pytest.raises(MigrationError, match="rows were deleted from it"):
        migrate(dsn)


def test_database_one_version_ahead_is_left_alone(dsn: str) -> None:
    query(
        dsn,
        "insert into turbo_migrations (version, name, checksum, turbo_version) "
        f"values ({SCHEMA_VERSION + 1}, 'n', 'c', '9')",
    )
    report = migrate(dsn)
    assert (report.applied, report.version) == ((), SCHEMA_VERSION + 1)


def test_database_two_versions_ahead_is_refused(dsn: str) -> None:
    query(
        dsn,
        "insert into turbo_migrations (version, name, checksum, turbo_version) "
        f"select v, 'n', 'c', '9' from generate_series({SCHEMA_VERSION + 1}, {SCHEMA_VERSION + 2}) v",
    )
    with pytest.raises(MigrationError, match="too new for this turbo"):
        migrate(dsn)


async def test_worker_reports_the_schema_it_found(empty_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn, autocommit=True) as connection:
        fit, text = await worker_verdict(connection)
        assert (fit, "no turbo schema yet" in text) == (SchemaFit.BEHIND, True)
        migrate(empty_dsn)
        assert (await worker_verdict(connection))[0] is SchemaFit.OK
        await connection.execute("delete from turbo_migrations where version > 1")
        fit, text = await worker_verdict(connection)
        assert (fit, "run `turbo migrate`" in text) == (SchemaFit.BEHIND, True)


def test_status_reads_an_unmigrated_database(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        assert status(connection) == SchemaStatus(0, SCHEMA_VERSION)
        assert status(connection).behind


# ── two at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_four_at_once_apply_each_file_once(empty_dsn: str) -> None:
    runs = [Background(empty_dsn).start() for _ in range(4)]
    applied = sorted(one.version for run in runs for one in run.result().applied)
    assert applied == list(range(1, SCHEMA_VERSION + 1))


def test_second_migration_waits_and_names_the_first(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, application_name="turbo migrate (first)", autocommit=True) as first:
        first.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        second = Background(empty_dsn).start()
        line = second.heard("waiting for another turbo migrate", f"pid {first.info.backend_pid}")
        assert "turbo migrate (first)" in line
        assert query(empty_dsn, "select to_regclass('turbo_migrations')") == [(None,)]
    assert second.result().version == SCHEMA_VERSION


def test_waiting_migration_holds_no_snapshot(dsn: str) -> None:
    """Waiting in pg_advisory_lock holds one, and CREATE INDEX CONCURRENTLY in the holder then deadlocks with it."""
    query(
        dsn,
        "insert into turbo_migrations select 99, 'x', 'x', now(), 'x'; delete from turbo_migrations where version = 99",
    )
    forget(dsn, SCHEMA_VERSION)
    with psycopg.connect(dsn, autocommit=True) as first:
        first.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        second = Background(dsn).start()
        second.heard("waiting for another turbo migrate")
        first.execute("set lock_timeout = '20s'")
        first.execute("create index concurrently built_meanwhile on agent_tasks (created_at)")
    second.result()


def test_wait_for_another_migration_ends(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as first:
        first.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        with pytest.raises(MigrationError, match=f"still running after 0.3 s: pid {first.info.backend_pid}"):
            Background(empty_dsn, QUICK).start().result()


# ── a table in use ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_blocking_reader_is_named_and_waited_for(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks") as reader:
        run = Background(empty_dsn).start()
        line = run.heard("waiting for a lock", f"pid {reader.info.backend_pid}")
        assert "the reader" in line
        assert "idle in transaction" in line
        assert f"pg_terminate_backend({reader.info.backend_pid})" in line
        assert "select * from" not in line, "the text of somebody's query is somebody's data"
    assert run.result().version == SCHEMA_VERSION


def test_sessions_pass_a_waiting_migration(empty_dsn: str) -> None:
    """A lock request that waits makes everybody queue behind it: it must give way again and again."""
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks"):
        run = Background(empty_dsn).start()
        run.heard("waiting for a lock")
        with psycopg.connect(empty_dsn, autocommit=True) as poller:
            poller.execute("set lock_timeout = '15s'")
            for number in range(5):
                poller.execute("insert into agent_tasks (task_id, status) values (%s, 'assigned')", (str(number),))
    run.result()


def test_migration_gives_up_after_its_attempts_and_resumes(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks") as reader:
        before = query(empty_dsn, "select attname from pg_attribute where attrelid = 'agent_tasks'::regclass")
        with pytest.raises(MigrationError) as failure:
            Background(empty_dsn, replace(QUICK, lock_timeout=0.7)).start().result()
        assert "no lock in 3 attempts of 0.7 s" in str(failure.value)
        assert f"held by pid {reader.info.backend_pid} (the reader" in str(failure.value)
        assert query(empty_dsn, "select attname from pg_attribute where attrelid = 'agent_tasks'::regclass") == before
    assert migrate(empty_dsn).version == SCHEMA_VERSION


# ── indexes, concurrently ────────────────────────────────────────────────────────────────────────────────────────────


def test_invalid_index_is_rebuilt(dsn: str) -> None:
    was = query(dsn, "select 'agent_tasks_claim'::regclass::oid")
    query(dsn, "update pg_index set indisvalid = false where indexrelid = 'agent_tasks_claim'::regclass")
    forget(dsn, INDEXES)
    run = Background(dsn).start()
    run.heard("agent_tasks_claim", "left INVALID")
    run.result()
    assert query(dsn, "select 'agent_tasks_claim'::regclass::oid") != was
    assert query(dsn, "select count(*) from pg_index where not indisvalid") == [(0,)]


@pytest.mark.parametrize(
    ("statement", "isolation"),
    [
        ("insert into agent_tasks (task_description) values ('not committed')", "read committed"),
        ("select * from agent_workers", "repeatable read"),  # a snapshot, of whatever table
    ],
)
def test_index_build_that_would_wait_is_not_begun(dsn: str, statement: str, isolation: str) -> None:
    """It would run into lock_timeout, leave an INVALID index, and have worked for nothing."""
    query(dsn, "drop index agent_tasks_claim")
    forget(dsn, INDEXES)
    with open_transaction(dsn, statement, isolation=isolation) as other:
        other.execute("select pg_sleep(1.1)")  # a transaction younger than a second is expected to end by itself
        run = Background(dsn).start()
        run.heard("waiting for a lock", f"pid {other.info.backend_pid}")
        assert query(dsn, "select to_regclass('agent_tasks_claim')") == [(None,)]
    run.result()
    assert query(dsn, "select indisvalid from pg_index where indexrelid = 'agent_tasks_claim'::regclass") == [(True,)]


def test_reader_without_a_snapshot_delays_no_build(dsn: str) -> None:
    query(dsn, "drop index agent_tasks_claim")
    forget(dsn, INDEXES)
    file = next(file for file in read() if file.version == INDEXES)
    with open_transaction(dsn, "select * from agent_tasks") as reader:
        reader.execute("select pg_sleep(1.1)")
        run = Background(dsn).start()
        run.heard(f"applied {file.label}")
        assert query(dsn, "select indisvalid from pg_index where indexrelid = 'agent_tasks_claim'::regclass") == [
            (True,)
        ]
    run.result()


# ── servers and sessions that will not do ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def as_role(empty_dsn: str) -> Iterator[Callable[[str], str]]:
    """Make a role of this test's own with these rights; the DSN of a session as that role."""
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        name = f"r_{admin.info.dbname}"[:60]
        role = sql.Identifier(name)
        admin.execute(sql.SQL("create role {} login password 'x'").format(role))

        def dsn_as(rights: str) -> str:
            if rights:
                admin.execute(sql.SQL(rights).format(role=role))
            return psycopg.conninfo.make_conninfo(empty_dsn, user=name, password="x")

        yield dsn_as
        admin.execute(sql.SQL("drop owned by {}").format(role))
        admin.execute(sql.SQL("drop role {}").format(role))


def test_missing_right_is_named(empty_dsn: str, as_role: Callable[[str], str]) -> None:
    query(empty_dsn, "revoke create on schema public from public")
    with pytest.raises(MigrationError, match=r"permission denied for schema public\. Run turbo migrate as a role that"):
        migrate(as_role(""))


def test_role_that_does_not_own_the_table_is_refused(empty_dsn: str, as_role: Callable[[str], str]) -> None:
    query(empty_dsn, OLD_TABLE)
    before = query(empty_dsn, "select attname from pg_attribute where attrelid = 'agent_tasks'::regclass")
    with pytest.raises(
        MigrationError, match=r"must be owner of table agent_tasks\. .* that owns agent_tasks.*Nothing has been"
    ):
        migrate(as_role("grant create on schema public to {role}"))
    assert query(empty_dsn, "select to_regclass('turbo_migrations')") == [(None,)]
    assert query(empty_dsn, "select attname from pg_attribute where attrelid = 'agent_tasks'::regclass") == before


def test_ordinary_role_with_the_right_can_migrate(as_role: Callable[[str], str]) -> None:
    assert migrate(as_role("grant create on schema public to {role}")).version == SCHEMA_VERSION


def test_read_only_session_is_one_line(empty_dsn: str) -> None:
    with pytest.raises(MigrationError) as failure:
        migrate(psycopg.conninfo.make_conninfo(empty_dsn, options="-c default_transaction_read_only=on"))
    assert "is read-only for role" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_missing_database_is_one_line(empty_dsn: str) -> None:
    with pytest.raises(MigrationError) as failure:
        migrate(psycopg.conninfo.make_conninfo(empty_dsn, dbname="not_there"))
    assert 'database "not_there" does not exist' in str(failure.value)
    assert "\n" not in str(failure.value)


def test_unreachable_server_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free_port = taken.getsockname()[1]
    with pytest.raises(MigrationError) as failure:
        migrate(f"postgresql://someone:secret@127.0.0.1:{free_port}/x")
    assert f"cannot connect to 127.0.0.1:{free_port}/x" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "secret" not in str(failure.value)


def test_database_in_another_encoding_is_refused(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        name = f"{admin.info.dbname}_latin1"
        database = sql.Identifier(name)
        admin.execute(
            sql.SQL("create database {} template template0 encoding 'LATIN1' locale 'C'").format(database),
        )
        try:
            with pytest.raises(MigrationError, match="is encoded in LATIN1"):
                migrate(psycopg.conninfo.make_conninfo(empty_dsn, dbname=name))
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(database))


def test_lost_connection_suggests_a_rerun(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks"):
        run = Background(empty_dsn, Patience(lock_timeout=30)).start()
        run.heard("waiting for a lock")
        query(
            empty_dsn,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'turbo migrate' and datname = current_database()",
        )
        with pytest.raises(MigrationError, match="Run turbo migrate again: it continues from here"):
            run.result()
    assert migrate(empty_dsn).version == SCHEMA_VERSION


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plan_shows_what_is_missing_and_changes_nothing(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    before = everything(empty_dsn)
    shown = plan(empty_dsn)
    assert (shown.version, shown.latest) == (0, SCHEMA_VERSION)
    assert shown.pending == read()
    assert everything(empty_dsn) == before


def test_plan_waits_for_no_lock(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "lock table agent_tasks in access exclusive mode") as other:
        other.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        assert plan(empty_dsn).pending
