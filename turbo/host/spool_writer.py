"""Writing to the spool from the event loop, whatever the disk does.

    writable ──a write fails──▶ unwritable: logged once, claims are held back ──a probe succeeds──▶ writable, logged once

A disk that takes nothing must not lose a result or end the worker: results are then held in memory and recorded directly.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from turbo.domain.result import RunResult
from turbo.host.spool import Spool, SpoolEntry, SpoolUnavailable

log = logging.getLogger(__name__)


class SpoolWriter:
    """One worker's spool. `trouble`: why it cannot be written now, or None."""

    def __init__(self, spool: Spool, trouble_changed: Callable[[str | None], None]) -> None:
        """`trouble_changed` is called with the new `trouble`."""
        self._spool = spool
        self._trouble_changed = trouble_changed
        self.trouble: str | None = None

    async def put(self, result: RunResult) -> SpoolEntry | None:
        """On disk, for good, when this returns; None when the disk does not take it."""
        try:
            return await asyncio.to_thread(self._spool.put, result)
        except SpoolUnavailable as error:
            self._note(str(error))
            return None

    async def done(self, entry: SpoolEntry, verdict: str) -> None:
        """The database has answered. If the disk refuses the move, the entry stays and is sent again after a restart:
        the answer will be `already`."""
        try:
            await asyncio.to_thread(self._spool.done, entry, verdict)
        except OSError as error:
            self._note(f"{entry.path}: {error.strerror or error}")

    async def quarantine(self, entry: SpoolEntry, why: str) -> Path:
        """Keep an entry that the database cannot store. Returns where it is now; if it cannot be moved, where it was."""
        try:
            return await asyncio.to_thread(self._spool.quarantine, entry, why)
        except OSError as error:
            self._note(f"{entry.path}: {error.strerror or error}")
            return entry.path

    async def check(self) -> None:
        """Whether the disk takes results again. Does nothing while it does."""
        if self.trouble is None:
            return
        try:
            await asyncio.to_thread(self._spool.probe)
        except SpoolUnavailable:
            return
        self._note(None)

    async def prune_done(self) -> None:
        """Delete what was recorded more than an hour ago."""
        await asyncio.to_thread(self._spool.prune_done)

    def _note(self, trouble: str | None) -> None:
        if (trouble is None) == (self.trouble is None):
            return
        if trouble is not None:
            log.warning("spool is not writable: %s; recording directly, claiming nothing until it is", trouble)
        else:
            log.info("spool is writable again")
        self.trouble = trouble
        self._trouble_changed(trouble)
