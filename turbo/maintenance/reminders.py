"""Reminders: the leader writes `reminded` into the audit trail of tasks whose question nobody has answered for a while.

    follows ──the heartbeat won the lease──▶ leads: a pass every 20 s ──lease lost──▶ follows

`remind_seconds` is in the question, from the configuration of the executor that asked. Each reminder is written once, with two
leaders, too. After an outage the last one that is due is written; those before it are left out.
"""

import asyncio
import logging

from turbo import db
from turbo.db.question_store import QuestionStore
from turbo.maintenance.leadership import Leadership
from turbo.runtime.outage import Outage
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

PASS_SECONDS = 20.0
BATCH = 200
PAUSE_SECONDS = 0.2
"""After a full batch: more is due."""


class Reminders(LoopService):
    name = "reminders"

    def __init__(
        self, store: QuestionStore, leadership: Leadership, *, every: float = PASS_SECONDS, batch: int = BATCH
    ) -> None:
        """`every`: seconds between passes of at most `batch` reminders at once."""
        super().__init__()
        self._store = store
        self._leadership = leadership
        self._every = every
        self._batch = batch

    async def run(self) -> None:
        self.started.set()
        outage = db.outage(log, "leader cannot remind of questions", "leader reminds of questions", level=logging.DEBUG)
        while True:
            await self._leadership.wait()
            await self._pass(outage)
            await self._leadership.lost(self._every)

    async def once(self) -> int:
        """One pass, as long as this worker leads. Returns how many reminders it wrote. Raises `db.DATABASE_ERRORS`."""
        written = 0
        while self._leadership.held:
            batch = await self._store.remind(self._batch)
            written += len(batch)
            for task_id in batch:
                log.info("reminded: its question waits for an answer", extra={"task": task_id})
            if len(batch) < self._batch:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        return written

    async def _pass(self, outage: Outage) -> None:
        try:
            await self.once()
            outage.over()
        except db.DATABASE_ERRORS as error:
            outage.failed(error)
