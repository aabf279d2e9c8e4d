"""Connections: how turbo reaches PostgreSQL, and how it rides out its absence.

A worker has few sessions, each with one purpose: the listener's, the heartbeat's, and the lanes of the claimer and the
finisher. A `Lane` is one connection, opened on demand and thrown away after any connection error; whoever uses it
retries with `Backoff`, capped at one second, because a pool's own reconnect delays grow past a minute while a new
primary has been taking writes for most of it.

Every session: keepalives 10/5/3 (a half-open connection is noticed in 25 s), `tcp_user_timeout` where the platform has
it, `target_session_attrs=read-write` (a multi-host DSN finds the primary), read committed, and an
`idle_in_transaction_session_timeout`, because the row locks of a vanished host would hide rows behind SKIP LOCKED.
"""

import asyncio
import math
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import psycopg
from psycopg import AsyncConnection, conninfo
from psycopg.rows import TupleRow

from turbo.db import multihost as hosts

CONNECT_TIMEOUT = 5
"""Seconds to wait for one host of a DSN: the default of 130 s would outlast any failover."""

TRANSIENT_CLASSES = ("08", "53", "58")
TRANSIENT_CODES = frozenset(
    {
        "57P01",
        "57P02",
        "57P03",
        "57P05",
        "57014",
        "25006",
        "25P03",
        "25P04",
        "40001",
        "40003",
        "40P01",
        "55P03",
        "55006",
    }
)
"""SQLSTATEs after which the same statement may succeed later: connection, resources, system errors; shutdown, crash and
start-up (57P04, a dropped database, is none of them); a cancelled statement; a primary that is still read-only just after
its promotion; serialisation, deadlock, locks."""

SESSION_SETTINGS = (
    "select set_config('default_transaction_isolation', 'read committed', false),"
    " set_config('idle_in_transaction_session_timeout', '60s', false),"
    " set_config('client_min_messages', 'warning', false),"
    " set_config('jit', 'off', false), pg_catalog.pg_postmaster_start_time()::text"
)
"""Their last column tells one server, or one start of it, from another."""

PLAN_SETTINGS = (
    "select set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false)"
)
"""For prepared statements, on sessions that are known to be this worker's own (behind a transaction pooler they would be
left to strangers). A plan made while a table was small is kept until its next ANALYZE; made with a sequential scan, or by
an index of all pending rows, it would make every claim cost the whole backlog for the first minutes of a burst."""

Connection = AsyncConnection[TupleRow]


class LaneClosed(psycopg.OperationalError):
    """The worker leaves, and its lane has ended: trying again is in vain."""


def is_transient(error: BaseException) -> bool:
    """Whether waiting can help: the database is away, busy, or changing its primary."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # raised by the client: no connection, connection lost
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate in TRANSIENT_CODES or error.sqlstate.startswith(TRANSIENT_CLASSES)


def connect_arguments(dsn: str, application_name: str) -> dict[str, str | int]:
    """libpq's keywords for a turbo session, over what `dsn` says (a DSN that sets one of them keeps its own)."""
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


def describe(dsn: str) -> str:
    """Where a DSN points, for messages: `host:port/dbname`, never a password."""
    try:
        known = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "an unreadable DSN"
    host, port = str(known.get("host") or "the default host"), known.get("port")
    return f"{host}{f':{port}' if port else ''}/{known.get('dbname') or ''}"


def reason(error: BaseException) -> str:
    """One line of what went wrong, for a log."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def why_unreachable(error: BaseException) -> str:
    """One line of why no session could be had, and what to look at."""
    said = reason(error).removeprefix("connection failed: ").partition(" Is the server running")[0].rstrip(".")
    if "does not exist" in said and "database" in said:
        return f"{said}: create it first (createdb, or CREATE DATABASE)"
    if "FATAL" in said or "session is read-only" in said:  # it is there, and says no
        return said
    return f"{said}. Is it running?"


class Backoff:
    """Delays in seconds with full jitter: uniform in (0, min(cap, base * 2^n)]. `reset()` after a success."""

    def __init__(self, base: float = 0.05, cap: float = 1.0) -> None:
        self.base, self.cap, self.failures = base, cap, 0

    def next(self) -> float:
        ceiling = min(self.cap, self.base * 2 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(ceiling / 10, ceiling)

    def reset(self) -> None:
        self.failures = 0


def cut(connection: "psycopg.AsyncConnection[TupleRow] | psycopg.Connection[TupleRow]") -> None:
    """End a connection's socket now. Whoever waits on it gets an OperationalError at once.

    Cancelling a psycopg call asks the server to cancel first and waits for its answer: with a frozen server that took
    15 s where 5 were allowed.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


async def within(seconds: float, connection: Connection, work: Awaitable[object]) -> None:
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
    task.result()


