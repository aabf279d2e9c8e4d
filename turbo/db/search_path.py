"""Where PostgreSQL looks for the functions and operators of turbo's statements: in pg_catalog, and nowhere else.

An operator that somebody created in `public` wins over PostgreSQL's own where its types fit better, and runs with the rights of
the session that uses it. turbo's statements qualify the names of its tables, but operators cannot be written so.

    opened ──▶ search_path = pg_catalog, pg_temp ──▶ do functions of the tables' owner look names up? ──no──▶ done
                                                        └──yes──▶ also the schemas of the login's path that only trusted
                                                                  roles can create in (sql/session/schemas.sql)

A pooler lends a backend to other clients, so there the path is set for each statement, in a transaction with it. So is whatever else
a worker's statement depends on. Its next backend may be another database's: the same query reads the identity (turbo.db.identity),
before the statement is sent.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor, IsolationLevel, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed, Identifier

from turbo.db.identity import SERVER
from turbo.sql import statement

if TYPE_CHECKING:
    from turbo.db.address import Address

CLOSED = "pg_catalog, pg_temp"
"""Without pg_temp at its end, tables and types are looked up there first."""

CLOSE: LiteralString = "set search_path to pg_catalog, pg_temp"
"""A command, not an expression: it looks up no function."""

_FOR_SESSION: LiteralString = "select pg_catalog.set_config('search_path', %s, false)"
_FOR_STATEMENT: LiteralString = "select pg_catalog.set_config('search_path', %s, true)"

EACH_MEANING: LiteralString = (
    "pg_catalog.set_config('extra_float_digits', '1', false), pg_catalog.set_config('array_nulls', 'on', false),"
    " pg_catalog.set_config('row_security', 'on', false)"
)
"""What a statement means."""

EACH_LIMIT: LiteralString = (
    "pg_catalog.set_config('statement_timeout', '0', false),"
    " case when pg_catalog.current_setting('transaction_timeout', true) operator(pg_catalog.<>) '0'::pg_catalog.text"
    " then pg_catalog.set_config('transaction_timeout', '0', false) end,"
    " pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', false),"
    " pg_catalog.set_config('client_min_messages', 'warning', false),"
    " pg_catalog.set_config('jit', 'off', false)"
)

_FOR_WORKERS_STATEMENT: LiteralString = (
    "select pg_catalog.set_config('search_path', %s, true), pg_catalog.set_config('lock_timeout', %s, true),"
    " pg_catalog.set_config('standard_conforming_strings', 'on', true), pg_catalog.set_config('IntervalStyle', 'postgres', true), "
) + f"{EACH_MEANING}, {EACH_LIMIT}".replace(", false)", ", true)")
_NO_SEQUENTIAL_SCAN: LiteralString = ", pg_catalog.set_config('enable_seqscan', 'off', true)"
_ITS_SERVER: LiteralString = f", {SERVER}"
_AND_IDENTITY: LiteralString = ", public.turbo_database_id()"
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


async def settle_async(connection: "AsyncConnection[Any]", schemas: Sequence[str], *, shared: bool) -> None:
    """`settle`, for asyncio."""
    await _settle(connection, schemas, _guarded_async if shared else None)


async def settle_worker(
    connection: "AsyncConnection[Any]",
    schemas: Sequence[str],
    address: "Address",
    *,
    shared: bool,
    lock_seconds: float | None = None,
) -> None:
    """`settle`, for a worker's session. From now on, a statement of a shared one has all that it depends on set in its transaction.
    It raises AnotherDatabase or AnotherServer, and is not sent, where the backend is not where `address` must lead."""
    lock = f"{(lock_seconds or 0) * 1000:.0f}"
    if shared:
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
    await _settle(connection, schemas, (lambda path: _workers(path, address, lock)) if shared else None)


async def _settle(
    connection: "AsyncConnection[Any]",
    schemas: Sequence[str],
    guarded: "Callable[[str], type[_GuardedAsyncCursor]] | None",
) -> None:
    if guarded is not None:
        connection.cursor_factory = guarded(CLOSED)
    functions = await connection.execute(statement("session/functions"), prepare=False)
    if not wider(await functions.fetchall()):
        return
    found = await connection.execute(statement("session/schemas"), {"schemas": schemas}, prepare=False)
    path = path_with(await found.fetchall())
    if guarded is not None:
        connection.cursor_factory = guarded(path)
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


def is_shared(connection: "AsyncConnection[Any]") -> bool:
    """Whether its statements are guarded one by one."""
    return issubclass(connection.cursor_factory, _GuardedAsyncCursor)


def plan_by_index(connection: "AsyncConnection[Any]") -> None:
    """From now on the statements of a worker's shared session are planned without sequential scans (turbo.db.lane.PLAN_SETTINGS)."""
    kind = connection.cursor_factory
    if issubclass(kind, _WorkersCursor):
        connection.cursor_factory = _workers(kind.path, kind.address, kind.lock, plan=_NO_SEQUENTIAL_SCAN)


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

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "_GuardedAsyncCursor":
        if self.connection.info.transaction_status == TransactionStatus.IDLE and self.connection.autocommit:
            async with self.connection.transaction():
                return await self.execute(query, params, **options)
        await self._set()
        await super().execute(query, params, **options)
        return self

    async def _set(self) -> None:
        """For this transaction."""
        await psycopg.AsyncCursor(self.connection).execute(_FOR_STATEMENT, [self.path], prepare=False)


class _WorkersCursor(_GuardedAsyncCursor):
    """Of a worker: sets more, and finds out which database this transaction's backend is of."""

    address: "ClassVar[Address]"
    lock: ClassVar[str] = "0"
    plan: ClassVar[LiteralString] = ""

    async def _set(self) -> None:
        """Raises AnotherDatabase and AnotherServer."""
        identity, server = self.address.identity, self.address.server
        known = identity.id is not None
        ask = _FOR_WORKERS_STATEMENT + self.plan + _ITS_SERVER + (_AND_IDENTITY if known else "")
        cursor = psycopg.AsyncCursor(self.connection, row_factory=tuple_row)
        try:
            await cursor.execute(ask, [self.path, self.lock], prepare=False)
        except _NO_IDENTITY:
            identity.check(None)
            raise
        row = await cursor.fetchone() or (None, None)
        if known:
            identity.check(row[-1])
        if server is not None:
            server.check(str(row[-2] if known else row[-1]))


@cache
def _guarded(path: str, lock_seconds: float | None = None) -> type[_GuardedCursor]:
    return type("GuardedCursor", (_GuardedCursor,), {"path": path, "lock_seconds": lock_seconds})


@cache
def _guarded_async(path: str) -> type[_GuardedAsyncCursor]:
    return type("GuardedAsyncCursor", (_GuardedAsyncCursor,), {"path": path})


@cache
def _workers(path: str, address: "Address", lock: str, plan: LiteralString = "") -> type[_WorkersCursor]:
    more = {"path": path, "address": address, "lock": lock, "plan": plan}
    return type("WorkersCursor", (_WorkersCursor,), more)
