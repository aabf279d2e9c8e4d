"""What tests of adoption share: every odd table in turn, and what its rows and columns were before."""

import psycopg
import pytest

from tests.support.migrations import query
from tests.support.odd_tables import ODD_TABLES, OddTable
from turbo.migrate import Patience

LOCK_TIMEOUT = 0.3
PATIENCE = Patience(lock_timeout=LOCK_TIMEOUT, attempts=1000, wait=60)

each = pytest.mark.parametrize("table", ODD_TABLES, ids=lambda table: table.name.replace(" ", "-"))


def make(dsn: str, table: OddTable, rows: int | None = None) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        table.make(connection, rows)


def old_columns(dsn: str) -> list[str]:
    names = query(
        dsn,
        "select quote_ident(attname) from pg_attribute where attrelid = 'agent_tasks'::regclass and attnum > 0 and not attisdropped",
    )
    return [str(name) for (name,) in names if name != "queue"]  # where it was null, a waiting row gets 'default'


def contents(dsn: str, columns: list[str]) -> dict[str, str]:
    """Every row by its id, as a digest of what stood in the old columns."""
    rows = query(dsn, f"select task_id::text, md5(row({', '.join(columns)})::text) from agent_tasks")
    return {str(task): str(digest) for task, digest in rows}


def places(dsn: str) -> list[tuple[object, ...]]:
    """Where each table's rows lie: another relfilenode is a table that was written anew."""
    return query(
        dsn,
        "select relname::text, relfilenode from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and relname ~ '^agent_(tasks|actions|sessions)' order by 1",
    )