async def _cut_off(connection: Connection, task: "asyncio.Future[object]") -> None:
    """End the connection under `task`; how that ended it is no news, not even for asyncio's log."""
    cut(connection)
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class LaneObserver(Protocol):
    """Who wants to know of a lane's sessions (turbo.worker.recovery_gate)."""

    def opened(self, server: str) -> None: ...
    def failed(self, error: Exception, connecting: bool) -> None: ...


async def connect(dsn: str, application_name: str) -> Connection:
    """An autocommit session with turbo's settings. Raises psycopg.OperationalError when the database is away."""
    return (await open_session(dsn, application_name))[0]


async def open_session(dsn: str, application_name: str) -> tuple[Connection, str]:
    """`connect`, and which server answered: the moment its postmaster started."""
    connection = await hosts.open_any(hosts.each_host(connect_arguments(dsn, application_name)))
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


class Lane:
    """One connection with one user at a time. A connection that failed is closed; the next use opens a new one, until
    the lane has ended (`end_in`, `over`)."""

    def __init__(
        self, dsn: str, application_name: str, watches: LaneObserver | None = None, *, deadline: float = 60.0
    ) -> None:
        """`deadline`: seconds that a use may take, unless it says otherwise."""
        self._dsn = dsn
        self._application_name = application_name
        self._watches = watches
        self._deadline = deadline
        self._connection: Connection | None = None
        self._server = ""
        self._turn = asyncio.Lock()
        self._tuned = False
        self._used_since: float | None = None  # monotonic
        self._opening: asyncio.Timeout | None = None
        self._ends = math.inf  # monotonic
        self.prepare = False

    async def open(self) -> None:
        """Open the connection if there is none, for what must be known of the server before a statement is sent."""
        if self._connection is None or self._connection.closed:
            async with self._turn:
                await self._opened()

    async def _opened(self) -> Connection:
        if time.monotonic() >= self._ends:
            raise LaneClosed("this worker is leaving, and has waited long enough for the database")
        if self._connection is None or self._connection.closed:
            try:
                async with asyncio.timeout(None) as self._opening:
                    self._connection, self._server = await open_session(self._dsn, self._application_name)
            except (psycopg.Error, OSError) as error:
                self._failed(error, connecting=True)
                raise
            finally:
                self._opening = None
            self._tuned = False
            if self._watches is not None:
                self._watches.opened(self._server)
        return self._connection

    def _failed(self, error: psycopg.Error | OSError, *, connecting: bool) -> None:
        if self._watches is not None:
            self._watches.failed(error, connecting)

    @asynccontextmanager
    async def use(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        """The lane's connection, for one statement or one transaction.

        A use that takes longer than `deadline` seconds loses its connection (a frozen server would hold it for ever) and
        sees OperationalError. Any exception that leaves the block discards the connection unless it is still sound.
        """
        async with self._turn:
            connection = await self._opened()
            connection.prepare_threshold = 0 if self.prepare else None
            timer = asyncio.get_running_loop().call_later(deadline or self._deadline, cut, connection)
            self._used_since = time.monotonic()
            try:
                if self.prepare and not self._tuned:
                    await connection.execute(PLAN_SETTINGS)
                    self._tuned = True
                yield connection
            except BaseException as error:
                if not isinstance(error, psycopg.Error) or connection.broken or is_transient(error):
                    if isinstance(error, psycopg.Error):
                        self._failed(error, connecting=False)
                    self._connection = None
                    await connection.close()
                raise
            finally:
                timer.cancel()
                self._used_since = None

    def leave(self, moved_to: str | None, waiting: float = 0.0) -> None:
        """The database is on server `moved_to` now: who waits for an answer of another gets an error at once. None:
        whoever has waited for `waiting` seconds."""
        waited = 0.0 if self._used_since is None else time.monotonic() - self._used_since
        if self._connection is not None and self._server != moved_to and waited >= waiting:
            cut(self._connection)

    def end_in(self, seconds: float) -> None:
        """Its last `seconds`: then whoever still waits for an answer gets an error, and so does every later use. Of
        several such moments the first one counts."""
        ends = time.monotonic() + seconds
        if ends < self._ends:
            self._ends = ends
            if seconds > 0:
                asyncio.get_running_loop().call_later(seconds, self._end)
            else:
                self._end()

    def _end(self) -> None:
        self._ends = min(self._ends, time.monotonic())
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
        if self._connection is not None:
            cut(self._connection)

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        """Nobody waits for an answer on this lane within the block: its user may be cancelled. (The cancelling of a
        psycopg call waits for the server, see `cut`.)"""
        async with self._turn:
            yield

    async def over(self) -> None:
        """End it now. When this returns, whoever used it has got the error."""
        self.end_in(0.0)
        async with self.idle():
            pass

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
