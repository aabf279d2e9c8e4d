"""Sessions: how turbo reaches PostgreSQL.

A worker has few sessions, each with one purpose: the listener, the heartbeat, and the lanes (turbo.db.lane) for claims,
results, progress and retention.

Every session has keepalives 10/5/3 (a half-open connection is noticed in 25 s), `tcp_user_timeout` where the platform
has it, `target_session_attrs=read-write` (a multi-host DSN finds the primary) and read committed. It also has an
`idle_in_transaction_session_timeout`: the row locks of a vanished host would hide rows behind SKIP LOCKED.

A session inherits settings from the environment, the role, the database and the server. What turbo depends on, it sets:
the encoding when it connects, the rest right after, and where its names are looked up (turbo.db.search_path). The statements
that do so qualify every name themselves.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from turbo.db import multihost, search_path
from turbo.db.address import Address
from turbo.db.dsn import parse, shown
from turbo.db.identity import IDENTITY, SERVER
from turbo.db.values import read_bounded

CONNECT_TIMEOUT = 5
"""Seconds to wait for one host of a DSN: the default of 130 s is longer than any failover."""

_READ_AND_WRITTEN = (
    " pg_catalog.set_config('DateStyle', 'ISO', false), pg_catalog.set_config('standard_conforming_strings', 'on', false),"
    " pg_catalog.set_config('IntervalStyle', 'postgres', false)"
)
"""How values are written in text. A transaction pooler keeps these for each of its clients."""

_MEANING = (
    f" {search_path.EACH_MEANING},"
    " pg_catalog.set_config('default_transaction_isolation', 'read committed', false),"
    " pg_catalog.set_config('default_transaction_deferrable', 'off', false)"
)

_OWN = (
    "(pg_catalog.pg_backend_pid() operator(pg_catalog.=) %s"
    " and coalesce(pg_catalog.inet_client_port(), -1) operator(pg_catalog.=) %s)"
)
"""Whether the backend is the one that was connected to, and at the other end of this socket (`ends`). A pooler makes its own cancel
keys, or passes on those of the first backend that it lends. What only forwards bytes looks the same: such a session counts as
shared, too, until notifications arrive (turbo.db.lane)."""

_LOOKED_UP = f"pg_catalog.set_config('search_path', '{search_path.CLOSED}', false)"

_LIMITS = (
    f" pg_catalog.set_config('lock_timeout', '0', false), pg_catalog.set_config('idle_session_timeout', '0', false),"
    f" {search_path.EACH_LIMIT}"
)

SESSION_SETTINGS = (
    f"select pg_catalog.current_schemas(false)::pg_catalog.text[],{_READ_AND_WRITTEN},{_MEANING},"
    f"{_LIMITS},"
    " coalesce(pg_catalog.has_function_privilege("
    "pg_catalog.to_regprocedure('public.turbo_database_id()'), 'execute'), false),"
    f" case when {_OWN} then {_LOOKED_UP} end, {SERVER}"
)
"""For a worker's session, whose statements have deadlines on this side. The first column has the schemas that its login would
search. The third from the end tells whether the database has an identity (turbo.db.identity), the one before the last is null
behind a pooler, and the last distinguishes servers, and starts of one server."""

POOLED_SETTINGS = (
    f"select pg_catalog.current_schemas(false)::pg_catalog.text[],{_READ_AND_WRITTEN},"
    " coalesce(pg_catalog.has_function_privilege("
    "pg_catalog.to_regprocedure('public.turbo_database_id()'), 'execute'), false),"
    f" case when {_OWN} then row({_MEANING.strip()},{_LIMITS}, {_LOOKED_UP})::pg_catalog.text end, {SERVER}"
)
"""The same for a session that may lead through a pooler in transaction mode (database.listen_dsn): a backend that is shared is left
as it is. What its statements depend on is set with each of them (turbo.db.search_path)."""

CLIENT_SETTINGS = (
    f"select pg_catalog.current_schemas(false)::pg_catalog.text[],{_READ_AND_WRITTEN},"
    f" case when {_OWN} then row({_MEANING.strip()}, {_LOOKED_UP})::pg_catalog.text end"
)
"""For a client's session. Its time limits are the caller's own business. Behind a pooler (the last column is null) a backend is
shared with other clients of the role, so what the pooler does not keep apart is not set."""

_CLIENT_LOCK_TIMEOUT = f"select case when {_OWN} then pg_catalog.set_config('lock_timeout', %s, false) end"

Connection = AsyncConnection[TupleRow]


def ends(connection: "psycopg.AsyncConnection[TupleRow] | psycopg.Connection[TupleRow]") -> list[int]:
    """The pid of the backend that a session was told, and the port of this end of its socket: -1 for one without ports."""
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:
        name = twin.getsockname()
    return [connection.info.backend_pid, name[1] if isinstance(name, tuple) else -1]


T = TypeVar("T")


def connect_arguments(dsn: str, application_name: str) -> dict[str, str | int]:
    """libpq's keywords for a turbo session: those in `dsn`, and turbo's defaults for the others. Raises UnreadableDsn."""
    wanted: dict[str, str | int] = {
        "application_name": application_name[:63],
        "connect_timeout": CONNECT_TIMEOUT,
        "target_session_attrs": "read-write",
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    if sys.platform == "linux":
        wanted["tcp_user_timeout"] = 25_000  # ms; libpq knows the keyword everywhere, the kernel only here
    given = parse(dsn)
    # Agents write any Unicode text; PGCLIENTENCODING or the role may say LATIN1.
    return {**wanted, **{k: v for k, v in given.items() if v is not None}, "client_encoding": "UTF8"}


def open_client(dsn: str, application_name: str, lock_seconds: float | None = None) -> "psycopg.Connection[TupleRow]":
    """An autocommit session for a client: with the primary, or, where no host takes writes, with a server that can be
    read. Raises psycopg.OperationalError when the database is away, psycopg.ProgrammingError for an unreadable DSN."""
    connection = open_readable(psycopg.Connection, dsn, connect_arguments(dsn, application_name))
    read_bounded(connection)
    try:
        row = connection.execute(CLIENT_SETTINGS, ends(connection), prepare=False).fetchone() or ((), None)
        search_path.settle(connection, row[0], shared=row[-1] is None, lock_seconds=lock_seconds)
        if lock_seconds is not None:
            own = [*ends(connection), f"{lock_seconds * 1000:.0f}"]
            connection.execute(_CLIENT_LOCK_TIMEOUT, own, prepare=False)
    except BaseException:
        connection.close()
        raise
    return connection


async def open_async_client(dsn: str, application_name: str) -> Connection:
    """`open_client`, for asyncio."""
    arguments = connect_arguments(dsn, application_name)
    connection = await _open_async(arguments)
    if isinstance(connection, psycopg.Error) and only_readable(connection, dsn):
        connection = await _open_async(arguments | {"target_session_attrs": "any"})
    if isinstance(connection, psycopg.Error):
        raise shown(connection, dsn)
    read_bounded(connection)
    try:
        answer = await connection.execute(CLIENT_SETTINGS, ends(connection), prepare=False)
        row = await answer.fetchone() or ((), None)
        await search_path.settle_async(connection, row[0], shared=row[-1] is None)
    except BaseException:
        await connection.close()
        raise
    return connection


def open_readable(
    kind: "type[psycopg.Connection[TupleRow]]", dsn: str, arguments: Mapping[str, str | int], **more: object
) -> "psycopg.Connection[TupleRow]":
    """An autocommit session with the primary; where no host takes writes, with a server that can be read. Raises
    psycopg.OperationalError, which quotes nothing of a DSN that may be misread."""
    connection = _open_blocking(kind, arguments, more)
    if isinstance(connection, psycopg.Error) and only_readable(connection, dsn):
        connection = _open_blocking(kind, {**arguments, "target_session_attrs": "any"}, more)
    if isinstance(connection, psycopg.Error):
        raise shown(connection, dsn)
    return connection


def _open_blocking(
    kind: "type[psycopg.Connection[TupleRow]]", arguments: Mapping[str, str | int], more: Mapping[str, object]
) -> "psycopg.Connection[TupleRow] | psycopg.Error":
    try:
        return kind.connect(**arguments, **more, autocommit=True)  # type: ignore[arg-type]
    except psycopg.Error as error:
        return error


async def _open_async(arguments: Mapping[str, str | int]) -> Connection | psycopg.Error:
    try:
        return await AsyncConnection.connect(**arguments, autocommit=True)  # type: ignore[arg-type]
    except psycopg.Error as error:
        return error


def only_readable(error: psycopg.Error, dsn: str) -> bool:
    """Whether a host answered, but none takes writes: a standby, or a role that may only read. False where the DSN itself
    says which server it wants."""
    return "session is read-only" in str(error) and "target_session_attrs" not in dsn


def cut(connection: "psycopg.AsyncConnection[TupleRow] | psycopg.Connection[TupleRow]") -> None:
    """End a connection's socket now. A call that waits on it raises OperationalError at once.

    Cancelling a psycopg call asks the server to cancel first and waits for its answer: with a frozen server that took
    15 s where 5 were allowed.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


