"""The recovery gate: after a crash or a failover, nothing is claimed until lost claims and results are put back.

    open ──the claims' session is on another server, or comes after a crash──▶ shut
      ▲                                                                          │
      └── own runs reasserted, own results sent again, and OTHERS_SECONDS for the rest of the fleet ◀──┘

Claims are committed without waiting for the disk, so a crash loses the most recent ones. An asynchronous failover may also
lose results that were acknowledged. Such a task is pending again although its agent still runs, or has ended, on some
host. The first worker that reconnects would claim it. So workers wait for slower ones to reconnect: a listener tries at
least every 0.5 s. A session that merely ended (a killed backend) does not shut the gate.

Where claims go through a pooler and the listener does not (database.listen_dsn), the claims' session outlives a crash of the server
behind the pooler. So the listener's sessions count as well, and the first sign of a crash shuts the gate.
"""

import asyncio
import time
from contextlib import suppress

OTHERS_SECONDS = 0.75
RESTORE_SECONDS = 5.0
"""How long claims wait for a listener that cannot reconnect. After that they go on, although nothing was put back."""

CRASHED = "57P02"


class RecoveryGate:
    """Informed by the claims' lane (it is the LaneObserver), the listener and Recovery; the claimer waits for it.

    An idle worker does not use its lane for minutes, so after a crash the lane only finds its session closed. The listener
    is connected all the time, and sees the server refuse new sessions."""

    def __init__(
        self, seconds: float = OTHERS_SECONDS, restore_seconds: float = RESTORE_SECONDS, *, pooled: bool = False
    ) -> None:
        """`pooled`: the claims' session may outlive the server's."""
        self._pooled = pooled
        self._seconds = seconds
        self._restore_seconds = restore_seconds
        self._server: str | None = None
        self._doubtful = False
        self._since: float | None = None  # monotonic seconds; None: open
        self._restored = asyncio.Event()

    def failed(self, error: Exception, connecting: bool) -> None:
        """A session broke, or could not be opened: a crash restarts the server under the same postmaster."""
        if connecting or getattr(error, "sqlstate", None) == CRASHED:
            if self._pooled and not self._doubtful and self._server is not None:
                self._since = time.monotonic()
            self._doubtful = True

    def opened(self, server: str) -> None:
        """A new session, and which server (the postmaster's start) it is on."""
        if self._server is not None and (self._doubtful or server != self._server):
            self._since = time.monotonic()
        self._server, self._doubtful = server, False

    def disconnected(self) -> None:
        """The listener has lost its session; until it is back, nothing is put back."""
        self._restored.clear()

    def restored(self) -> None:
        """This worker's runs and recent results are in the database again."""
        self._restored.set()

    async def wait_open(self) -> None:
        """Wait until claims may go on. Costs nothing where nothing has happened."""
        while (since := self._since) is not None:
            await asyncio.sleep(max(0.0, since + self._seconds - time.monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, since + self._restore_seconds - time.monotonic())):
                    await self._restored.wait()
            if self._since == since:
                self._since = None
