"""Worker presence: this worker's row in `agent_workers`, from registration to goodbye.

    registered as up ──every account paused──▶ paused ──one is open──▶ up ──drain──▶ draining ──goodbye──▶ no row

The row must be right: a worker whose row stayed `paused` after an outage would claim nothing more. So a change is written
again and again until the database has taken it, and once more after a reconnect.
"""

import logging
from dataclasses import replace

from turbo import db
from turbo.db.worker_registry import WorkerRegistry, WorkerRow
from turbo.domain.states import WorkerState
from turbo.observability.endpoint import Endpoint
from turbo.runtime.service import LoopService
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.lifecycle import Lifecycle
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)


class WorkerPresence(LoopService):
    """A worker is never idle while it is deaf (notifications are not known to arrive) or drains."""

    name = "presence"

    def __init__(
        self,
        registry: WorkerRegistry,
        row: WorkerRow,
        endpoint: Endpoint,
        gate: ClaimGate,
        wakeups: WakeUps,
        lifecycle: Lifecycle,
    ) -> None:
        """`row`: what does not change; the metrics address is the endpoint's."""
        super().__init__()
        self._registry = registry
        self._row = row
        self._endpoint = endpoint
        self._gate = gate
        self._wakeups = wakeups
        self._lifecycle = lifecycle
        self._written: WorkerState | None = None  # the state in the row; None: unknown
        self._may_have_row = False  # a registration was sent
        self._hears = False

    @property
    def may_idle(self) -> bool:
        return self._hears and not self._lifecycle.draining

    @property
    def state(self) -> WorkerState:
        """The state that the row should have now."""
        if self._lifecycle.draining:
            return WorkerState.DRAINING
        return WorkerState.PAUSED if self._gate.types.none else WorkerState.UP

    def connected(self, *, hears: bool) -> None:
        """The listener has a session. `hears`: notifications are proved to arrive."""
        self._hears = hears
        self._written = None  # the database may be another server, with an older row

    def disconnected(self) -> None:
        """The listener has lost its session; notifications may have been missed."""
        self._hears = False

    def state_changed(self) -> None:
        """Write the row anew, soon."""
        self._gate.changed.set()

    async def register(self) -> None:
        """Write the row. Raises `db.DATABASE_ERRORS`."""
        state = self.state
        self._may_have_row = True
        await self._registry.register(replace(self._row, metrics_address=self._endpoint.address), state)
        self._written = state

    async def rewrite(self) -> None:
        """Write the state, if the row may have another one, and the idle flag anew. Raises `db.DATABASE_ERRORS`."""
        # The state first: a claim sent while the row is `paused` would find nothing, and use up its wake-up.
        if self._written is not (state := self.state):
            await self._registry.set_state(state)
            self._written = state
        if not self._lifecycle.draining:
            await self.reset_idle()

    async def reset_idle(self) -> None:
        """Write the idle flag anew: a failover may have lost it, or what this worker may claim has changed. The next claims
        set it again. Raises `db.DATABASE_ERRORS`."""
        self._wakeups.set_idle(False)
        await self._registry.set_idle(False)
        self._wakeups.wake_all()

    async def say_goodbye(self) -> None:
        """Remove the row, if there may be one and the database answers."""
        if not self._may_have_row:
            return
        try:
            await self._registry.deregister()
        except db.DATABASE_ERRORS as error:
            log.debug("not deregistered: %s", db.reason(error))

    async def run(self) -> None:
        outage = db.outage(log, "state not written", "state written", level=logging.DEBUG)
        self.started.set()
        while True:
            await self._gate.changed.wait()
            self._gate.changed.clear()
            try:
                await self.rewrite()
                outage.over()
            except db.DATABASE_ERRORS as error:
                self._written = None  # it may have been written all the same
                self._gate.changed.set()
                await outage.wait(error)
