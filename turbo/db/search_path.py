"""Where PostgreSQL looks for the functions and operators of turbo's statements: in pg_catalog, and nowhere else.

An operator that somebody created in `public` wins over PostgreSQL's own where its types fit better, and runs with the rights of
the session that uses it. turbo's statements qualify the names of its tables, but operators cannot be written so.

    opened ──▶ search_path = pg_catalog, pg_temp ──▶ do functions of the tables' owner look names up? ──no──▶ done
                                                        └──yes──▶ also the schemas of the login's path that only trusted
                                                                  roles can create in (sql/session/schemas.sql)

A pooler lends a backend to other clients, so there the path is set for each statement, in a transaction with it. Its next
backend may be another database's: the same query reads the identity (turbo.db.identity), before the statement is sent.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed, Identifier

from turbo.db.identity import DatabaseIdentity
from turbo.sql import statement

CLOSED = "pg_catalog, pg_temp"
"""Without pg_temp at its end, tables and types are looked up there first."""

CLOSE: LiteralString = "set search_path to pg_catalog, pg_temp"
"""A command, not an expression: it looks up no function."""

_FOR_SESSION: LiteralString = "select pg_catalog.set_config('search_path', %s, false)"
_FOR_STATEMENT: LiteralString = "select pg_catalog.set_config('search_path', %s, true)"
_FOR_STATEMENT_OF: LiteralString = "select pg_catalog.set_config('search_path', %s, true), public.turbo_database_id()"
_LOCK_FOR_STATEMENT: LiteralString = "select pg_catalog.set_config('lock_timeout', %s, true)"

_NO_IDENTITY = (errors.UndefinedFunction, errors.InvalidSchemaName, errors.InsufficientPrivilege)


def wider(functions: Iterable[Sequence[Any]]) -> bool:
    """Whether a function on turbo's tables looks names up when it runs (rows of session/functions)."""
    return any(not fixed for *_, fixed in functions)


def path_with(schemas: Iterable[Sequence[Any]]) -> str:
    """CLOSED, with the schemas that may be searched (rows of session/schemas)."""
    names = [SQL("pg_catalog"), *(Identifier(name) for name, problem in schemas if problem is None), SQL("pg_temp")]
    return Composed(names).join(", ").as_string()


def settle(
    connection: "Connection[Any]", schemas: Sequence[str], *, shared: bool, lock_seconds: float | None = None
) -> None:
    """Give a new session its path. `schemas`: those that its login searches; `shared`: a pooler may lend its backend to others.
    A session that is not shared has CLOSED already. `lock_seconds`: how long a statement of a shared one waits for a lock."""
    if shared:
        connection.cursor_factory = _guarded(CLOSED, lock_seconds)
    if not wider(connection.execute(statement("session/functions"), prepare=False).fetchall()):
        return
    path = path_with(connection.execute(statement("session/schemas"), {"schemas": schemas}, prepare=False).fetchall())
    if shared:
        connection.cursor_factory = _guarded(path, lock_seconds)
    else:
        connection.execute(_FOR_SESSION, [path], prepare=False)


async def settle_async(
    connection: "AsyncConnection[Any]",
    schemas: Sequence[str],
    *,
    shared: bool,
    identity: DatabaseIdentity | None = None,
) -> None:
    """`settle`, for asyncio. `identity`: from now on, a statement of a shared session raises AnotherDatabase, and is not sent,
    where the backend is another database's."""
    if shared:
        connection.cursor_factory = _guarded_async(CLOSED, identity)
    functions = await connection.execute(statement("session/functions"), prepare=False)
    if not wider(await functions.fetchall()):
        return
    found = await connection.execute(statement("session/schemas"), {"schemas": schemas}, prepare=False)
    path = path_with(await found.fetchall())
    if shared:
        connection.cursor_factory = _guarded_async(path, identity)
    else:
        await connection.execute(_FOR_SESSION, [path], prepare=False)


def guard(connection: "Connection[Any]") -> None:
    """From now on CLOSED is set for each statement, in a transaction with it, and not for the session."""
    connection.cursor_factory = _guarded(CLOSED)


async def keep(connection: "AsyncConnection[Any]") -> None:
    """The session has turned out to be nobody else's: set its path once, for all its statements."""
    kind = connection.cursor_factory
    if issubclass(kind, _GuardedAsyncCursor):
        connection.cursor_factory = AsyncCursor
        await connection.execute(_FOR_SESSION, [kind.path], prepare=False)


class _GuardedCursor(Cursor[Any]):
    """Sends each statement in a transaction with its path."""

    path: ClassVar[str] = CLOSED
    lock_seconds: ClassVar[float | None] = None

    def execute(self, query: Any, params: Any = None, **options: Any) -> "_GuardedCursor":
        if self.connection.info.transaction_status == TransactionStatus.IDLE and self.connection.autocommit:
            with self.connection.transaction():
                return self.execute(query, params, **options)
        psycopg.Cursor(self.connection).execute(_FOR_STATEMENT, [self.path], prepare=False)
        if self.lock_seconds is not None:
            psycopg.Cursor(self.connection).execute(_LOCK_FOR_STATEMENT, [f"{self.lock_seconds:g}s"], prepare=False)
        super().execute(query, params, **options)
        return self


class _GuardedAsyncCursor(AsyncCursor[Any]):
    """`_GuardedCursor`, for asyncio."""

    path: ClassVar[str] = CLOSED
    identity: ClassVar[DatabaseIdentity | None] = None

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "_GuardedAsyncCursor":
        if self.connection.info.transaction_status == TransactionStatus.IDLE and self.connection.autocommit:
            async with self.connection.transaction():
                return await self.execute(query, params, **options)
        if self.identity is None or self.identity.id is None:
            await psycopg.AsyncCursor(self.connection).execute(_FOR_STATEMENT, [self.path], prepare=False)
        else:
            await self._check(self.identity)
        await super().execute(query, params, **options)
        return self

    async def _check(self, identity: DatabaseIdentity) -> None:
        """Set the path, and raise AnotherDatabase where this transaction's backend is another database's."""
        cursor = psycopg.AsyncCursor(self.connection, row_factory=tuple_row)
        try:
            await cursor.execute(_FOR_STATEMENT_OF, [self.path], prepare=False)
        except _NO_IDENTITY:
            identity.check(None)
            raise
        _, found = await cursor.fetchone() or (None, None)
        identity.check(found)


@cache
def _guarded(path: str, lock_seconds: float | None = None) -> type[_GuardedCursor]:
    return type("GuardedCursor", (_GuardedCursor,), {"path": path, "lock_seconds": lock_seconds})


@cache
def _guarded_async(path: str, identity: DatabaseIdentity | None = None) -> type[_GuardedAsyncCursor]:
    return type("GuardedAsyncCursor", (_GuardedAsyncCursor,), {"path": path, "identity": identity})
