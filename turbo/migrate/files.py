"""The migration files: `migrations/NNNN_name.sql`, read, checked and split into blocks.

A file is plain SQL, sent to the server unchanged; turbo never parses a dollar-quoted body. Two marker lines control how it is
sent:

    -- turbo: no-transaction      as the first line: each block runs outside a transaction (CREATE INDEX CONCURRENTLY)
    -- turbo: next                ends a block
    -- turbo: compatible-from N   among the first lines: the oldest schema whose turbo may run on once the file is applied
                                  (without it: the schema right before this one)

Without markers a file is one block, in one transaction. A file of several blocks is not atomic, so each of its blocks
must be repeatable (`if not exists`, `create or replace`): after a kill, the next run starts the file again.

Versions are the numbers, from 1, without gaps. The checksum is of the file's bytes: an applied file never changes.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import turbo
from turbo.migrate.error import MigrationError

_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9]+(?:_[a-z0-9]+)*)\.sql")
_NO_TRANSACTION = "-- turbo: no-transaction"
_NEXT = "-- turbo: next"
_COMPATIBLE_FROM = re.compile(r"-- turbo: compatible-from (?P<version>[1-9]\d*)")
_CONCURRENT_INDEX = re.compile(
    r"\s*create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?"
    r"(?P<index>[a-z0-9_]+)\s+on\s+(?:only\s+)?(?P<schema>[a-z0-9_]+)\.(?P<table>[a-z0-9_]+)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ConcurrentIndex:
    """The index that a block builds concurrently. An interrupted attempt leaves it INVALID."""

    schema: str
    table: str
    index: str


@dataclass(frozen=True, slots=True)
class Block:
    """SQL that is sent at once. `first_line` is its line in the file, from 1, for error messages."""

    sql: str
    first_line: int

    @property
    def concurrent_index(self) -> ConcurrentIndex | None:
        match = _CONCURRENT_INDEX.match(_without_comments(self.sql))
        return ConcurrentIndex(match["schema"], match["table"], match["index"]) if match else None


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `label` is its name without `.sql`; `checksum` the SHA-256 of its bytes, in hex. `compatible_from`: the
    oldest schema whose turbo may still run once the file is applied."""

    version: int
    name: str
    checksum: str
    sql: str
    blocks: tuple[Block, ...]
    in_transaction: bool
    compatible_from: int

    @property
    def label(self) -> str:
        return f"{self.version:04d}_{self.name}"


def directory() -> Traversable:
    """The directory of the files: inside the package when installed from a wheel, beside it in a source checkout.

    Raises MigrationError when neither is there.
    """
    packaged = resources.files(turbo) / "migrations"
    if packaged.is_dir():
        return packaged
    checkout = Path(turbo.__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "migrations").is_dir():
        return checkout / "migrations"
    raise MigrationError("turbo's migration files are missing from this installation: install agent-turbo again")


def parse(file_name: str, content: bytes) -> Migration:
    """One file, split into its blocks. Raises MigrationError for a wrong name, encoding or marker."""
    named = _FILE_NAME.fullmatch(file_name)
    if not named:
        raise MigrationError(
            f"migrations/{file_name}: not a migration's name; use NNNN_name.sql, as in 0004_retention.sql"
        )
    try:
        sql = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MigrationError(f"migrations/{file_name}: not UTF-8: {error}") from error
    lines = sql.splitlines(keepends=True)
    in_transaction = not (lines and lines[0].rstrip() == _NO_TRANSACTION)
    blocks: list[Block] = []
    first_line, pending = 1, list[str]()
    version = int(named["version"])
    compatible_from = version - 1
    for number, line in enumerate(lines, start=1):
        marker = line.rstrip()
        if marker == _NEXT:
            blocks.append(Block("".join(pending), first_line))
            first_line, pending = number + 1, []
            continue
        if not blocks and (compatible := _COMPATIBLE_FROM.fullmatch(marker)) is not None:
            compatible_from = int(compatible["version"])
            if compatible_from >= version:
                raise MigrationError(
                    f"migrations/{file_name} line {number}: compatible-from {compatible_from} must name an earlier schema"
                )
        elif marker.startswith("-- turbo:") and not (number == 1 and not in_transaction):
            raise MigrationError(
                f"migrations/{file_name} line {number}: {marker!r} is not a marker here; "
                f"known: {_NO_TRANSACTION!r} (first line) and {_NEXT!r}"
            )
        pending.append(line)
    blocks.append(Block("".join(pending), first_line))
    for block in blocks:
        if not _without_comments(block.sql).strip():
            raise MigrationError(f"migrations/{file_name} line {block.first_line}: a block without a statement")
    return Migration(
        version=version,
        name=named["name"],
        checksum=hashlib.sha256(content).hexdigest(),
        sql=sql,
        blocks=tuple(blocks),
        in_transaction=in_transaction,
        compatible_from=compatible_from,
    )


def read(where: Traversable | None = None) -> tuple[Migration, ...]:
    """All files in order, versions 1 to n. Raises MigrationError for gaps, duplicates and wrong files."""
    return _installed() if where is None else _read(where)


@cache
def _installed() -> tuple[Migration, ...]:
    return _read(directory())


def _read(where: Traversable) -> tuple[Migration, ...]:
    entries = sorted((entry for entry in where.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    migrations = tuple(parse(entry.name, entry.read_bytes()) for entry in entries)
    if not migrations:
        raise MigrationError(f"no migration files in {where}: install agent-turbo again")
    for expected, migration in enumerate(migrations, start=1):
        if migration.version < expected:
            raise MigrationError(
                f"two migrations have the number {migration.version:04d}: "
                f"{migrations[expected - 2].label} and {migration.label}; give the later one the next free number"
            )
        if migration.version > expected:
            raise MigrationError(f"migration {expected:04d} is missing: the next file is {migration.label}.sql")
    return migrations


def _without_comments(sql: str) -> str:
    return "".join(line for line in sql.splitlines(keepends=True) if not line.lstrip().startswith("--"))


def newest_version() -> int:
    """The number of the newest file: the schema this turbo was built for."""
    return read()[-1].version
