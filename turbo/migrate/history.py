"""The table `turbo_migrations`: which files a database has, and whether this turbo fits it.

A database is at version n when the files 1 to n are applied. Each file has a `compatible_from`: the oldest schema whose turbo
may still run once the file is applied. A worker checks it, so a fleet can be upgraded host by host: migrate first, then
restart the workers one at a time.
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
    """The version of a database (0: never migrated), and the version of this turbo. `compatible_from`: the oldest schema whose
    turbo may run on the database."""

    version: int
    latest: int
    compatible_from: int = 0

    @property
    def behind(self) -> bool:
        return self.version < self.latest


def check_schema(version_in_db: int, latest: int = SCHEMA_VERSION, compatible_from: int | None = None) -> SchemaFit:
    """Whether a worker whose schema is `latest` may run on a database at this version. `compatible_from` is the
    database's; without one, a worker runs on its own version and the next."""
    if version_in_db < latest:
        return SchemaFit.BEHIND
    oldest = version_in_db - 1 if compatible_from is None else compatible_from
    return SchemaFit.OK if version_in_db == latest or oldest <= latest else SchemaFit.TOO_NEW


def explain_schema(version_in_db: int, latest: int = SCHEMA_VERSION, compatible_from: int | None = None) -> str:
    """One line about a database's version, with the remedy."""
    if version_in_db == 0:
        return "the database has no turbo schema yet: run `turbo migrate`"
    at = f"the database's schema is at version {version_in_db}"
    if version_in_db < latest:
        return f"{at}, this turbo needs {latest}: run `turbo migrate`"
    if version_in_db == latest:
        return f"{at}, the latest"
    if check_schema(version_in_db, latest, compatible_from) is SchemaFit.OK:
        return f"{at}, newer than this turbo's {latest} and compatible: upgrade turbo on this host when you can"
    return f"{at}, too new for this turbo ({__version__}, schema {latest}): upgrade turbo on this host"


def status(connection: Connection) -> SchemaStatus:
    """The database's version and the latest one. Reads only; works on a database that was never migrated."""
    row = connection.execute(statement("migrate/version")).fetchone() if exists(connection) else (0, 0)
    version, compatible_from = row or (0, 0)
    return SchemaStatus(int(version), SCHEMA_VERSION, int(compatible_from))


async def read_status(connection: AsyncConnection) -> SchemaStatus:
    """`status`, over a worker's connection."""
    row = await (await connection.execute(statement("migrate/history_exists"))).fetchone()
    if not (row and row[0]):
        return SchemaStatus(0, SCHEMA_VERSION)
    row = await (await connection.execute(statement("migrate/version"))).fetchone()
    version, compatible_from = row or (0, 0)
    return SchemaStatus(int(version), SCHEMA_VERSION, int(compatible_from))


async def worker_verdict(connection: AsyncConnection) -> tuple[SchemaFit, str]:
    """Whether a worker of this turbo may run on the database, and one line with the remedy if not."""
    state = await read_status(connection)
    schema = (state.version, state.latest, state.compatible_from)
    return check_schema(*schema), explain_schema(*schema)


def exists(connection: Connection) -> bool:
    return bool(_single(connection.execute(statement("migrate/history_exists"))))


def pending(connection: Connection, files: Sequence[Migration]) -> tuple[Migration, ...]:
    """The files that are not applied to this database.

    Raises MigrationError when an applied file has changed, when a file in between was never applied, and when the database is
    too new for this turbo.
    """
    applied = connection.execute(statement("migrate/history")).fetchall() if exists(connection) else []
    seen = {int(version): (str(name), str(checksum)) for version, name, checksum, _ in applied}
    newest = max(seen, default=0)
    compatible_from = max(
        (int(version) - 1 if oldest is None else int(oldest) for version, _, _, oldest in applied), default=0
    )
    if check_schema(newest, len(files), compatible_from) is SchemaFit.TOO_NEW:
        raise MigrationError(explain_schema(newest, len(files), compatible_from))
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
    connection.execute(statement("migrate/history_columns"))


def record(connection: Connection, migration: Migration) -> None:
    """Record that `migration` is applied; in its last transaction, if it has one."""
    connection.execute(
        statement("migrate/history_record"),
        {
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "turbo_version": __version__,
            "compatible_from": migration.compatible_from,
        },
    )


def _single(cursor: "psycopg.Cursor[TupleRow]") -> Any:
    row = cursor.fetchone()
    return row[0] if row else None
