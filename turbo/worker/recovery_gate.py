"""RecoveryGate: after a crash or a failover nothing is claimed until what the database may have forgotten is put back.

    settled ──the claims' session is opened on another server, or after a crash──▶ unsettled
       ▲                                                                              │
       └── own runs reasserted, own results replayed, and SETTLE_SECONDS for the others ◀──┘

Claims are committed without waiting for the disk, so a crash forgets those of the last moments, and an asynchronous
failover acknowledged results besides. Such a task stands there pending while its agent runs on, or has ended, on some
host; the first worker to be back would claim it again. Whoever is back waits for the slower ones: a listener tries every
0.5 s at most. A session that was merely ended (a killed backend) costs no wait.
"""

import asyncio
import time
from contextlib import suppress

SETTLE_SECONDS = 0.75
RESTORE_SECONDS = 5.0
"""How long claims wait for a listener that does not come back: then its results and runs cannot be helped."""

CRASHED = "57P02"


class RecoveryGate:
    """Told by the claims' lane (`db.Lane`), the listener and the worker; asked by the claimer before each claim.

    An idle worker's lane is not used for minutes, and so learns nothing of a crash but that its session is gone; the
    listener is there, and sees the server refuse everybody."""

    def __init__(self, seconds: float = SETTLE_SECONDS, restore_seconds: float = RESTORE_SECONDS) -> None:
        self._seconds = seconds
        self._restore_seconds = restore_seconds
        self._server: str | None = None
        self._doubtful = False
        self._since: float | None = None  # monotonic; None: settled
        self._restored = asyncio.Event()

    def failed(self, error: Exception, connecting: bool) -> None:
        """A session broke, or could not be opened: a crash restarts the server under the same postmaster."""
        if connecting or getattr(error, "sqlstate", None) == CRASHED:
            self._doubtful = True

    def opened(self, server: str) -> None:
        """A new session, and which server (the postmaster's start) it is on."""
        if self._server is not None and (self._doubtful or server != self._server):
            self._since = time.monotonic()
        self._server, self._doubtful = server, False

    def disconnected(self) -> None:
        """The listener has lost its session; until it is back, nobody puts anything back."""
        self._restored.clear()

    def restored(self) -> None:
        """What this worker runs and what it had recorded is in the database again."""
        self._restored.set()

    async def settled(self) -> None:
        """Wait until claims may go on. Costs nothing where nothing has happened."""
        while (since := self._since) is not None:
            await asyncio.sleep(max(0.0, since + self._seconds - time.monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, since + self._restore_seconds - time.monotonic())):
                    await self._restored.wait()
            if self._since == since:
                self._since = None
