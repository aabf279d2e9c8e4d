"""Statements about transcripts: `agent_transcripts`, written by the worker that has the run, read by one that is to go on with it.

    runs(session) ──▶ the runs that had a part in a session, oldest first ──read(run)──▶ its batches, in order

A session is what all of them together have under one path: each run has the rows that were added in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from turbo.db.store import Store
from turbo.domain.claim import ClaimRef
from turbo.domain.session import SessionRun
from turbo.domain.transcript import LineKind, TranscriptBatch


class WriteVerdict(StrEnum):
    STORED = "stored"
    GONE = "gone"  # there is no such task
    UNKNOWN = "unknown"  # the task's row does not know this claim, as after a failover: it may soon


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run that has rows of a session. `bytes`: of their lines. `complete`: whether all that its agent said was stored. None: it
    goes on, or its worker was killed before it could tell."""

    claim: ClaimRef
    batches: int
    bytes: int
    complete: bool | None


class TranscriptStore(Store):
    async def write(
        self, batches: Sequence[tuple[ClaimRef, TranscriptBatch]], deadline: float | None = None
    ) -> Mapping[ClaimRef, WriteVerdict]:
        """Write batches of one or more runs, all in one transaction. `deadline` in seconds."""
        columns = {
            "task_id": [claim.task_id for claim, _ in batches],
            "token": [claim.token for claim, _ in batches],
            "batch": [batch.batch for _, batch in batches],
            "session_id": [batch.session_id for _, batch in batches],
            "kind": [batch.kind.value for _, batch in batches],
            "path": [batch.path for _, batch in batches],
            "lines": [batch.lines for _, batch in batches],
            "sha256": [batch.sha256 for _, batch in batches],
        }
        found = await self._rows("transcripts/write", columns, deadline)
        return {ClaimRef(task_id, token): WriteVerdict(verdict) for task_id, token, verdict, _ in found}

    async def runs(self, session_id: str) -> list[StoredRun]:
        """The runs that have rows of this session, oldest first: of a task and of its follow-ups."""
        found = await self._rows("transcripts/runs", {"session_id": session_id})
        return [
            StoredRun(ClaimRef(task_id, token), batches, size, complete)
            for task_id, token, batches, size, complete in found
        ]

    async def read(self, claim: ClaimRef, after: int = -1, limit: int = 20) -> list[TranscriptBatch]:
        """The next batches of a run, those after the number `after`. Empty: there are no more, for now."""
        parameters = {"task_id": claim.task_id, "token": claim.token, "after": after, "limit": limit}
        found = await self._rows("transcripts/read", parameters)
        return [
            TranscriptBatch(batch, session_id, LineKind(kind), path, lines, bytes(sha256))
            for batch, session_id, kind, path, lines, sha256 in found
        ]

    async def session(self, session_id: str) -> list[SessionRun]:
        """The runs that have rows of a session, oldest first."""
        found = await self._rows("transcripts/session", {"session_id": session_id})
        return [SessionRun(*row) for row in found]

    async def pin(self, task_id: str, host: str) -> str | None:
        """Only its own host may take the task from now on. The name of that one, if it is not `host`."""
        found = await self._rows("transcripts/pin", {"task_id": task_id, "host": host})
        return found[0][0] if found else None

    async def note_portable(self, claim: ClaimRef, *, portable: bool) -> str:
        """portable | pinned | other (another run has the task, or it is gone) | wait (something is not stored yet)."""
        parameters = {"task_id": claim.task_id, "token": claim.token, "portable": portable}
        ((verdict,),) = await self._rows("transcripts/portable", parameters)
        return str(verdict)
