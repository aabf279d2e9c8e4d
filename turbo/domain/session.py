"""An agent's session as it is stored: what another host needs to go on with it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from turbo.domain.transcript import TranscriptBatch


@dataclass(frozen=True, slots=True)
class SessionRun:
    """A run that has rows of a session. `bytes`: of their lines. `complete`: whether all of them were stored; None: nobody said so.
    `over`: its result is known. `asked`: it ended by asking a person."""

    task_id: str
    token: int
    bytes: int
    complete: bool | None
    over: bool
    asked: bool


class StoredSessions(Protocol):
    """Where the sessions of agents are stored. All methods raise OSError if that cannot be reached."""

    async def runs(self, session_id: str) -> Sequence[SessionRun]:
        """The runs that have rows of a session, oldest first."""
        ...

    def batches(self, run: SessionRun) -> AsyncIterator[TranscriptBatch]:
        """All batches of a run, in order."""
        ...

    async def pin(self, task_id: str) -> str | None:
        """The session cannot be had elsewhere: only the host that has it may take the task. Its name; None: that is this one, or
        there is none."""
        ...
