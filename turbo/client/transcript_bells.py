"""Rings when followed tasks have new lines in their transcripts: one session for any number of tasks, for asyncio.

    follow(task) ──▶ a shared lock on the task (client/follow_transcript) ──▶ its workers send a notification with each batch
    the last follower leaves ──▶ the session is closed

Whoever follows polls as well: where no notification can be had (a pooler, a standby, an outage), nothing rings.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from turbo import db
from turbo.client.transcript import CHANNEL
from turbo.sql import statement

LOOK_SECONDS = 0.25
"""Between two looks at who follows what."""

AGAIN_SECONDS = 5.0
"""After a session that was lost."""


class TranscriptBells:
    """Closes its session by itself; `close` does it at once."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def follow(self, task_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the task has new lines."""
        event = asyncio.Event()
        self._followers.setdefault(task_id, set()).add(event)
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        try:
            yield event
        finally:
            self._followers[task_id].discard(event)
            if not self._followers[task_id]:
                del self._followers[task_id]

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while self._followers:
            try:
                if not await self._session():
                    return
            except (psycopg.Error, OSError):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _session(self) -> bool:
        """Until nobody follows any more. False: no notifications are to be had here."""
        connection = await db.open_async_client(self._dsn, "turbo web")
        try:
            row = await (await connection.execute("select pg_backend_pid()")).fetchone()
            if row is None or row[0] != connection.info.backend_pid:  # a pooler: the locks would be another client's
                return False
            await connection.execute(f"listen {CHANNEL}")
            locked: set[str] = set()
            while self._followers:
                for task_id in self._followers.keys() - locked:
                    await connection.execute(statement("client/follow_transcript"), {"task_id": task_id})
                    self._ring(task_id)  # for what came before the lock
                for task_id in locked - self._followers.keys():
                    await connection.execute(statement("client/unfollow_transcript"), {"task_id": task_id})
                locked = set(self._followers)
                async for notify in connection.notifies(timeout=LOOK_SECONDS):
                    self._ring(notify.payload)
            return True
        finally:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    def _ring(self, task_id: str) -> None:
        for event in self._followers.get(task_id, ()):
            event.set()
