"""The connection of a migration: opened with turbo's settings, checked, and held exclusively.

    open ──▶ judged (primary? writable? version, encoding) ──▶ exclusive (advisory lock) ──▶ closed

The advisory lock is polled with `pg_try_advisory_lock`. A session that waited for it would hold a snapshot, and CREATE INDEX
CONCURRENTLY in the session with the lock would wait for that snapshot: a deadlock. The lock belongs to the session, so a
killed migration releases it. A transaction pooler would share it with other clients, so it is refused.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from turbo import db
from turbo.db import search_path
from turbo.migrate.error import AGAIN, BadDsn, MigrationError
from turbo.sql import statement

Connection = psycopg.Connection[TupleRow]
Report = Callable[[str], None]

OLDEST_SERVER = 140000
APPLICATION_NAME = "turbo migrate"

LOCK_KEY = 0x747572626F
"""The advisory lock of all migrations of one database: the bytes of "turbo"."""

_POLL_SECONDS = 0.25
_REMIND_SECONDS = 30.0

# Without this, the backend of a killed migration would go on building, holding the lock: PostgreSQL checks for its client only
# on request (14 and later; not on every platform).
_NOTICE_A_DEAD_CLIENT = "set client_connection_check_interval = '1s'"


@contextmanager
def open_session(dsn: str, *, lock_timeout: float = 2.0, read_only: bool = False) -> Iterator[Connection]:
    """An autocommit connection for a migration; with `read_only`, one that cannot change anything.

    Raises BadDsn for an unreadable DSN, and MigrationError, in one line, when the server is unreachable, is not a primary
    (unless `read_only`), is older than PostgreSQL 14, or stores the database in another encoding than UTF-8.
    """
    try:
        arguments = db.connect_arguments(dsn, APPLICATION_NAME)
    except db.UnreadableDsn as error:
        raise BadDsn(str(error)) from error
    try:
        connection = connect(dsn, arguments)
    except psycopg.OperationalError as error:
        where, why = db.describe(dsn), db.why_unreachable(error)
        raise MigrationError(
            f"cannot connect to {where}: {why} (check --dsn, TURBO_DSN or the PG* variables)"
        ) from error
    where = place(connection)  # while the connection is open
    with connection:
        try:
            _set_up(connection, dsn, lock_timeout, read_only)
            _judge(connection, read_only)
            yield connection
        except psycopg.Error as error:
            again = f". {AGAIN}" if db.is_transient(error) else ""
            raise MigrationError(f"{where}: {db.reason(error)}{again}") from error


def connect(dsn: str, arguments: dict[str, str | int]) -> Connection:
    """A session with the primary; if `dsn` has none, with a standby. Raises psycopg.OperationalError."""
    # Without a primary among the hosts: reading from a standby is fine; for a change, _judge reports the problem.
    return db.open_readable(Connection, dsn, arguments, prepare_threshold=None)


def _set_up(connection: Connection, dsn: str, lock_timeout: float, read_only: bool) -> None:
    """Its settings. A backend that a pooler lends to others keeps none of them: only the path is set, for each statement."""
    if pools_transactions(connection, dsn):
        search_path.guard(connection)
        return
    connection.execute(search_path.CLOSE)
    if read_only:
        connection.execute("set default_transaction_read_only = on")
    connection.execute(statement("migrate/session_settings"), {"lock_timeout": f"{lock_timeout:g}s"})
    with suppress(psycopg.Error):
        connection.execute(_NOTICE_A_DEAD_CLIENT)


def _judge(connection: Connection, read_only: bool) -> None:
    where = place(connection)
    if connection.info.server_version < OLDEST_SERVER:
        raise MigrationError(
            f"{where} is PostgreSQL {connection.info.parameter_status('server_version')}: turbo needs 14 or later"
        )
    row = connection.execute(statement("migrate/judge_server")).fetchone()
    in_recovery, transaction_read_only, encoding = row or (False, False, "UTF8")
    if encoding not in ("UTF8", "SQL_ASCII"):
        raise MigrationError(
            f"{where} is encoded in {encoding}, but agents write any Unicode text: turbo needs a database in UTF8"
        )
    if read_only:
        return
    if in_recovery:
        raise MigrationError(
            f"{where} is a read-only standby: give the primary's address, or all hosts in one DSN (host=a,b)"
        )
    if transaction_read_only:
        raise MigrationError(
            f"{where} is read-only for role {connection.info.user}: default_transaction_read_only is on, "
            "for the role, the database or the server"
        )


def place(connection: Connection) -> str:
    """The server and database of a connection: `host:port/dbname`."""
    info = connection.info
    return f"{info.host or 'localhost'}:{info.port}/{info.dbname}"


@contextmanager
def exclusive(connection: Connection, dsn: str, *, wait_seconds: float, report: Report) -> Iterator[None]:
    """Hold the database's migration lock. Waits up to `wait_seconds` for another migration, and reports which.

    Raises MigrationError behind a transaction pooler, and after the wait.
    """
    _refuse_transaction_pooling(connection, dsn)
    deadline = time.monotonic() + wait_seconds
    remind_at = 0.0
    while not _try_lock(connection):
        now = time.monotonic()
        if now >= deadline:
            raise MigrationError(
                f"another turbo migrate is still running after {wait_seconds:g} s: {_holder(connection)}; "
                "wait for it, or end it and run turbo migrate again (any login can hold this lock: if that session is not a "
                "migration, nothing is lost by ending it)"
            )
        if now >= remind_at:
            report(f"waiting for another turbo migrate: {_holder(connection)}")
            remind_at = now + _REMIND_SECONDS
        time.sleep(random.uniform(0.5, 1) * min(_POLL_SECONDS, max(deadline - now, 0.01)))
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # a lost connection has released it already
            connection.execute("select pg_advisory_unlock(%s)", (LOCK_KEY,))


def _try_lock(connection: Connection) -> bool:
    row = connection.execute("select pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone()
    return bool(row and row[0])


def _holder(connection: Connection) -> str:
    row = connection.execute(statement("migrate/lock_holder"), {"key": LOCK_KEY}).fetchone()
    if row is None:
        return "it has just ended"
    pid, user, application, host, seconds = row
    what = f"{application or 'no application_name'}, user {user}, at {host or 'a socket'}, for {seconds} s"
    return f"pid {pid} ({what}); to end it: select pg_terminate_backend({pid})"


def _refuse_transaction_pooling(connection: Connection, dsn: str) -> None:
    if pools_transactions(connection, dsn):
        raise MigrationError(
            f"{place(connection)} is a pooler in transaction mode (PgBouncer's pool_mode): the migration's "
            "lock would not hold there; use the server's own address"
        )


def behind_pooler(connection: Connection) -> bool:
    """Whether a pooler may be in between. It makes its own cancel keys, so the pid in them is not the backend's, or passes on those
    of the first backend that it lends, which is not at the other end of this socket."""
    row = connection.execute(
        "select pg_catalog.pg_backend_pid(), coalesce(pg_catalog.inet_client_port(), -1)", prepare=False
    ).fetchone()
    return row is None or list(row) != db.ends(connection)


def pools_transactions(connection: Connection, dsn: str) -> bool:
    """Whether a pooler in between shares backends between transactions. A second client is then served by the backend that has
    just answered the first."""
    if not behind_pooler(connection):
        return False
    arguments = {**db.connect_arguments(dsn, APPLICATION_NAME), "connect_timeout": db.CONNECT_TIMEOUT}
    with Connection.connect(**arguments, autocommit=True, prepare_threshold=None) as second:  # type: ignore[arg-type]
        # A pooler may share its backend: the path is left alone, and the only name looked up is qualified.
        for _ in range(5):
            mine = backend(connection)
            try:
                with second.transaction():
                    shared = backend(second) == mine or backend(connection) != mine
            except errors.ProtocolViolation:  # statement pooling does not allow transactions
                shared = True
            if shared:
                return True
    return False


def backend(connection: Connection) -> int:
    """The pid of the server process that answers; behind a pooler not `connection.info.backend_pid`."""
    row = connection.execute("select pg_catalog.pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0
