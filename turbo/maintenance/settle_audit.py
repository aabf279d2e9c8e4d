"""The settler's audit: the leader looks for tasks that wait, and that the settler does not know of.

    follows ──the heartbeat won the lease──▶ leads: an audit at once, then every hour, and after a failover ──lease lost──▶ follows

A restored table, replica role and logical apply bring rows past the triggers, which leave no notes. What the audit finds gets a
note, and the settler does the rest. It also ends the wait for a need that failed and was not retried for 30 days.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from turbo import db
from turbo.db.settle_store import SettleStore
from turbo.maintenance.leadership import Leadership
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal

log = logging.getLogger(__name__)

AUDIT_SECONDS = 3600.0
RETRY_SECONDS = 60.0


class SettleAudit(LoopService):
    """`audited` is emitted with how many rows an audit found."""

    name = "settle audit"

    def __init__(
        self, store: SettleStore, leadership: Leadership, found: Callable[[], None], *, every: float = AUDIT_SECONDS
    ) -> None:
        """`found` is called when an audit found something. `every`: seconds between audits."""
        super().__init__()
        self._store = store
        self._leadership = leadership
        self._found = found
        self._every = every
        self._soon = asyncio.Event()
        self.audited: Signal[int] = Signal()

    def soon(self) -> None:
        """The database may have lost something."""
        self._soon.set()

    async def run(self) -> None:
        outage = db.outage(log, "leader cannot audit tasks that wait", "leader audits again", level=logging.DEBUG)
        self.started.set()
        while True:
            await self._leadership.wait()
            self._soon.clear()
            pause = self._every
            try:
                count = await self._store.audit()
                outage.over()
            except db.DATABASE_ERRORS as error:
                pause = min(pause, max(RETRY_SECONDS, outage.failed(error)))
            except Exception:
                log.exception("a defect: the leader cannot audit tasks that wait")
            else:
                if count:
                    log.info("%d tasks that wait for others came past the triggers, or waited too long", count)
                    self._found()
                self.audited.emit(count)
            finally:
                await self._store.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._soon.wait()
