"""Progress: where the running agents are, for people who watch. Never a reason for a task to wait.

    an executor reports, as often as it likes ──▶ the latest of each run ──once a second, one statement──▶ agent_progress
                                                     (unchanged: nothing)      a run has ended: its row goes with the next

Promises:
- At most one write a second and run, one statement a second and worker. A run that reports nothing costs nothing, and
  neither does its end: the rows of ended runs are deleted here, not by the statement that finishes tasks.
- One connection for this alone, opened at the first report and closed after a quiet minute, or as soon as the worker lacks
  a session for its work (turbo.worker.sessions). An outage costs progress and nothing else: one line a run is held.
- A line counts while its task is running under the row's fencing token. The line of a dead worker stays until the task is
  claimed again, or the leader prunes it.
"""

import asyncio
import logging
import time
from dataclasses import replace

from turbo import db
from turbo.db.lane import Lane
from turbo.db.progress_store import ProgressStore
from turbo.db.refusals import Refusals
from turbo.domain.claim import ClaimRef
from turbo.domain.run import Progress, Running
from turbo.domain.task import Task
from turbo.host.sanitize import sanitize_text
from turbo.runtime.backoff import Backoff
from turbo.runtime.service import LoopService
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
LINE_CHARACTERS = 500
DEADLINE_SECONDS = 10.0
QUIET_SECONDS = 60.0
"""After so long without a report, and with no row to delete, the connection is closed."""

GOODBYE_SECONDS = 2.0
RETRY_SECONDS = 20.0
"""The longest pause after a failure: what it asks for may be the session that another worker needs."""


class ProgressWriter(LoopService):
    """The runner's RunObserver."""

    name = "progress"

    def __init__(self, lane: Lane, worker_id: str, slots: Slots, refusals: Refusals) -> None:
        """`lane` is for this service alone."""
        super().__init__()
        self._lane = lane
        self._store = ProgressStore(lane, worker_id, refusals)
        self._slots = slots
        self._latest: dict[ClaimRef, Progress] = {}
        self._written: dict[ClaimRef, Progress] = {}
        self._event = asyncio.Event()
        self._backoff = Backoff(base=2.0, cap=RETRY_SECONDS)
        self._outage = db.outage(log, "progress is not shown for now", "progress is shown again", level=logging.INFO)

    def progress(self, run: Running, progress: Progress) -> None:
        """What a run reports; of several reports within a second the last one counts."""
        self._latest[run.claim] = progress
        self._event.set()

    def run_ended(self, _task: Task) -> None:
        """Its row may have to go."""
        if self._written:
            self._event.set()

    async def run(self) -> None:
        self.started.set()
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._event.wait()
            except TimeoutError:
                if not self._written:
                    await self._lane.close()
                continue
            self._event.clear()
            begun = time.monotonic()
            pause = WRITE_SECONDS
            if await self._write():
                self._backoff.reset()
            else:
                self._event.set()  # what is held has still to be written, together with newer reports
                pause += self._backoff.next()
            await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))

    async def stop(self) -> None:
        """Cancel, and delete the rows of ended runs, if the database answers at once."""
        self._lane.end_in(GOODBYE_SECONDS)
        async with self._lane.idle():
            await super().stop()
        if self._written:
            await self._write()
        await self._lane.close()

    async def _write(self) -> bool:
        """Write new reports. False: try again."""
        running = self._slots.running
        latest, self._latest = self._latest, {}
        changed = {claim: p for claim, p in latest.items() if claim in running and self._written.get(claim) != p}
        again = {claim.task_id for claim in changed}
        # The same task may run here again: its new line replaces the row, which must not be touched twice.
        ended = [claim for claim in self._written if claim not in running and claim.task_id not in again]
        if not changed and not ended:
            return True
        try:
            await self._store.write({c: _line(p) for c, p in changed.items()}, ended, DEADLINE_SECONDS)
        except db.DATABASE_ERRORS as error:
            self._outage.failed(error)
            if db.is_transient(error) or isinstance(error, OSError):
                self._latest = {**changed, **self._latest}
                return False
            # The database would refuse it again (a character that its encoding does not have).
        else:
            self._outage.over()
        self._written = {c: p for c, p in (self._written | changed).items() if c in running or c in changed}
        if not self._written.keys() <= running.keys():  # it ended while its line was written
            self._event.set()
        return True


def _line(progress: Progress) -> Progress:
    return replace(progress, text=sanitize_text(progress.text[: 2 * LINE_CHARACTERS], set())[:LINE_CHARACTERS])
