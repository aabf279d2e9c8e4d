"""Sessions: how turbo reaches PostgreSQL.

A worker has few sessions, each with one purpose: the listener, the heartbeat, and the lanes (turbo.db.lane) for claims,
results, progress and retention.

Every session has keepalives 10/5/3 (a half-open connection is noticed in 25 s), `tcp_user_timeout` where the platform
has it, `target_session_attrs=read-write` (a multi-host DSN finds the primary) and read committed. It also has an
`idle_in_transaction_session_timeout`: the row locks of a vanished host would hide rows behind SKIP LOCKED.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection, conninfo
from psycopg.rows import TupleRow

from turbo.db import multihost
from turbo.db.address import Address

CONNECT_TIMEOUT = 5
"""Seconds to wait for one host of a DSN: the default of 130 s is longer than any failover."""

SESSION_SETTINGS = (
    "select set_config('default_transaction_isolation', 'read committed', false),"
    " set_config('idle_in_transaction_session_timeout', '60s', false),"
    " set_config('client_min_messages', 'warning', false),"
    " set_config('jit', 'off', false), pg_catalog.pg_postmaster_start_time()::text"
)
"""The last column distinguishes servers, and starts of one server."""

Connection = AsyncConnection[TupleRow]

T = TypeVar("T")


def connect_arguments(dsn: str, application_name: str) -> dict[str, str | int]:
    """libpq's keywords for a turbo session: those in `dsn`, and turbo's defaults for the others."""
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
    given = conninfo.conninfo_to_dict(dsn)
    return {**wanted, **{k: v for k, v in given.items() if v is not None}}


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


async def open_session(where: str | Address, application_name: str) -> tuple[Connection, str]:
    """`connect`, and which server answered: the time its postmaster started."""
    connection = await _open(where if isinstance(where, Address) else Address(where), application_name)
    server = ""

    async def settings() -> None:
        nonlocal server
        row = await (await connection.execute(SESSION_SETTINGS)).fetchone()
        server = str(row and row[-1])

    try:
        # Prepared statements are switched on once the listener has proved that no transaction pooler is in the way.
        connection.prepare_threshold = None
        await within(CONNECT_TIMEOUT, connection, settings())
    except BaseException:
        await connection.close()
        raise
    return connection, server


async def _open(address: Address, application_name: str) -> Connection:
    """A session; with another login if there is one and the first is not taken.

    libpq passes no SQLSTATE on for a session that it cannot open, and the server's text is in the server's language. So
    every failure counts.
    """
    dsn = address.dsn
    try:
        return await multihost.open_any(multihost.each_host(connect_arguments(dsn, application_name)))
    except psycopg.OperationalError:
        if not address.changed_since(dsn):
            raise
    return await multihost.open_any(multihost.each_host(connect_arguments(address.dsn, application_name)))
