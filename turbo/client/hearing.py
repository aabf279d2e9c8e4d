"""Hearing notifications, for clients that wait (turbo.client.waiting). A blocking client LISTENs on its own connection. An asynchronous
client uses another one, because several tasks share its own.

With a `listen_dsn`, both use another one, which leads to PostgreSQL itself while the client's own goes through a pooler. It must
lead to the same server and database, else nothing that is waited for would ever be heard: then they poll.

A pooler answers LISTEN, too, and the backend that heard it is another client's next. It has made its own key for the session, so it is
known by the backend's pid.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, LiteralString

import psycopg

from turbo import db
from turbo.client.operations import Ear
from turbo.db.identity import SERVER

log = logging.getLogger(__name__)

EVERYBODY: Final = "turbo_done"
"""Where transactions tell that cannot see who waits (migrations/0027_waiting.sql)."""

PREFIX: Final = "turbo_done_"
DEAF_SECONDS = 30.0
"""After this long without a session that hears, another one is tried."""

LOST_SECONDS = 2.0
"""Between the loss of a session and the next one."""

_PID: LiteralString = "select pg_catalog.pg_backend_pid()"
_PLACE: LiteralString = f"select pg_catalog.pg_backend_pid(), {SERVER}"
ASK_SERVER: LiteralString = f"select {SERVER}"


def listen_dsn_for(dsn: str, given: str | None) -> str:
    """Where a client of `dsn` listens: `given`, else TURBO_LISTEN_DSN, which belongs to TURBO_DSN; '' for its own connection."""
    if given is not None:
        return given
    return os.environ.get("TURBO_LISTEN_DSN", "") if dsn == os.environ.get("TURBO_DSN", "") else ""


def _warn(said: bool) -> None:
    if not said:
        log.warning(
            "listen_dsn (TURBO_LISTEN_DSN) leads to another server or database than the client's DSN, or through a pooler: nothing "
            "can be heard there, so this client polls"
        )


def _listen(channel: str) -> psycopg.sql.Composed:
    return psycopg.sql.SQL("listen {}; listen {}").format(
        psycopg.sql.Identifier(PREFIX + channel), psycopg.sql.Identifier(EVERYBODY)
    )


class Hearing:
    """Of a blocking client, on its connection or by `listen_dsn`, while one of its operations waits."""

    def __init__(self, listen_dsn: str = "") -> None:
        self._listen_dsn = listen_dsn
        self._deaf_until = 0.0
        self._warned = False
        self._channel = secrets.token_hex(12)
        self._connection: psycopg.Connection[Any] | None = None
        self._deaf: psycopg.Connection[Any] | None = None
        self._session = self._heard = 0

    def listen(self, connection: psycopg.Connection[Any]) -> Ear | None:
        """None: nothing arrives on this connection. Raises psycopg.OperationalError if it is lost."""
        if self._listen_dsn:
            return self._listen_apart(connection)
        if connection is self._deaf:
            return None
        if connection is not self._connection:
            pid = connection.execute(_PID, prepare=False).fetchone()
            try:
                if pid is None or pid[0] != connection.info.backend_pid:
                    raise psycopg.NotSupportedError("a pooler")
                connection.execute(_listen(self._channel), prepare=False)
            except psycopg.Error:
                if connection.closed:
                    raise
                self._deaf = connection
                return None
            self._connection = connection
            self._session += 1
        return Ear(self._session, self._heard, self._channel)

    def _listen_apart(self, connection: psycopg.Connection[Any]) -> Ear | None:
        if self._connection is None or self._connection.closed:
            if time.monotonic() < self._deaf_until:
                return None
            row = connection.execute(ASK_SERVER, prepare=False).fetchone()
            self._connection = self._opened(None if row is None else str(row[0]))
            if self._connection is None:
                self._deaf_until = time.monotonic() + DEAF_SECONDS
                return None
            self._session += 1
        return Ear(self._session, self._heard, self._channel)

    def _opened(self, server: str | None) -> psycopg.Connection[Any] | None:
        """A session that hears what happens on `server`."""
        try:
            connection = db.open_client(self._listen_dsn, "turbo wait")
        except (psycopg.Error, OSError):
            return None
        try:
            if connection.execute(_PLACE, prepare=False).fetchone() == (connection.info.backend_pid, server):
                connection.execute(_listen(self._channel), prepare=False)
                return connection
            _warn(self._warned)
            self._warned = True
        except (psycopg.Error, OSError):
            pass
        connection.close()
        return None

    def wait(self, seconds: float, ear: Ear) -> None:
        """At most so long, and no longer than until more is heard than `ear` had."""
        if ear != Ear(self._session, self._heard, self._channel) or self._connection is None:
            return
        try:
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):  # also what came during other statements
                self._heard += 1
        except (psycopg.Error, OSError):
            if self._listen_dsn:
                self._connection.close()
            time.sleep(min(seconds, LOST_SECONDS))  # the next statement finds it closed, and opens another

    def stop(self) -> None:
        """Nobody waits any more."""
        connection, self._connection = self._connection, None
        if connection is not None and self._listen_dsn:
            connection.close()
        elif connection is not None and not connection.closed:
            with suppress(psycopg.Error, OSError):
                connection.execute("unlisten *", prepare=False)


class AsyncHearing:
    """Of an asynchronous client, on a connection of its own, while any of its operations waits."""

    def __init__(self, dsn: str, server: Callable[[], Awaitable[str]] | None = None) -> None:
        """`server`: which one the client's own connection is on (turbo.db.identity.SERVER), where `dsn` may lead to another one."""
        self._dsn = dsn
        self._server = server
        self._warned = False
        self._channel = secrets.token_hex(12)
        self._turn = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._deaf_until = 0.0
        self._session = self._heard = 0
        self._changed = asyncio.Event()

    async def listen(self) -> Ear | None:
        """None: nothing arrives, at present."""
        async with self._turn:
            if self._hearing is None or self._hearing.done():
                if time.monotonic() < self._deaf_until:
                    return None
                if (connection := await self._opened()) is None:
                    self._deaf_until = time.monotonic() + DEAF_SECONDS
                    return None
                self._connection = connection
                self._session += 1
                self._hearing = asyncio.create_task(self._hear(connection))
            return Ear(self._session, self._heard, self._channel)

    async def wait(self, seconds: float, ear: Ear) -> None:
        """At most so long, and no longer than until more is heard than `ear` had."""
        changed = self._changed
        if ear == Ear(self._session, self._heard, self._channel):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def stop(self) -> None:
        """Nobody waits any more."""
        connection, self._connection = self._connection, None
        hearing, self._hearing = self._hearing, None
        if connection is not None and hearing is not None:
            db.cut(connection)
            await asyncio.wait({hearing})

    async def _opened(self) -> psycopg.AsyncConnection[Any] | None:
        try:
            connection = await db.open_async_client(self._dsn, "turbo wait")
        except (psycopg.Error, OSError):
            return None
        try:
            pid, server = await (await connection.execute(_PLACE, prepare=False)).fetchone() or (None, None)
            there = self._server is None or await self._server() == server
            if there and pid == connection.info.backend_pid:
                await connection.execute(_listen(self._channel), prepare=False)
                return connection
            if self._server is not None:
                _warn(self._warned)
                self._warned = True
        except (psycopg.Error, OSError):
            pass
        await connection.close()
        return None

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        try:
            async for _ in connection.notifies():
                self._ring()
        except (psycopg.Error, OSError):
            pass
        finally:
            if connection is self._connection:  # lost
                self._deaf_until = time.monotonic() + LOST_SECONDS
            self._ring()
            db.cut(connection)
            await connection.close()

    def _ring(self) -> None:
        self._heard += 1
        self._changed.set()
        self._changed = asyncio.Event()
