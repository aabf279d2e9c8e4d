"""Progress: where the running agents are, for people who watch. Never a reason for a task to wait.

    an executor speaks, as often as it likes ──▶ the latest of each run ──once a second, one statement──▶ agent_progress
                                                     (unchanged: nothing)         a run is over: its row goes with the next

Promises:
- At most one write a second and run, one statement a second and worker; a run that says nothing costs nothing, and
  neither does its end: the rows of ended runs are taken away here, not by the statement that finishes tasks.
- A connection of its own, opened at the first word and closed when nobody has spoken for a while. An outage costs
  progress and nothing else: what is held is one line a run.
- A line counts while its task is running under the row's fencing token. What a dead worker leaves stands until the task
  is claimed again, or the leader prunes it.
"""

import asyncio
import logging
import random
import time
from dataclasses import replace

import psycopg

from turbo import db
from turbo.db.claim_store import Queue
from turbo.db.connect import Lane
from turbo.domain.claim import ClaimRef
from turbo.domain.run import Progress, Running
from turbo.host.sanitize import sanitize_text
from turbo.runtime.service import Service
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
LINE_CHARACTERS = 500
DEADLINE_SECONDS = 10.0
QUIET_SECONDS = 60.0
"""Without a word for so long, and with no row to take away, the connection is closed."""

GOODBYE_SECONDS = 2.0


class ProgressWriter(Service):
    name = "progress"

    def __init__(self, queue: Queue, lane: Lane, slots: Slots) -> None:
        """`lane` is this loop's alone."""
        super().__init__()
        self._queue = queue
        self.lane = lane
        self._slots = slots
        self._latest: dict[ClaimRef, Progress] = {}
        self._written: dict[ClaimRef, Progress] = {}
        self._event = asyncio.Event()
        self._trouble = False

    def tell(self, run: Running, progress: Progress) -> None:
        """What a run says of itself; of several within a second the last one counts."""
        self._latest[run.claim] = progress
        self._event.set()

    def run_ended(self) -> None:
        """A slot came free: a row may have to go."""
        if self._written:
            self._event.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._event.wait()
            except TimeoutError:
                if not self._written:
                    await self.lane.close()
                continue
            self._event.clear()
            begun = time.monotonic()
            pause = WRITE_SECONDS
            if not await self._write():
                self._event.set()  # what is held is still to be written, and newer words with it
                pause *= random.uniform(1.0, 5.0)
            await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))

    async def stop(self) -> None:
        """Cancel, and take away the rows of what has ended, if the database answers at once."""
        self.lane.end_in(GOODBYE_SECONDS)
        async with self.lane.idle():
            await super().stop()
        if self._written:
            await self._write()
        await self.lane.close()

    async def _write(self) -> bool:
        """Write what is new. False when it has to be tried again."""
        running = self._slots.running
        latest, self._latest = self._latest, {}
        said = {held: p for held, p in latest.items() if held in running and self._written.get(held) != p}
        again = {held.task_id for held in said}
        # The same task may run here again: its new line replaces the row, which must not be touched twice.
        over = [held for held in self._written if held not in running and held.task_id not in again]
        if not said and not over:
            return True
        try:
            async with self.lane.use(DEADLINE_SECONDS) as connection:
                await self._queue.progress(connection, {h: _line(p) for h, p in said.items()}, over)
        except (psycopg.Error, OSError) as error:
            if not self._trouble:
                level = logging.INFO if db.is_transient(error) else logging.ERROR
                log.log(level, "progress is not shown for now: %s", db.reason(error))
            self._trouble = True
            if db.is_transient(error) or isinstance(error, OSError):
                self._latest = {**said, **self._latest}
                return False
            # What the database refuses (a character that its encoding does not have) it would refuse again.
        else:
            if self._trouble:
                log.info("progress is shown again")
            self._trouble = False
        self._written = {held: p for held, p in (self._written | said).items() if held in running or held in said}
        if not self._written.keys() <= running.keys():  # it ended while its line was written
            self._event.set()
        return True


def _line(progress: Progress) -> Progress:
    return replace(progress, text=sanitize_text(progress.text[: 2 * LINE_CHARACTERS], set())[:LINE_CHARACTERS])
