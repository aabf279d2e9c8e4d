"""The listener: one session that LISTENs, proves that notifications arrive, and logs when they do not.

    connecting ──LISTEN, proof of delivery──▶ up ──error, or a poll without an answer──▶ connecting
         │                                                                                  ▲
         └──the proof did not arrive──▶ deaf ──────────try again every 30 s─────────────────┘

A notification is a hint: its content is always read again from the rows. A lost one costs time, never a task, and the
fallback poll bounds that time. The poll runs on the LISTEN session itself, with a deadline on this side: a frozen server
or a half-open connection is not noticed otherwise (not in 43 s).

A pooler in transaction mode makes a listener deaf: LISTEN answers OK, and notifications arrive nowhere or at another
client. So the proof is sent from another session: such a pooler would deliver a session's own by accident. A deaf worker is
never idle (it must not hold the notify gate open) and polls every second. So does one whose proof cannot be sent, because the
server's notification queue is filling up (turbo.worker.crowding).

With database.listen_dsn the listener's session goes another way than the rest. If it cannot be had, the rest still can: so the poll is
sent there, every second, until the listener is back.

To find out whether a worker hears, ask on its own channel; a worker that hears answers on `turbo_heard`.
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

from psycopg import Notify

from turbo import db
from turbo.db.channels import CONTROL, HEARD, QUESTION, QUEUE_PREFIX, Notifier, listen, queue_channel, worker_channel
from turbo.db.connect import Connection
from turbo.domain.problem import ProblemKind
from turbo.domain.states import ControlMessage
from turbo.observability.metrics import Metrics
from turbo.runtime.backoff import Backoff
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal
from turbo.worker.poller import Poller
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)

PROOF_DEADLINE = 5.0
POLL_DEADLINE = 10.0
DEAF_POLL_SECONDS = 1.0
DEAF_RETRY_SECONDS = 30.0
RECONNECT_SECONDS = 0.5
"""The longest pause between two attempts: workers that are back wait 0.75 s for this one (turbo.worker.recovery_gate)."""

_CALL = re.compile(r"([a-z0-9_-]{1,40}) (\d)")
"""What the insert trigger sends on a worker's own channel: a queue, and this worker's rank among those it woke."""


class ProofNotSent(Exception):
    """The session that sends the proof failed; the listener's own is not to blame."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ListenerEvents(Protocol):
    """What happens to the listener's session (turbo.worker.recovery)."""

    def opened(self, server: str) -> None:
        """There is a session with this server; whether it hears is not known yet."""

    def connected(self, *, hears: bool) -> None:
        """There is a session. `hears`: notifications are proved to arrive."""

    def disconnected(self) -> None:
        """The session is lost; notifications may have been missed."""

    def failed(self, error: Exception, *, connecting: bool) -> None:
        """A session was lost, or (`connecting`) could not be had."""


