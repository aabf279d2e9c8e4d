"""The transcript of a run: what its agent said and did, line by line, as it is stored for readers on other hosts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class LineKind(StrEnum):
    EVENT = "event"  # a line of the agent's output
    SESSION = "session"  # a row of the agent's own session file


OWN_PATH = "turbo"
"""The `path` of what turbo itself has to say, among events. No line of an agent has it."""

BEGIN_TYPE = "turbo_begin"
END_TYPE = "turbo_end"
NOTE_TYPE = "turbo_note"

Row = Mapping[str, object]
ReadRows = Callable[[bytes], tuple[str, Sequence[Row]] | None]
"""A line of output that holds rows of a session file: the file's `path` and the rows; None: it cannot be read."""


class TranscriptSink(Protocol):
    """Where an executor puts the transcript of a run. Everything returns at once and nothing raises: a run is not held up by it.

    Only whole lines, as the agent wrote them. What is secret in them is taken out before they leave the process."""

    @property
    def wanted(self) -> bool:
        """Whether anything is kept."""
        ...

    def conceal(self, secrets: Iterable[str]) -> None:
        """Texts that must not be stored: what the program was given. Called before the program starts."""
        ...

    def line(self, line: bytes) -> None:
        """A line of output that no session file has."""
        ...

    def session(self, path: str, rows: Sequence[Row]) -> None:
        """Rows of a session file. `path` is relative to the session: `SESSION.jsonl`, `SESSION/subagents/agent-x.jsonl`."""
        ...

    def later(self, line: bytes, read: ReadRows) -> None:
        """The same, as a line that `read` takes apart: in a thread, when it is stored."""
        ...

    def lost(self, why: str) -> None:
        """Something is missing: the transcript is not complete, and no other host can go on from it."""
        ...


class NoTranscript:
    """For runs whose transcript nobody wants."""

    wanted = False

    def conceal(self, secrets: Iterable[str]) -> None: ...

    def line(self, line: bytes) -> None: ...

    def session(self, path: str, rows: Sequence[Row]) -> None: ...

    def later(self, line: bytes, read: ReadRows) -> None: ...

    def lost(self, why: str) -> None: ...


NO_TRANSCRIPT: TranscriptSink = NoTranscript()


@dataclass(frozen=True, slots=True)
class TranscriptBatch:
    """One row of `agent_transcripts`. `lines`: whole lines, each with its newline. `sha256`: of all lines of this run and path up to
    and including these, as UTF-8."""

    batch: int
    session_id: str | None
    kind: LineKind
    path: str
    lines: str
    sha256: bytes

    @property
    def end(self) -> bool | None:
        """Whether the transcript is complete, if this is the last batch of its run; else None."""
        if self.kind is not LineKind.EVENT or self.path != OWN_PATH:
            return None
        last = json.loads(self.lines.splitlines()[-1])
        return bool(last.get("complete")) if last.get("type") == END_TYPE else None


def begin_line(executor: str, attempt: int) -> str:
    """The first line of a run's transcript: a program is about to start."""
    return json.dumps({"type": BEGIN_TYPE, "executor": executor, "attempt": attempt}) + "\n"


def end_line(why: str | None) -> str:
    """The last line of a run's transcript, alone in its batch. `why` it is not complete; None: it is."""
    said: dict[str, object] = {"type": END_TYPE, "complete": why is None}
    return json.dumps(said if why is None else said | {"why": why}) + "\n"


def note_line(what: str) -> str:
    """Something that turbo has to say about the transcript, as a line of it."""
    return json.dumps({"type": NOTE_TYPE, "note": what}) + "\n"
