"""The listener: one session that LISTENs, proves that it hears, and says so when it does not.

    connecting ──LISTEN, proof of delivery──▶ up ──error, or a poll without an answer──▶ connecting
         │                                                                                  ▲
         └──the proof did not arrive──▶ deaf ──────────try again every 30 s─────────────────┘

A notification is a hint: whatever it says is read again from the rows. So a lost one costs time, never a task, and the
fallback poll bounds that time. The poll runs on the LISTEN session itself, with a deadline on this side, because a
frozen server or a half-open connection is not noticed otherwise (nothing in 43 s).

Deaf is what a pooler in transaction mode makes of a listener: LISTEN answers OK and nothing arrives, or it arrives at
somebody else. The proof is sent from another session, or such a pooler would deliver it by accident. A deaf worker is
never idle (it must not hold the gate open) and polls every second.

Whoever wants to know whether a worker hears asks on the worker's own channel; one that hears answers on `turbo_heard`.
"""

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import psycopg
from psycopg import Notify
from psycopg import sql as compose

from turbo import db
from turbo.db.claim_store import PollResult, Queue
from turbo.db.connect import Backoff, Connection
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service

log = logging.getLogger(__name__)

CONTROL = "turbo_ctl"
QUEUE_PREFIX = "turbo_q_"
HEARD = "turbo_heard"
QUESTION = "do you hear? "
"""What a question begins with; the rest comes back with the answer: `<rest> <worker id>`."""

PROBE_DEADLINE = 5.0
POLL_DEADLINE = 10.0
DEAF_POLL_SECONDS = 1.0
DEAF_RETRY_SECONDS = 30.0
RECONNECT_SECONDS = 0.5
"""The longest pause between two attempts: others that are back wait 0.75 s for this worker (turbo.worker.recovery_gate)."""


def own_channel(worker_id: str) -> str:
    """A worker's own channel: its proof of delivery, and questions."""
    return f"turbo_w_{worker_id}"[:63]


_CALL = re.compile(r"([a-z0-9_-]{1,40}) (\d)")
"""What the insert trigger says on a worker's own channel: which queue, and the worker's place in the line."""


class ListenerEvents(Protocol):
    """Whom the listener tells."""

    def wake(self, queue: str) -> None:
        """A queue may have a runnable task."""

    def called(self, queue: str, place: int) -> None:
        """It may, and of many idle workers this one is called for it (`place` 0) or in reserve (its turn, from 1 on)."""

    def control(self, message: str) -> None:
        """Something about workers, queues or accounts changed: read it again."""

    def swept(self, sweep: PollResult) -> None:
        """What a fallback poll saw."""

    async def connected(self, *, hears: bool) -> None:
        """After every (re)connect: reassert, rewrite the idle flag, sweep."""

    def disconnected(self) -> None:
        """The session is lost; notifications may have been missed."""


