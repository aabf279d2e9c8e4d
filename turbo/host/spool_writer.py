"""Writes to the spool from the event loop, and copes with a disk that fails.

    writable ──a write fails──▶ unwritable: logged once, claims are held back ──a probe succeeds──▶ writable, logged once

While the disk accepts nothing, results are held in memory and recorded directly: none is lost, and the worker runs
on. If only a recorded result cannot be moved (to done/, say), claims go on: new results are safe, and that one is sent
again after a restart.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from turbo.domain.result import RunResult
from turbo.host.spool import Spool, SpoolEntry, SpoolUnavailable

log = logging.getLogger(__name__)


class SpoolWriter:
    """One worker's spool. `problem`: why it cannot be written now, or None."""

    def __init__(
        self, spool: Spool, problem_changed: Callable[[str | None], None], moves_changed: Callable[[str | None], None]
    ) -> None:
        """`problem_changed` is called with the new `problem`; `moves_changed` with why entries cannot be moved, or None."""
        self._spool = spool
        self._problem_changed = problem_changed
        self._moves_changed = moves_changed
        self._unmoved: str | None = None
        self.problem: str | None = None

    async def put(self, result: RunResult) -> SpoolEntry | None:
        """The result is durable when this returns. None if the disk does not accept it."""
        try:
            return await asyncio.to_thread(self._spool.put, result)
        except SpoolUnavailable as error:
            self._note(str(error))
            return None

    async def done(self, entry: SpoolEntry) -> None:
        """The database has answered.

        If the disk refuses the move, the entry stays and is sent again after a restart: the answer will be `already`.
        """
        try:
            await asyncio.to_thread(self._spool.done, entry)
        except OSError as error:
            self._note_move(f"{entry.path.parent / 'done'}: {error.strerror or error}")
        else:
            self._note_move(None)

    async def quarantine(self, entry: SpoolEntry, why: str) -> Path:
        """Keep an entry that the database cannot store. Returns its new path, or the old one if it cannot be moved."""
        try:
            return await asyncio.to_thread(self._spool.quarantine, entry, why)
        except OSError as error:
            self._note_move(f"{entry.path.parent / 'quarantine'}: {error.strerror or error}")
            return entry.path

    async def check(self) -> None:
        """Test whether the disk accepts results again. Does nothing while it does."""
        if self.problem is None:
            return
        try:
            await asyncio.to_thread(self._spool.probe)
        except SpoolUnavailable:
            return
        self._note(None)

    async def prune_done(self) -> None:
        """Delete what was recorded more than an hour ago."""
        await asyncio.to_thread(self._spool.prune_done)

    def _note_move(self, problem: str | None) -> None:
        if (problem is None) == (self._unmoved is None):
            return
        if problem is not None:
            log.warning("recorded results cannot be put away: %s; they are sent again after a restart", problem)
        else:
            log.info("recorded results are put away again")
        self._unmoved = problem
        self._moves_changed(problem)

    def _note(self, problem: str | None) -> None:
        if (problem is None) == (self.problem is None):
            return
        if problem is not None:
            log.warning("spool is not writable: %s; recording directly, claiming nothing until it is", problem)
        else:
            log.info("spool is writable again")
        self.problem = problem
        self._problem_changed(problem)