class Listener(LoopService):
    """`hears`: notifications are proved to arrive. `listening` is emitted with it whenever a session has been set up."""

    name = "listener"

    def __init__(
        self,
        where: str | db.Address,
        worker_id: str,
        queues: Sequence[str],
        notifier: Notifier,
        wakeups: WakeUps,
        poller: Poller,
        events: ListenerEvents,
        problems: Problems,
        metrics: Metrics,
        *,
        reconcile: asyncio.Event,
        poll_seconds: float,
        settle: Callable[[], None] = lambda: None,
        message: Callable[[str], None] = lambda _words: None,
        schedule: Callable[[str], None] = lambda _words: None,
        budgets: Callable[[], None] = lambda: None,
        subscriptions: Callable[[], None] = lambda: None,
        woken: Callable[[str], None] = lambda _queue: None,
        apart: bool = False,
    ) -> None:
        """`reconcile` is set when a run of this worker is to be stopped. `poll_seconds`: between fallback polls. `settle` is called
        when there is something for the settlers of the fleet, `message` with what follows ControlMessage.MESSAGE, `schedule` with
        what follows ControlMessage.SCHEDULE, `budgets` when one was written, closed or opened, `subscriptions` when one was written,
        `woken` with the queue of each wake-up. `apart`: the claims' session goes another way than the listener's."""
        super().__init__()
        self._apart = apart
        self._beside: asyncio.Task[None] | None = None  # a poll on the claims' session
        self._beside_at = 0.0  # monotonic
        self._where = where
        self._worker_id = worker_id
        self._queues = tuple(queues)
        self._notifier = notifier
        self._wakeups = wakeups
        self._poller = poller
        self._events = events
        self._problems = problems
        self._reconcile = reconcile
        self._settle = settle
        self._message = message
        self._schedule = schedule
        self._budgets = budgets
        self._subscriptions = subscriptions
        self._woken = woken
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._own_channel = worker_channel(worker_id)
        self._proof: asyncio.Event | None = None
        self._proof_token = ""
        self._unsent = False  # the proof, because the server's notification queue is filling up
        self._answering: asyncio.Task[None] | None = None
        self._announced = False
        self._connection: Connection | None = None
        self._server = ""
        self._connecting = db.outage(
            log, "listener cannot connect", "listener is connected", backoff=Backoff(cap=RECONNECT_SECONDS)
        )
        self._session = db.outage(
            log, "listener lost its session", "listener is back", backoff=Backoff(cap=RECONNECT_SECONDS)
        )
        self._proving = db.outage(log, "cannot send the proof of delivery", "the proof of delivery is sent")
        self._polling = db.outage(log, "cannot poll", "polling again")
        self._deaf = self._said_unsent = False
        self.hears = False
        self.listening: Signal[bool] = Signal()

    def leave(self, moved_to: str | None) -> None:
        """The database is on server `moved_to` now: end a session on another one. None: end any session."""
        if self._connection is not None and self._server != moved_to:
            db.cut(self._connection)

    async def run(self) -> None:
        while True:
            try:
                connection, self._server = await db.open_session(self._where, f"turbo listener {self._worker_id}")
            except db.DATABASE_ERRORS as error:
                self._events.failed(error, connecting=True)
                pause = self._connecting.failed(error)
                self._poll_beside()
                await asyncio.sleep(pause)
                continue
            self._connecting.over()
            self._connection = connection
            self._events.opened(self._server)
            pause = 0.0
            try:
                await self._serve(connection)
            except db.DATABASE_ERRORS as error:
                self._events.failed(error, connecting=False)
                pause = self._session.failed(error)
            finally:
                self.hears, self._connection = False, None
                self._metrics.listener_up.set(0)
                db.cut(connection)  # a graceful goodbye would wait for a server that may be frozen
                await connection.close()
            self._events.disconnected()
            self._metrics.listener_reconnects.inc()
            await asyncio.sleep(pause)

    async def _serve(self, connection: Connection) -> None:
        """Listen on one session until it is lost, or a deaf one has been tried for long enough."""
        channels = [CONTROL, self._own_channel, *map(queue_channel, self._queues)]
        await db.within(POLL_DEADLINE, connection, listen(connection, channels))
        self.hears = await self._prove(connection)
        self._announce()
        self._events.connected(hears=self.hears)
        self.started.set()
        self.listening.emit(self.hears)
        await (self._listen(connection) if self.hears else self._poll_deaf(connection))

    def _announce(self) -> None:
        if not self.hears:
            if self._unsent:
                if not self._said_unsent:
                    log.warning(
                        "the server's notification queue is more than half full, so nothing is sent to this worker. "
                        "Polling every %g s.",
                        DEAF_POLL_SECONDS,
                    )
                self._said_unsent = True
                return
            if not self._deaf:
                log.warning(
                    "notifications do not arrive: LISTEN is answered, but nothing is delivered; is a pooler in transaction "
                    "mode in the way? Point %s at PostgreSQL itself or at a session-mode pool. Polling every %g s.",
                    "database.listen_dsn" if self._apart else "the DSN, or database.listen_dsn,",
                    DEAF_POLL_SECONDS,
                )
                self._problems.report(
                    ProblemKind.DEAF,
                    "",
                    "notifications do not arrive; it polls every second",
                    f"point its {'listen_dsn' if self._apart else 'DSN, or database.listen_dsn,'} at PostgreSQL itself, "
                    "or at a pool in session mode",
                )
            self._deaf = True
            return
        self._metrics.listener_up.set(1)
        if not self._announced:
            for queue in self._queues:
                log.info("listening on channel %s", queue_channel(queue))
            self._announced = True
        elif self._deaf or self._said_unsent:
            log.info("notifications arrive again")
        self._session.over()
        self._deaf = self._said_unsent = False
        self._problems.clear(ProblemKind.DEAF, "")

    # ── proof of delivery ───────────────────────────────────────────────────────────────────────────────────────────

    async def _prove(self, connection: Connection) -> bool:
        """Whether a notification that another session sends arrives here."""
        while True:
            self._proof, self._proof_token, self._unsent = asyncio.Event(), secrets.token_hex(8), False
            hearing = asyncio.create_task(self._hear(connection, PROOF_DEADLINE, until=self._proof))
            try:
                if not await self._send_proof():
                    self._unsent = True
                    await self._end_hearing(hearing)
                    return False
            except ProofNotSent as error:
                await self._end_hearing(hearing)
                await self._proving.wait(error.cause)
                await self._poll(connection)  # is this session still there?
                continue
            except BaseException:
                await self._end_hearing(hearing)
                raise
            self._proving.over()
            await hearing
            return self._proof.is_set()

    async def _end_hearing(self, hearing: "asyncio.Task[None]") -> None:
        assert self._proof is not None
        self._proof.set()  # there is nothing to wait for
        await hearing

    async def _send_proof(self) -> bool:
        try:
            return await self._notifier.notify(self._own_channel, self._proof_token)
        except db.DATABASE_ERRORS as error:
            if not db.is_transient(error):
                raise ProofNotSent(error) from error
            # That session may have died with the listener's last one, unused since: now it has a new one.
            try:
                return await self._notifier.notify(self._own_channel, self._proof_token)
            except db.DATABASE_ERRORS as again:
                raise ProofNotSent(again) from again

    # ── what arrives ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hear(self, connection: Connection, seconds: float, until: asyncio.Event | None = None) -> None:
        """Act on what arrives, for up to `seconds`.

        The generator is always run to its end: leaving it in mid-packet would drop the rest. So it is asked for short
        stretches while a proof is awaited.
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
            self._heard_own(notify.payload)
        elif notify.channel == CONTROL:
            self._heard_control(notify.payload)
        else:
            queue = notify.channel.removeprefix(QUEUE_PREFIX)
            self._wakeups.wake(queue, by_notify=True)
            self._woken(queue)

    def _heard_own(self, payload: str) -> None:
        if self._proof is not None and payload == self._proof_token:
            self._proof.set()
        elif payload.startswith(QUESTION) and (self._answering is None or self._answering.done()):
            answer = f"{payload.removeprefix(QUESTION)} {self._worker_id}"
            self._answering = self.jobs.start(self._answer(answer), "answer to a question")
        elif (call := _CALL.fullmatch(payload)) is not None:
            self._wakeups.call(call[1], int(call[2]))
            self._woken(call[1])

    def _heard_control(self, message: str) -> None:
        kind, _, worker_id = message.partition(" ")
        if kind == ControlMessage.MESSAGE:
            self._poller.message_told()
        if kind == ControlMessage.STOP and worker_id == self._worker_id:
            self._reconcile.set()
        elif kind in (ControlMessage.QUEUES, ControlMessage.ACCOUNTS):
            self._wakeups.poll_soon()
        elif kind == ControlMessage.LIMITS:
            self._poller.limits_told()
        elif kind == ControlMessage.SETTLE:
            self._settle()
        elif kind == ControlMessage.BUDGETS:
            self._budgets()
        elif kind == ControlMessage.SUBSCRIPTIONS:
            self._subscriptions()
        elif kind == ControlMessage.SCHEDULE:
            self._schedule(worker_id)
        elif kind == ControlMessage.MESSAGE:
            self._message(worker_id)
            if worker_id.startswith(" "):
                self._settle()  # to a task that did not run: it may be over by now

    async def _answer(self, answer: str) -> None:
        with suppress(*db.DATABASE_ERRORS):
            await self._notifier.notify(HEARD, answer)

    # ── polling ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, connection: Connection) -> None:
        while True:
            await self._hear(connection, self._poll_seconds * random.uniform(0.8, 1.0))
            await self._poll(connection)

    async def _poll_deaf(self, connection: Connection) -> None:
        for _ in range(int(DEAF_RETRY_SECONDS / DEAF_POLL_SECONDS)):
            await asyncio.sleep(DEAF_POLL_SECONDS * random.uniform(0.8, 1.0))
            await self._poll(connection)

    def _poll_beside(self) -> None:
        """There is no session that listens: poll on the claims', if that one goes another way."""
        now = time.monotonic()
        if self._apart and now >= self._beside_at and (self._beside is None or self._beside.done()):
            self._beside_at = now + DEAF_POLL_SECONDS * random.uniform(0.8, 1.0)
            self._beside = self.jobs.start(self._poll_on_claims(), "poll without a listener")

    async def _poll_on_claims(self) -> None:
        try:
            await self._poller.poll()
        except db.DATABASE_ERRORS as error:
            self._polling.failed(error)
        else:
            self._polling.over()

    async def _poll(self, connection: Connection) -> None:
        try:
            await db.within(POLL_DEADLINE, connection, self._poller.poll(connection))
        except db.DATABASE_ERRORS as error:
            if connection.closed or not db.is_lasting(error) or db.is_outdated(error):
                raise
            self._polling.failed(error)  # a revoked privilege: the session works, and notifications still arrive
        else:
            self._polling.over()
