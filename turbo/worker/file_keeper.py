"""Stores what is kept of a run, just before its result, which then says what is there.

A database that is away, or refuses a file, costs a note and no more: nothing is kept on the disk, and the result goes its own way.
"""

import asyncio
import time
from dataclasses import replace

from turbo import db
from turbo.db.file_store import FileStore
from turbo.domain.claim import ClaimRef
from turbo.domain.kept import DIFF_PATH, KeptFile, LeftOut
from turbo.domain.outcome import Outcome

STORE_SECONDS = 10.0
"""How long a result waits for the files of its run, at most."""


class FileKeeper:
    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def store(self, claim: ClaimRef, outcome: Outcome) -> Outcome:
        """The outcome without the files, but with a list of them. Never raises what the database says."""
        kept = outcome.kept
        if kept is None:
            return outcome
        listed: list[dict[str, object]] = []
        notes = list(kept.left_out)
        until = time.monotonic() + STORE_SECONDS
        away: str | None = None
        for file in kept.files:
            why = away
            if why is None:
                try:
                    why = await self._write(claim, file, until)
                except db.DATABASE_ERRORS as error:
                    why = f"the database refused it: {db.reason(error)}"
                    if db.is_transient(error):
                        why = away = f"the database is away: {db.reason(error)}"
            if why is not None:
                notes.append(LeftOut(file.path, why))
            elif file.path != DIFF_PATH:
                listed.append({"path": file.path, "size": len(file.content), "sha256": file.sha256.hex()})
        listed += [note.document() for note in notes]
        extra = {**outcome.extra, "files": listed} if listed else outcome.extra
        return replace(outcome, kept=None, extra=extra)

    async def _write(self, claim: ClaimRef, file: KeptFile, until: float) -> str | None:
        """Why it is not stored. Raises `db.DATABASE_ERRORS`."""
        left = until - time.monotonic()
        if left <= 0:
            return "there was no time left to store it"
        try:
            async with asyncio.timeout(left):
                there = await self._store.write(claim, file, left)
        except TimeoutError:
            return "there was no time left to store it"
        return None if there else "its task is gone, or locked"
