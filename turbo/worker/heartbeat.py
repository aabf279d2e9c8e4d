"""The heartbeat: "I am alive", from a separate thread and connection.

    beating ──a beat every interval──▶ beating ──no answer, or an error──▶ reconnecting, logged once ──▶ beating

An executor that blocks the event loop must not make the fleet think that this worker is dead. So the thread shares nothing
with that loop but the beats it posts to it. Each beat is one statement (sql/workers/beat.sql), which also counts silent
workers and holds the leader's lease. The thread rides out any outage of the database: an outage costs beats, and kills
no worker.

With database.listen_dsn, beats take that way. If no session can be had there for DETOUR_SECONDS, they go where the claims go, and try
their own way again from time to time.
"""

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from turbo import db
from turbo.db.connect import Connection
from turbo.db.lane import LaneObserver
from turbo.db.worker_registry import BeatAnswer, beat
from turbo.maintenance.leadership import Leadership
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.runtime.service import Crashed, report
from turbo.worker.contact import DatabaseContact
from turbo.worker.shutdown_deadline import ShutdownDeadline
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

LEADER_LEASE_BEATS = 3
BEAT_DEADLINE = 5.0
"""A frozen server is noticed within a beat and this: sooner than a cluster manager's default (20 s) gives it up. Nothing
else notices it while the worker is idle, so a beat also reports that it found another server."""


DETOUR_SECONDS = 10.0
DIRECT_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat that the database took. `moved_to`: the server (db.open_session), in the first beat after another one.
    `after_silence`: the beat before got no answer in time, so other sessions may wait for a dead server, too."""

    answer: BeatAnswer
    moved_to: str | None = None
    after_silence: bool = False


class Heartbeat:
    """A Service (turbo.runtime.service) whose code runs in a thread."""

    name = "heartbeat"

    def __init__(
        self,
        where: str | db.Address,
        worker_id: str,
        slots: Slots,
        contact: DatabaseContact,
        need: LaneObserver,
        problems: Problems,
        leadership: Leadership,
        deadline: ShutdownDeadline,
        metrics: Metrics,
        on_beat: Callable[[Beat], None],
        *,
        seconds: float,
        asking: tuple[str, ...] = (),
        detour: db.Address | None = None,
    ) -> None:
        """`need` is told of the heartbeat's session, and `on_beat` is called, on the event loop that `start` is called from.
        `seconds` is the interval between beats; `asking`: the queues whose tasks may ask a person; `detour`: where the rest of the
        worker's sessions go, if that is another way than `where`. `deadline` bounds how long `stop` waits."""
        self._where = where
        self._worker_id = worker_id
        self._slots = slots
        self._contact = contact
        self._need = need
        self._problems = problems
        self._leadership = leadership
        self._deadline = deadline
        self._metrics = metrics
        self._on_beat = on_beat
        self._seconds = seconds
        self._asking = asking
        self._detour = detour
        self._lacking_since: float | None = None  # monotonic: since when no session could be had by `where`
        self._direct_at = math.inf  # monotonic: when to try `where` again
        self.started = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self, crashed: Crashed) -> None:
        """See Service."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(crashed,), name=self.name, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """See Service. A beat under way is cut off."""
        self._stopping.set()
        if self._own_loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._own_loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None and self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, min(BEAT_DEADLINE, self._deadline.left))

    def _run(self, crashed: Crashed) -> None:
        asyncio.run(self._beats(crashed))

    async def _beats(self, crashed: Crashed) -> None:
        self._own_loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        beating = asyncio.create_task(self._beat_on(), name=self.name)
        if not self._stopping.is_set():
            await asyncio.wait({beating, asyncio.create_task(self._stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        beating.cancel()
        await asyncio.wait({beating})
        # Without a heartbeat the fleet would take this worker for dead, and it would work on.
        report(beating, lambda name, error: self._post(crashed, name, error))

    async def _beat_on(self) -> None:
        outage = db.outage(log, "no heartbeat", "heartbeat is back")
        connection: Connection | None = None
        server = known_server = ""
        silence = False
        try:
            while True:
                try:
                    if connection is not None and time.monotonic() >= self._direct_at:
                        await connection.close()
                        connection = None
                    if connection is None:
                        connection, server = await self._open()
                        self._post(self._need.opened, server)
                    answer = await self._beat(connection)
                except db.DATABASE_ERRORS as error:
                    silence = silence or isinstance(error, TimeoutError)
                    if connection is not None:
                        db.cut(connection)
                        await connection.close()
                        connection = None
                    else:
                        self._post(self._need.failed, error, True)
                    await outage.wait(error)
                    continue
                outage.over()
                self._contact.beaten()
                self._metrics.heartbeat.set(time.time())
                moved_to = server if known_server not in ("", server) else None
                self._post(self._on_beat, Beat(answer, moved_to, silence))
                self._post(self.started.set)
                known_server, silence = server, False
                # A little less than the interval: jitter must not make a beat late in the eyes of those who count.
                await asyncio.sleep(self._seconds * random.uniform(0.9, 1.0))
        finally:
            if connection is not None:
                await connection.close()

    async def _open(self) -> tuple[Connection, str]:
        name = f"turbo heartbeat {self._worker_id}"
        self._direct_at = math.inf
        try:
            opened = await db.open_session(self._where, name)
        except db.DATABASE_ERRORS as error:
            now = time.monotonic()
            self._lacking_since = now if self._lacking_since is None else self._lacking_since
            if self._detour is None or now - self._lacking_since < DETOUR_SECONDS:
                raise
            self._post(self._need.failed, error, True)
            opened = await db.open_session(self._detour, name)
            self._direct_at = now + DIRECT_AGAIN_SECONDS
            return opened
        self._lacking_since = None
        return opened

    async def _beat(self, connection: Connection) -> BeatAnswer:
        asking = beat(
            connection,
            self._worker_id,
            busy=self._slots.busy,
            problems=self._problems.current,
            may_lead=self._leadership.may_lead,
            leader_lease=LEADER_LEASE_BEATS * self._seconds,
            asking=self._asking,
        )
        return await db.within(BEAT_DEADLINE, connection, asking)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the worker's loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)
