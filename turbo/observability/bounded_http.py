"""HTTP connections with bounds on what a client can take before it has shown the token.

    accepted ──the head of a request──▶ answered ──▶ kept for the next one
        └── too slow, or the oldest that asks nothing of too many ──▶ closed

uvicorn waits for a request without end, and holds any number of connections. Every user of this host can connect.
"""

import asyncio
from collections.abc import Iterator

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 5.0
"""Until the head of a request has arrived whole."""

CONNECTIONS = 64
"""Open at once; macOS gives a process 256 descriptors."""


ACCEPTED_AT_ONCE = 8
"""asyncio accepts so many in each turn of its loop, and a few turns pass before one that is closed gives its descriptor back."""


class BoundedConnection(H11Protocol):
    """One that answers a request is never closed for a new one."""

    head_seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None
    _since = 0.0

    def most(self) -> int:
        """How many may be open at once."""
        return CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._expect()
        if len(self.connections) > self.most():
            oldest = min(self._idle(), key=lambda one: one._since, default=self)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answers:
            self._forget()
        elif self._late is None:  # a next request has begun, and is not there yet
            self._expect()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _idle(self) -> "Iterator[BoundedConnection]":
        return (one for one in self.connections if isinstance(one, BoundedConnection) and not one._answers)

    def _expect(self) -> None:
        self._late = self.loop.call_later(self.head_seconds, self._too_late)

    def _forget(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            late.cancel()

    def _too_late(self) -> None:
        self._late = None
        if not self._answers and not self.transport.is_closing():
            self.transport.abort()
