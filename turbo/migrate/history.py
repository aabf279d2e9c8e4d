"""The table `turbo_migrations`: which files a database has seen, and whether this turbo fits it.

A database is at version n when the files 1 to n are applied. A worker runs on its own version and on the next one, so
that a fleet can be upgraded host by host: migrate first, then restart the workers one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from turbo import __version__
from turbo.migrate.error import MigrationError
from turbo.migrate.files import Migration, newest_version
from turbo.sql import statement

Connection = psycopg.Connection[TupleRow]
AsyncConnection = psycopg.AsyncConnection[TupleRow]

SCHEMA_VERSION = newest_version()
"""The schema this turbo was built for: the number of its newest migration file."""


class SchemaFit(StrEnum):
    """Whether a worker of this turbo may run on a database."""

    OK = "ok"
    BEHIND = "behind"
    TOO_NEW = "too_new"


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database is (0: never migrated), and where this turbo would bring it."""

    version: int
    latest: int

    @property
    def behind(self) -> bool:
        return self.version < self.latest


def check_schema(version_in_db: int, latest: int = SCHEMA_VERSION) -> SchemaFit:
    """Whether a worker may run on a database at this version: its own and the next one are fine."""
    if version_in_db < latest:
        return SchemaFit.BEHIND
    return SchemaFit.OK if version_in_db <= latest + 1 else SchemaFit.TOO_NEW


def explain_schema(version_in_db: int, latest: int = SCHEMA_VERSION) -> str:
    """One line about a database's version, for whoever can act on it."""
    if version_in_db == 0:
        return "the database has no turbo schema yet: run `turbo migrate`"
    at = f"the database's schema is at version {version_in_db}"
    if version_in_db < latest:
        return f"{at}, this turbo needs {latest}: run `turbo migrate`"
    if version_in_db == latest:
        return f"{at}, the latest"
    if check_schema(version_in_db, latest) is SchemaFit.OK:
        return f"{at}, one newer than this turbo's {latest}: that works, upgrade turbo on this host when you can"
    return f"{at}, too new for this turbo ({__version__}, schema {latest}): upgrade turbo on this host"


def status(connection: Connection) -> SchemaStatus:
    """The database's version and the latest one. Reads only; works on a database that was never migrated."""
    version = _single(connection.execute(statement("migrate/version"))) if exists(connection) else 0
    return SchemaStatus(int(version), SCHEMA_VERSION)


async def read_version(connection: AsyncConnection) -> int:
    """The database's version, over a worker's connection; 0 when it was never migrated."""
    row = await (await connection.execute(statement("migrate/history_exists"))).fetchone()
    if not (row and row[0]):
        return 0
    row = await (await connection.execute(statement("migrate/version"))).fetchone()
    return int(row[0]) if row else 0


async def worker_verdict(connection: AsyncConnection) -> tuple[SchemaFit, str]:
    """Whether a worker of this turbo may run on the database, and one line that says what to do if not."""
    version = await read_version(connection)
    return check_schema(version), explain_schema(version)


def exists(connection: Connection) -> bool:
    return bool(_single(connection.execute(statement("migrate/history_exists"))))


def pending(connection: Connection, files: Sequence[Migration]) -> tuple[Migration, ...]:
    """The files that this database has not seen.

    Raises MigrationError when an applied file has changed since, when one in between was never applied, and when the
    database is further than a worker of this turbo could follow.
    """
    applied = connection.execute(statement("migrate/history")).fetchall() if exists(connection) else []
    seen = {int(version): (str(name), str(checksum)) for version, name, checksum in applied}
    newest = max(seen, default=0)
    if check_schema(newest, len(files)) is SchemaFit.TOO_NEW:
        raise MigrationError(explain_schema(newest, len(files)))
    for migration in files:
        if migration.version not in seen:
            if migration.version < newest:
                raise MigrationError(
                    f"turbo_migrations has version {newest} but not {migration.version} ({migration.label}): "
                    "rows were deleted from it; put the row back, or restore the database"
                )
            continue
        name, checksum = seen[migration.version]
        if checksum != migration.checksum:
            raise MigrationError(
                f"migrations/{migration.label}.sql has changed since it was applied to this database (as "
                f"{migration.version:04d}_{name}): put the file back as it was, and make the change in a new file"
            )
    return tuple(migration for migration in files if migration.version not in seen)


def create(connection: Connection) -> None:
    connection.execute(statement("migrate/history_create"))


def record(connection: Connection, migration: Migration) -> None:
    """Write that `migration` is applied; in its own last transaction, where it has one."""
    connection.execute(
        statement("migrate/history_record"),
        {
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "turbo_version": __version__,
        },
    )


def _single(cursor: "psycopg.Cursor[TupleRow]") -> Any:
    row = cursor.fetchone()
    return row[0] if row else None
