"""The sessions of agents, as the database has them: to go on with one here, and to say which may go on elsewhere.

    a run is over ──its result and the last batch of its transcript are stored──▶ portable: an entry in agent_portable
                        └── not complete, its directory is on this host only, or that cannot be told in time ──▶ pinned: no entry

An entry makes `prefer_host` a preference. It is written after the result, so a worker that is killed in between leaves the task
pinned, as one without a transcript.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from turbo import db
from turbo.db.lane import Lane
from turbo.db.transcript_store import TranscriptStore
from turbo.domain.claim import ClaimRef
from turbo.domain.session import SessionRun
from turbo.domain.transcript import TranscriptBatch
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 15.0
PATIENCE_SECONDS = 600.0
"""How long the end of a transcript is waited for; until then the task is pinned."""

QUIET_SECONDS = 60.0
GOODBYE_SECONDS = 2.0


@dataclass(slots=True)
class _Ended:
    portable: bool
    until: float
    wait: float = FIRST_SECONDS
    at: float = 0.0


class AgentSessions(LoopService):
    """See `StoredSessions`. Has a lane of its own, which a large session holds up alone."""

    name = "agent sessions"

    def __init__(self, lane: Lane, host: str) -> None:
        super().__init__()
        self._lane = lane
        self._store = TranscriptStore(lane)
        self._host = host
        self._ended: dict[ClaimRef, _Ended] = {}
        self._event = asyncio.Event()

    # ── for runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def runs(self, session_id: str) -> Sequence[SessionRun]:
        """See `StoredSessions`."""
        try:
            return await self._store.session(session_id)
        except db.DATABASE_ERRORS as error:
            raise OSError(
                f"the database cannot say what is stored of session {session_id}: {db.reason(error)}"
            ) from error

    async def batches(self, run: SessionRun) -> AsyncIterator[TranscriptBatch]:
        """See `StoredSessions`."""
        after, claim = -1, ClaimRef(run.task_id, run.token)
        while True:
            try:
                found = await self._store.read(claim, after)
            except db.DATABASE_ERRORS as error:
                raise OSError(f"a stored session cannot be read: {db.reason(error)}") from error
            for batch in found:
                yield batch
            if not found:
                return
            after = found[-1].batch

    async def pin(self, task_id: str) -> str | None:
        """See `StoredSessions`."""
        try:
            return await self._store.pin(task_id, self._host)
        except db.DATABASE_ERRORS as error:
            raise OSError(f"the database cannot say which host has a session: {db.reason(error)}") from error

    # ── after runs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def run_ended(self, claim: ClaimRef, *, portable: bool) -> None:
        """Its result was handed on. `portable`: another host can have its directory."""
        self._ended[claim] = _Ended(portable, time.monotonic() + PATIENCE_SECONDS)
        self._event.set()

    async def run(self) -> None:
        outage = db.outage(log, "cannot note which tasks may go on elsewhere", "noting it again", level=logging.INFO)
        self.started.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._event.wait()
            self._event.clear()
            if not self._ended:
                await self._lane.close_when_idle()
                await self._event.wait()
            try:
                await self._look()
            except db.DATABASE_ERRORS as error:
                await asyncio.sleep(outage.failed(error))
            else:
                outage.over()

    async def stop(self) -> None:
        """Say what can be said by now: a task that was given back may wait for this host alone."""
        await super().stop()
        with suppress(*db.DATABASE_ERRORS):
            async with asyncio.timeout(GOODBYE_SECONDS):
                for ended in self._ended.values():
                    ended.at = 0.0
                await self._look()
        await self._lane.close()

    def _pause(self) -> float:
        if not self._ended:
            return QUIET_SECONDS
        return max(0.0, min(one.at for one in self._ended.values()) - time.monotonic())

    async def _look(self) -> None:
        for claim, ended in list(self._ended.items()):
            now = time.monotonic()
            if ended.at > now:
                continue
            late = now > ended.until
            verdict = await self._store.note_portable(claim, portable=ended.portable and not late)
            if verdict != "wait" or late:
                self._ended.pop(claim, None)
                continue
            ended.at, ended.wait = now + ended.wait, min(ended.wait * 2, LONGEST_SECONDS)