class Listener(Service):
    name = "listener"

    def __init__(
        self,
        dsn: str,
        queue: Queue,
        queues: Sequence[str],
        told: ListenerEvents,
        metrics: Metrics,
        *,
        poll_seconds: float,
    ) -> None:
        super().__init__()
        self._dsn = dsn
        self._queue = queue
        self._queues = tuple(queues)
        self._told = told
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._own_channel = own_channel(queue.worker_id)
        self._probed: asyncio.Event | None = None
        self._probe_payload = ""
        self._answering: asyncio.Task[None] | None = None
        self._announced = False
        self._trouble: str | None = None
        self._connection: Connection | None = None
        self._server = ""
        self.hears = False
        self.on_failure: Callable[[Exception, bool], None] = lambda _error, _connecting: None
        """Told of every lost session, and of every one that could not be had."""

    def leave(self, moved_to: str | None) -> None:
        """The database is on server `moved_to` now: a session on another one waits in vain. None: any may."""
        if self._connection is not None and self._server != moved_to:
            db.cut(self._connection)

    async def run(self) -> None:
        backoff = Backoff(cap=RECONNECT_SECONDS)
        while True:
            try:
                connection, self._server = await db.open_session(self._dsn, f"turbo listener {self._queue.worker_id}")
            except (psycopg.Error, OSError) as error:
                self.on_failure(error, True)
                self._say("listener cannot connect: %s", error)
                await asyncio.sleep(backoff.next())
                continue
            self._connection = connection
            try:
                hears = await self._subscribe(connection)
                await self._told.connected(hears=hears)
                backoff.reset()
                await (self._listen(connection) if hears else self._poll_deaf(connection))
            except (psycopg.Error, OSError, TimeoutError) as error:
                self.on_failure(error, False)
                self._say("listener lost its session: %s", error)
            finally:
                self.hears, self._connection = False, None
                self._metrics.listener_up.set(0)
                db.cut(connection)  # a graceful goodbye would wait for a server that may be frozen
                await connection.close()
            self._told.disconnected()
            self._metrics.listener_reconnects.inc()
            await asyncio.sleep(backoff.next())

    async def _subscribe(self, connection: Connection) -> bool:
        """LISTEN to everything, then see whether a notification arrives."""
        channels = [CONTROL, self._own_channel, *(QUEUE_PREFIX + q for q in self._queues)]
        listen = compose.SQL("; ").join(compose.SQL("listen {}").format(compose.Identifier(c)) for c in channels)
        await db.within(POLL_DEADLINE, connection, connection.execute(listen))
        self.hears = await self._proved(connection)
        if self.hears:
            self._metrics.listener_up.set(1)
            if not self._announced:
                for name in self._queues:
                    log.info("listening on channel %s%s", QUEUE_PREFIX, name)
                self._announced = True
            elif self._trouble is not None:
                log.info("listener is back: notifications arrive again")
            self._trouble = None
        return self.hears

    async def _proved(self, connection: Connection) -> bool:
        """One NOTIFY to itself, sent from another session."""
        self._probed, self._probe_payload = asyncio.Event(), secrets.token_hex(8)
        hearing = asyncio.create_task(self._hear(connection, PROBE_DEADLINE, until=self._probed))
        try:
            await self._send_proof()
        except BaseException:
            self._probed.set()  # there is nothing to wait for
            raise
        finally:
            await hearing
        return self._probed.is_set()

    async def _send_proof(self) -> None:
        try:
            await self._queue.probe(self._own_channel, self._probe_payload)
        except psycopg.Error as error:
            if not db.is_transient(error):
                raise
            # That session may have died with the listener's last one, unused since: now it has a new one.
            await self._queue.probe(self._own_channel, self._probe_payload)

    async def _hear(self, connection: Connection, seconds: float, until: asyncio.Event | None = None) -> None:
        """Hand on what arrives, for up to `seconds`.

        The generator is always run to its end: breaking out of it in mid-packet would drop the rest. So it is asked for
        short stretches while a proof is awaited.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            stretch = left if until is None else min(left, 0.02)
            async for notify in connection.notifies(timeout=stretch):
                self._heard(notify)
                await asyncio.sleep(0)  # the claimer first, then the next wait: 50 us sooner
            if until is not None and until.is_set():
                return

    def _heard(self, notify: Notify) -> None:
        self._metrics.listener_delivery.set(time.time())
        if notify.channel == self._own_channel:
            if self._probed is not None and notify.payload == self._probe_payload:
                self._probed.set()
            elif notify.payload.startswith(QUESTION) and (self._answering is None or self._answering.done()):
                token = notify.payload.removeprefix(QUESTION)
                self._answering = self.jobs.start(self._answer(f"{token} {self._queue.worker_id}"), "answer to a proof")
            elif (called := _CALL.fullmatch(notify.payload)) is not None:
                self._told.called(called[1], int(called[2]))
        elif notify.channel == CONTROL:
            self._told.control(notify.payload)
        else:
            self._told.wake(notify.channel.removeprefix(QUEUE_PREFIX))

    async def _answer(self, answer: str) -> None:
        with suppress(psycopg.Error, OSError):
            await self._queue.probe(HEARD, answer)

    async def _listen(self, connection: Connection) -> None:
        while True:
            await self._hear(connection, self._poll_seconds * random.uniform(0.8, 1.0))
            await self._poll(connection)

    async def _poll_deaf(self, connection: Connection) -> None:
        self._say(
            "notifications do not arrive: LISTEN is answered, but nothing is delivered%s; is a pooler in transaction mode "
            f"in the way? Point the DSN at PostgreSQL itself or at a session-mode pool. Polling every {DEAF_POLL_SECONDS:g} s.",
            None,
        )
        for _ in range(int(DEAF_RETRY_SECONDS / DEAF_POLL_SECONDS)):
            await asyncio.sleep(DEAF_POLL_SECONDS * random.uniform(0.8, 1.0))
            await self._poll(connection)

    async def _poll(self, connection: Connection) -> None:
        async def sweep() -> None:
            self._told.swept(await self._queue.sweep(self._queues, connection))

        await db.within(POLL_DEADLINE, connection, sweep())

    def _say(self, message: str, error: BaseException | None) -> None:
        """A line per change of state, not per attempt."""
        kind = message
        if self._trouble != kind:
            self._trouble = kind
            log.warning(message, db.reason(error) if error is not None else "")
