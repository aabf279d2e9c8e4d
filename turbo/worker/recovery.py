"""Recovery: puts back what a failover or a crash may have taken from the database, after every reconnect.

    connected ──▶ runs reasserted, results of the last hour sent again ──▶ state, idle flag written anew ──▶ restored
        ▲                    └── the database fails meanwhile: again, until it succeeds
        └──disconnected──────┘

The database may be another server, or may have lost its last commits. A claim that a crash lost is taken back from
`pending` before another worker claims it. A result that an asynchronous failover lost is recorded again; one that the
database still has is answered `already`.
"""

import asyncio
import logging
from collections.abc import Callable

from turbo import db
from turbo.db.identity import ListeningServer
from turbo.db.lane import Lane, LaneObserver
from turbo.domain.states import RescueReason
from turbo.host.spool import Spool
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal
from turbo.worker.completer import Completer
from turbo.worker.contact import DatabaseContact
from turbo.worker.presence import WorkerPresence
from turbo.worker.reconciler import Reconciler
from turbo.worker.recovery_gate import RecoveryGate
from turbo.worker.rescuer import Rescuer
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)

REPLAY_SECONDS = 3.0
"""How long a reconnect waits for the answers to the results it sends again, before this worker claims again."""


class Recovery(LoopService):
    """`restored` is emitted with the number of the listener's session, once what its loss may have cost is put back."""

    name = "recovery"

    def __init__(
        self,
        lanes: tuple[Lane, ...],
        gate: RecoveryGate,
        need: LaneObserver,
        contact: DatabaseContact,
        presence: WorkerPresence,
        reconciler: Reconciler,
        completer: Completer,
        spool: Spool,
        rescuer: Rescuer,
        wakeups: WakeUps,
        settle: Callable[[], None] = lambda: None,
        server: ListeningServer | None = None,
    ) -> None:
        """`lanes`: those of claims and results, and those whose statements are worth preparing. `need` is told of the listener's
        session. `settle` is called when the database may have lost what the settler did. `server`: where the lanes lead another way
        than the listener, which server it is on."""
        super().__init__()
        self._server = server
        self._lanes = lanes
        self._gate = gate
        self._need = need
        self._lost = False  # a session was lost, or could not be had, since what it may have cost was put back
        self._contact = contact
        self._presence = presence
        self._reconciler = reconciler
        self._completer = completer
        self._spool = spool
        self._rescuer = rescuer
        self._wakeups = wakeups
        self._settle = settle
        self._event = asyncio.Event()
        self._registering = db.outage(log, "cannot register", "registered again")
        self._rescuing = db.outage(log, "cannot rescue", "rescuing again")
        self._session = 0  # counts the listener's sessions; negative while there is none
        self.restored: Signal[int] = Signal()

    # ── the listener's side ─────────────────────────────────────────────────────────────────────────────────────────

    def opened(self, server: str) -> None:
        """The listener has opened a session with `server`, and has yet to find out whether it hears."""
        if self._server is not None:
            self._gate.opened(server)  # before the lanes may follow it there
            self._server.listens_on(server)

    def connected(self, *, hears: bool) -> None:
        """The listener has a session. `hears`: notifications are proved to arrive."""
        for lane in self._lanes:
            lane.prepare_statements(hears)  # a listener that hears proves that no transaction pooler is in the way
        self._need.opened("")
        self._presence.connected(hears=hears)
        self._session = abs(self._session) + 1
        self._event.set()

    def disconnected(self) -> None:
        """The listener has lost its session; notifications may have been missed."""
        self._session = -abs(self._session)
        if self._server is not None:
            self._server.lost()
        self._gate.disconnected()
        self._presence.disconnected()

    def failed(self, error: Exception, *, connecting: bool) -> None:
        """The listener lost a session, or (`connecting`) could not get one."""
        self._lost = True
        self._gate.failed(error, connecting)
        self._need.failed(error, connecting)

    # ── putting back ────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        outage = db.outage(log, "cannot put back what the database may have lost", "put back")
        self.started.set()
        while True:
            await self._event.wait()
            self._event.clear()
            try:
                await self._restore()
            except db.DATABASE_ERRORS as error:
                await outage.wait(error)
                if self._session > 0:
                    self._event.set()
            else:
                outage.over()

    async def _restore(self) -> None:
        session = self._session
        # A deaf listener lets its session go every half minute, to try anew: that has lost nothing.
        if self._contact.listened and self._lost:
            await self._reconciler.compare()
            await self._completer.replay(await asyncio.to_thread(self._spool.recently_done), REPLAY_SECONDS)
            self._settle()
        self._reconciler.compare_soon()
        self._contact.now_listened()
        await self._presence.rewrite()
        if session == self._session:  # else it was lost meanwhile, and perhaps with it what was put back
            self._lost = False
            self._gate.restored()
            self.restored.emit(session)
        self._wakeups.poll_soon()

    # ── the heartbeat's side ────────────────────────────────────────────────────────────────────────────────────────

    def come_back(self) -> None:
        """The database marked this worker dead, or lost its row."""
        if not self._registering.active:
            log.warning("the database marked this worker dead, or lost its row: registering again")
        self.jobs.start(self._come_back(), "return after silence")

    def rescue(self) -> None:
        """Dead workers hold tasks."""
        self.jobs.start(self._rescue(), "rescue")

    async def _come_back(self) -> None:
        try:
            await self._presence.register()
            self._reconciler.compare_soon()
            await self._presence.reset_idle()
        except db.DATABASE_ERRORS as error:
            self._registering.failed(error)  # the next beat asks again
        else:
            self._registering.over()

    async def _rescue(self) -> None:
        try:
            await self._rescuer.rescue(RescueReason.WORKER_SILENT)
        except db.DATABASE_ERRORS as error:
            self._rescuing.failed(error)  # the next beat asks again
        else:
            self._rescuing.over()
