"""A lane: one connection with one user at a time, opened on demand and discarded after any connection error.

    closed ──use──▶ open ──connection error, outdated plans, or no answer within the deadline──▶ closed ──use──▶ open …
                     └── end_in, over: the worker stops ──▶ ended: every further use raises LaneClosed

Its users retry with a Backoff capped at one second: a pool's own reconnect delays grow past a minute, while a new primary
has been taking writes for most of it (docs/adr/0002).
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import psycopg
from psycopg import errors

from turbo.db import search_path
from turbo.db.address import Address
from turbo.db.connect import Connection, cut, open_session
from turbo.db.errors import LaneClosed, LaneGivesWay, is_outdated, is_transient

PLAN_SETTINGS = (
    "select set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false)"
)
"""For prepared statements, on sessions that are known to be this worker's own. Behind a transaction pooler they would be left to
other clients; there each statement is planned anew, and sequential scans are switched off for it alone. A plan made while a table
was small is kept until its next ANALYZE; made with a sequential scan, or by an index of all pending rows, it would make every claim
cost the whole backlog for the first minutes of a burst."""


LOCK_SETTINGS = "select set_config('lock_timeout', %s, false)"


def _leaves_it_usable(error: psycopg.Error) -> bool:
    """Whether the session goes on as before: the statement was refused, or waited too long for a lock."""
    return isinstance(error, errors.LockNotAvailable) or not is_transient(error)


class LaneObserver(Protocol):
    """Follows a lane's sessions (turbo.worker.recovery_gate, turbo.worker.sessions)."""

    def opened(self, server: str) -> None: ...
    def failed(self, error: Exception, connecting: bool) -> None: ...


class Lane:
    """One connection with one user at a time. A connection that failed is closed; the next use opens a new one, until
    the lane has ended (`end_in`, `over`)."""

    def __init__(
        self,
        where: str | Address,
        application_name: str,
        observer: LaneObserver | None = None,
        *,
        deadline: float = 60.0,
        lock_seconds: float | None = None,
        gives_way: Callable[[], bool] | None = None,
    ) -> None:
        """`deadline`: seconds that a use may take, unless the use sets its own. `lock_seconds`: a statement that waits so long
        for a lock fails (LockNotAvailable). `gives_way`: while it returns True, no
        session is opened."""
        self._where = where
        self._apart = isinstance(where, Address) and where.apart
        self._application_name = application_name
        self._observer = observer
        self._deadline = deadline
        self._lock_seconds = lock_seconds
        self._gives_way = gives_way
        self._connection: Connection | None = None
        self._server = ""
        self._turn = asyncio.Lock()
        self._tuned = False
        self._used_since: float | None = None  # monotonic
        self._opening: asyncio.Timeout | None = None
        self._ends = math.inf  # monotonic
        self._prepare = False
        self._password = ""

    def prepare_statements(self, yes: bool) -> None:
        """Whether statements are prepared from now on: only where no transaction pooler is in the way. Where the listener goes another
        way (Address.listen), it proves nothing about this lane, so only a session that no pooler lends prepares them."""
        self._prepare = yes

    @property
    def password(self) -> str:
        """What its last session has logged in with, from wherever libpq had it; '' for none."""
        return self._password

    async def open(self) -> None:
        """Open the connection if there is none, so that the observer knows the server before a statement is sent."""
        if self._connection is None or self._connection.closed:
            async with self._turn:
                await self._opened()

    async def _opened(self) -> Connection:
        if time.monotonic() >= self._ends:
            raise LaneClosed("this worker is stopping, and has waited long enough for the database")
        if self._connection is None or self._connection.closed:
            if self._gives_way is not None and self._gives_way():
                raise LaneGivesWay("this worker's claims and results need the database's sessions")
            try:
                async with asyncio.timeout(None) as self._opening:
                    self._connection, self._server = await open_session(
                        self._where, self._application_name, self._lock_seconds
                    )
            except (psycopg.Error, OSError) as error:
                self._failed(error, connecting=True)
                raise
            finally:
                self._opening = None
            self._tuned = False
            self._password = self._connection.info.password
            if self._observer is not None:
                self._observer.opened(self._server)
        return self._connection

    def _failed(self, error: psycopg.Error | OSError, *, connecting: bool) -> None:
        if self._observer is not None:
            self._observer.failed(error, connecting)

    @asynccontextmanager
    async def use(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        """The lane's connection, for one statement or one transaction.

        A use that takes longer than `deadline` seconds loses its connection (a frozen server would hold it for ever) and
        sees OperationalError. After any exception in the block, the connection is discarded unless it still works. One whose
        plans are outdated does not (db.is_outdated).
        """
        async with self._turn:
            connection = await self._opened()
            pooled = self._apart and search_path.is_shared(connection)
            connection.prepare_threshold = 0 if self._prepare and not pooled else None
            timer = asyncio.get_running_loop().call_later(deadline or self._deadline, cut, connection)
            self._used_since = time.monotonic()
            try:
                if self._prepare and not self._tuned:
                    if pooled:
                        search_path.plan_by_index(connection)
                    else:
                        await self._tune(connection)
                    self._tuned = True
                yield connection
            except BaseException as error:
                if connection.broken or not (isinstance(error, psycopg.Error) and _leaves_it_usable(error)):
                    if isinstance(error, psycopg.Error):
                        self._failed(error, connecting=False)
                    await self._discard(connection)
                elif is_outdated(error):
                    await self._discard(connection)
                raise
            finally:
                timer.cancel()
                self._used_since = None

    async def _tune(self, connection: Connection) -> None:
        await search_path.keep(connection)
        await connection.execute(PLAN_SETTINGS)
        if self._lock_seconds is not None:
            await connection.execute(LOCK_SETTINGS, [f"{self._lock_seconds * 1000:.0f}"])

    async def _discard(self, connection: Connection) -> None:
        self._connection = None
        await connection.close()

    def leave(self, moved_to: str | None, waiting: float = 0.0) -> None:
        """The database is on server `moved_to` now: a use that waits for another server's answer fails at once. None: a
        use that has waited for `waiting` seconds does."""
        waited = 0.0 if self._used_since is None else time.monotonic() - self._used_since
        if self._connection is not None and self._server != moved_to and waited >= waiting:
            cut(self._connection)

    def end_in(self, seconds: float) -> None:
        """End it in `seconds`: a use that still waits for an answer then fails, and so does every later use. The earliest of
        several such times counts."""
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
        """No use waits for an answer within the block, so the lane's user may be cancelled. (Cancelling a psycopg call
        waits for the server, see `cut`.)"""
        async with self._turn:
            yield

    async def over(self) -> None:
        """End it now. When this returns, a use under way has failed."""
        self.end_in(0.0)
        async with self.idle():
            pass

    async def close_when_idle(self) -> None:
        """Close the session once no use waits for an answer; the next use opens another."""
        async with self._turn:
            await self.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
