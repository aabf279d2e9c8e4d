"""The page's sessions with the database: a few, shared by all requests, each with a limit of time for every statement.

What a page may see and change is what the role of these sessions may.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from turbo.client.async_client import AsyncClient
from turbo.client.operations import Query, QueryResult, Request

SESSIONS = 6
"""For page loads and actions together; further ones wait for their turn."""

STATEMENT_SECONDS = 10.0


class WebClient(AsyncClient):
    """Whose statements end: a frozen server must not hold a page for ever."""

    _statement_seconds = STATEMENT_SECONDS

    @contextmanager
    def acting_for(self, person: str | None) -> Iterator[None]:
        """What changes meanwhile is changed on behalf of this person, in the audit trail."""
        self._person = person
        try:
            yield
        finally:
            self._person = None


class PacedClient(WebClient):
    """Sends at most so many statements a second: that of a poller, whatever it asks. One asyncio task uses it."""

    def __init__(self, dsn: str, per_second: float) -> None:
        super().__init__(dsn)
        self._pause = 1 / per_second
        self._next = 0.0

    async def _perform(self, step: Request) -> QueryResult:
        if isinstance(step, Query):
            now = asyncio.get_running_loop().time()
            self._next = max(self._next, now)
            await asyncio.sleep(self._next - now)
            self._next += self._pause
        return await super()._perform(step)


class Database:
    """Hands out sessions. They are opened when they are needed, and kept."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._room = asyncio.Semaphore(SESSIONS)
        self._idle: list[WebClient] = []

    @asynccontextmanager
    async def client(self, person: str | None = None) -> AsyncIterator[WebClient]:
        """One for a request. `person`: who stands behind it, for the audit trail. Raises psycopg.Error from its statements; a session
        that was lost is opened again."""
        async with self._room:
            client = self._idle.pop() if self._idle else WebClient(self.dsn)
            try:
                with client.acting_for(person):
                    yield client
            finally:
                self._idle.append(client)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()
