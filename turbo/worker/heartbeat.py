"""The heartbeat: "I am alive", from a thread and a connection of its own.

An executor that blocks the event loop must not make the fleet think this worker dead, so nothing here shares anything
with that loop but what `tell` posts to it. One statement a beat (sql/workers/beat.sql): it also counts the silent, and holds the
leader's lease. The thread rides out any outage of the database; an outage costs beats, and kills nobody.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from turbo import db
from turbo.db.connect import Backoff, Connection
from turbo.observability.metrics import Metrics
from turbo.runtime.background import Crashed, report
from turbo.sql import statement

log = logging.getLogger(__name__)

LEADER_LEASE_BEATS = 3
BEAT_DEADLINE = 5.0
"""A frozen server is noticed within a beat and this, sooner than a cluster manager's default (20 s) gives it up. Nothing
else notices it while the worker is idle, so the beat also tells that it has found another server."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat brought back."""

    alive: bool  # False: the row is gone or was declared dead; register again
    leads: bool
    died: tuple[str, ...]
    to_rescue: bool
    moved_to: str | None = None  # the server (db.open_session), in the first beat after another one
    after_silence: bool = False  # the one before got no answer in time: other sessions may wait in vain, too


class Heartbeat:
    def __init__(
        self,
        dsn: str,
        worker_id: str,
        metrics: Metrics,
        *,
        seconds: float,
        busy: Callable[[], int],
        tell: Callable[[Beat], None],
        crashed: Crashed,
    ) -> None:
        """`busy`, `tell` and `crashed` are called in the thread. `seconds` is the interval between beats."""
        self._dsn = dsn
        self._worker_id = worker_id
        self._metrics = metrics
        self._seconds = seconds
        self._busy = busy
        self._tell = tell
        self._crashed = crashed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._trouble = False
        self.may_lead = True
        self.last_beat = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = BEAT_DEADLINE) -> None:
        """End the thread, whose beat under way is cut off; waits for it, at most `seconds`."""
        self._stopping.set()
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(timeout=seconds)

    def _run(self) -> None:
        asyncio.run(self._beats())

    async def _beats(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        beating = asyncio.create_task(self._beat_on(), name="heartbeat")
        if not self._stopping.is_set():
            await asyncio.wait({beating, asyncio.create_task(self._stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        beating.cancel()
        await asyncio.wait({beating})
        report(beating, self._crashed)  # else the fleet would take this worker for dead, and it would work on

    async def _beat_on(self) -> None:
        backoff = Backoff()
        connection: Connection | None = None
        server = told = ""
        silence = False
        try:
            while True:
                try:
                    if connection is None:
                        connection, server = await db.open_session(self._dsn, f"turbo heartbeat {self._worker_id}")
                    beat = await self._beat(connection)
                except (psycopg.Error, OSError) as error:
                    silence = silence or isinstance(error, TimeoutError)
                    if not self._trouble:
                        log.warning("no heartbeat: %s", db.reason(error))
                        self._trouble = True
                    if connection is not None:
                        db.cut(connection)
                        await connection.close()
                        connection = None
                    await asyncio.sleep(backoff.next())
                    continue
                if self._trouble:
                    log.info("heartbeat is back")
                    self._trouble = False
                backoff.reset()
                self.last_beat = time.monotonic()
                self._metrics.heartbeat.set(time.time())
                moved_to = server if told not in ("", server) else None
                self._tell(replace(beat, moved_to=moved_to, after_silence=silence))
                told, silence = server, False
                # A little less than the interval: jitter must not make a beat late in the eyes of those who count.
                await asyncio.sleep(self._seconds * random.uniform(0.9, 1.0))
        finally:
            if connection is not None:
                await connection.close()

    async def _beat(self, connection: Connection) -> Beat:
        row: tuple[Any, ...] | None = None

        async def ask() -> None:
            nonlocal row
            parameters = {
                "worker": self._worker_id,
                "busy": self._busy(),
                "may_lead": self.may_lead,
                "leader_lease": LEADER_LEASE_BEATS * self._seconds,
            }
            row = await (await connection.execute(statement("workers/beat"), parameters)).fetchone()

        await db.within(BEAT_DEADLINE, connection, ask())
        assert row is not None
        alive, leads, died, to_rescue = row[:4]
        return Beat(bool(alive), bool(leads), tuple(died), bool(to_rescue))
