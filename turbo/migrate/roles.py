"""`turbo migrate --roles`: five group roles without login, each with exactly the privileges it needs.

    missing? ──▶ created (needs CREATEROLE) ──▶ all grants in one transaction ──▶ notes about this database

On request only, because roles belong to the whole cluster. Safe to repeat at any time, and from several databases of one
cluster at once. Repeat it after an upgrade that added tables or columns. The privileges of each role are in
turbo/sql/roles/grant.sql, and explained in docs/security.md.
"""

import time
from dataclasses import dataclass

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from turbo import db
from turbo.migrate import history, session
from turbo.migrate.error import AGAIN, MigrationError
from turbo.runtime.backoff import Backoff
from turbo.sql import source, statement

Connection = psycopg.Connection[TupleRow]

ROLES = ("turbo_submitter", "turbo_worker", "turbo_reader", "turbo_approver", "turbo_admin")

_NOTHING_GRANTED = ("01006", "01007")
"""SQLSTATEs of the warnings that a REVOKE or GRANT did less than requested."""

_ATTEMPTS = 8
_SHARED_ROW_BUSY = "tuple concurrently updated"


@dataclass(frozen=True, slots=True)
class RolesReport:
    """The result of one run: the created roles, and other facts that affect privileges, one line each."""

    database: str
    created: tuple[str, ...]
    notes: tuple[str, ...]


def roles_sql() -> str:
    """Every statement of `grant_roles`, to read first or to run by hand."""
    return f"{source('roles/create').rstrip()};\n\nbegin;\n{source('roles/grant').rstrip()};\ncommit;\n"


def grant_roles(dsn: str = "", *, lock_timeout: float = 2.0) -> RolesReport:
    """Create the missing ones of the five roles, and set their privileges in this database.

    Raises MigrationError, with the statements to run, if the session lacks the privileges; nothing is granted then.
    """
    with session.open_session(dsn, lock_timeout=lock_timeout) as connection:
        state = history.status(connection)
        if state.behind:
            raise MigrationError(f"no roles yet: {history.explain_schema(state.version, state.latest)} first")
        missing = _create(connection)
        _grant(connection)
        notes = tuple(str(row[0]) for row in connection.execute(statement("roles/notes")).fetchall())
        return RolesReport(session.place(connection), missing, notes)


def _create(connection: Connection) -> tuple[str, ...]:
    row = connection.execute(statement("roles/missing")).fetchone()
    missing, may_create = row or ([], False)
    if missing and not may_create:
        raise MigrationError(
            f"the roles {', '.join(missing)} do not exist, and {_user(connection)} cannot create roles. Have a role with "
            f"CREATEROLE run this once: {' '.join(f'CREATE ROLE {role} NOLOGIN;' for role in missing)} "
            "Then run turbo migrate --roles again (turbo migrate --roles --plan prints all of it)"
        )
    connection.execute(statement("roles/create"))
    return tuple(missing)


def _grant(connection: Connection) -> None:
    warnings: list[str] = []

    def on_notice(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate in _NOTHING_GRANTED:
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(on_notice)
    pause = Backoff(base=0.05, cap=1.0)
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            warnings.clear()
            try:
                with connection.transaction():
                    connection.execute(statement("roles/grant").encode())
                    if warnings:
                        raise errors.InsufficientPrivilege(warnings[0])
                return
            except errors.InsufficientPrivilege as error:
                raise _refused(connection, error.diag.message_primary or db.reason(error)) from error
            except psycopg.Error as error:
                busy = db.is_transient(error) or _SHARED_ROW_BUSY in str(error)
                if not busy or attempt == _ATTEMPTS or connection.closed:
                    raise MigrationError(f"roles: {error.diag.message_primary or db.reason(error)}. {AGAIN}") from error
                time.sleep(pause.next())
    finally:
        connection.remove_notice_handler(on_notice)


def _refused(connection: Connection, text: str) -> MigrationError:
    foreign = connection.execute(statement("roles/foreign_owner")).fetchall()
    whose = (
        "; ".join(f"{table} belongs to {owner}" for table, owner in foreign)
        or "another role owns one of turbo's tables or functions"
    )
    return MigrationError(
        f"{_user(connection)} cannot grant on all of turbo's tables ({text}): {whose}. Run turbo migrate --roles as a "
        "superuser or as a member of the owning roles, or have them run the output of turbo migrate --roles --plan. "
        "Nothing was granted"
    )


def _user(connection: Connection) -> str:
    return connection.info.user
