"""Health: what /healthz and /readyz answer. Called from the endpoint's threads; reads, and never waits."""

from collections.abc import Iterator

from turbo import db
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.contact import DatabaseContact
from turbo.worker.lifecycle import Lifecycle
from turbo.worker.loop_health import LoopHealth


class Health:
    def __init__(
        self,
        lifecycle: Lifecycle,
        loop: LoopHealth,
        contact: DatabaseContact,
        gate: ClaimGate,
        *,
        dsn: str,
        heartbeat_seconds: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._loop = loop
        self._contact = contact
        self._gate = gate
        self._dsn = dsn
        self._heartbeat_seconds = heartbeat_seconds

    def unhealthy(self) -> Iterator[str]:
        """For /healthz: what only a restart cures."""
        defect = self._lifecycle.defect
        if defect is not None:
            yield f"a defect ({type(defect).__name__}, see the log); draining"
        if self._loop.standstill is not None:
            yield self._loop.standstill

    def unready(self) -> Iterator[str]:
        """For /readyz: why nothing is claimed now."""
        yield from self.unhealthy()
        if self._lifecycle.stopping.is_set():
            yield "draining"
        elif not self._contact.listened:
            yield f"waiting for the database at {db.describe(self._dsn)}"
        elif (silence := self._contact.silence) > 2 * self._heartbeat_seconds:
            yield f"the database has taken no heartbeat for {silence:.0f} s"
        if self._gate.held_back is not None:
            yield self._gate.held_back
        if self._gate.types.none:
            yield "every account is paused"