async def within(seconds: float, connection: Connection, work: Awaitable[T]) -> T:
    """Await `work` on `connection`, with a deadline that holds against a frozen server. Raises TimeoutError."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _cut_off(connection, task)
        raise
    if not done:
        await _cut_off(connection, task)
        raise TimeoutError(f"no answer from the database within {seconds:g} s")
    return task.result()


async def _cut_off(connection: Connection, task: "asyncio.Future[T]") -> None:
    """End the connection under `task`, and retrieve its error, so that asyncio does not log it."""
    cut(connection)
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def connect(where: str | Address, application_name: str) -> Connection:
    """An autocommit session with turbo's settings. Raises psycopg.OperationalError when the database is away."""
    return (await open_session(where, application_name))[0]


async def open_session(
    where: str | Address, application_name: str, lock_seconds: float | None = None
) -> tuple[Connection, str]:
    """`connect`, and which server answered (turbo.db.identity.SERVER). Raises AnotherDatabase and AnotherServer, too.
    `lock_seconds`: how long a statement waits for a lock, where a pooler lends the session's backend to others."""
    address = where if isinstance(where, Address) else Address(where)
    connection = await _open(address, application_name)
    server = ""

    async def settings() -> None:
        nonlocal server
        wanted = POOLED_SETTINGS if address.apart else SESSION_SETTINGS
        answer = await connection.execute(wanted, ends(connection))
        row = await answer.fetchone() or ((), False, None, "")
        server = str(row[-1])
        if address.server is not None:
            address.server.check(server)
        await search_path.settle_worker(connection, row[0], address, shared=row[-2] is None, lock_seconds=lock_seconds)
        if address.identity.id is not None:
            found = await (await connection.execute(IDENTITY)).fetchone() if row[-3] else None
            address.identity.check(found[0] if found else None)

    read_bounded(connection)
    try:
        # Prepared statements are switched on once the listener has proved that no transaction pooler is in the way.
        connection.prepare_threshold = None
        await within(CONNECT_TIMEOUT, connection, settings())
    except BaseException:
        await connection.close()
        raise
    address.password = connection.info.password
    return connection, server


async def _open(address: Address, application_name: str) -> Connection:
    """A session; with another login if there is one and the first is not taken.

    libpq passes no SQLSTATE on for a session that it cannot open, and the server's text is in the server's language. So
    every failure counts.
    """
    dsn = address.dsn
    opened = await _open_any(dsn, application_name)
    if isinstance(opened, psycopg.OperationalError) and address.changed_since(dsn):
        dsn = address.dsn
        opened = await _open_any(dsn, application_name)
    if isinstance(opened, psycopg.Error):
        raise shown(opened, dsn)
    return opened


async def _open_any(dsn: str, application_name: str) -> Connection | psycopg.Error:
    arguments = connect_arguments(dsn, application_name)
    try:
        return await multihost.open_any(multihost.each_host(arguments))
    except psycopg.Error as error:
        return error
