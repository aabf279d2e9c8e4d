"""What is known of one run's transcript: what waits of it, and the batches that are made of it."""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from turbo.domain.claim import ClaimRef
from turbo.domain.redaction import BoundedPattern, Redactor, Said, dumped
from turbo.domain.run import Running
from turbo.domain.transcript import OWN_PATH, LineKind, ReadRows, Row, begin_line, end_line, note_line

BATCH_BYTES = 256 * 1024

_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\.|/)")


Line = tuple[LineKind, str, str]
"""Kind, path, text: as they are stored."""

_END = "\0end"


class TranscriptOwner(Protocol):
    """Who stores what waits (turbo.worker.transcripts)."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may wait."""
        ...

    def came(self, transcript: "RunTranscript", size: int) -> None:
        """A line waits, of so many bytes."""
        ...

    def dropped(self, size: int) -> None:
        """So many bytes found no room."""
        ...

    def empty(self, claim: ClaimRef) -> None:
        """The run has ended without a line."""
        ...


@dataclass(slots=True)
class WaitingLine:
    """A line that is not prepared yet. `read`: it holds rows of a session; `path`, `rows`: it is such rows.
    `own`: it is turbo's own."""

    size: int
    line: bytes = b""
    read: ReadRows | None = None
    path: str = ""
    rows: Sequence[Row] | None = None
    own: str | None = None
    end: bool = False


@dataclass(slots=True)
class Stream:
    """One path of a run. `digest`: of what is stored of it."""

    said: Said = field(default_factory=Said)
    digest: Any = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class Chunk:
    """Prepared lines of one path, which make one batch."""

    kind: LineKind
    path: str
    lines: str
    size: int
    number: int = -1
    ascii_only: bool = False


class RunTranscript:
    """The TranscriptSink of one run, and what of it waits."""

    wanted = True

    def __init__(self, owner: TranscriptOwner, run: Running) -> None:
        self._owner = owner
        self._run = run
        self.claim = run.claim
        self.secrets: set[str] = set()
        self.redactor: Redactor | None = None
        self._begun = False
        self.waiting: deque[WaitingLine] = deque()
        self.chunks: deque[Chunk] = deque()
        self.streams: dict[tuple[LineKind, str], Stream] = {}
        self.waits = 0  # bytes of `waiting` and `chunks`
        self.stored = 0  # bytes, those of `chunks` included
        self.batches = 0
        self.missing: str | None = None  # why it is not complete
        self.dropping = False
        self.full = False
        self.ended = False
        self.unknown_since: float | None = None

    # ── the executor's side ─────────────────────────────────────────────────────────────────────────────────────────

    def conceal(self, secrets: Iterable[str]) -> None:
        """See TranscriptSink."""
        if not self._begun:
            begin = begin_line(self._run.executor, self._run.task.attempt)
            self._push(WaitingLine(len(begin), own=begin))
        more = set(secrets) - self.secrets
        if more:
            self.secrets |= more
            self.redactor = None

    def line(self, line: bytes) -> None:
        """See TranscriptSink."""
        self._add(WaitingLine(len(line) + 1, line))

    def session(self, path: str, rows: Sequence[Row]) -> None:
        """See TranscriptSink."""
        size = sum(len(dumped(row)) + 1 for row in rows)
        self._add(WaitingLine(size, path=path, rows=rows))

    def later(self, line: bytes, read: ReadRows) -> None:
        """See TranscriptSink."""
        self._add(WaitingLine(len(line), line, read))

    def lost(self, why: str) -> None:
        """See TranscriptSink."""
        self.miss(why)
        self._add(WaitingLine(len(why), own=note_line(why)))

    def end(self) -> None:
        """The run is over."""
        if not self.ended:
            self.ended = True
            if self._begun:
                self._push(WaitingLine(0, end=True))
            else:  # it has stored nothing, and leaves nothing behind
                self._owner.empty(self.claim)

    # ── the writer's side ───────────────────────────────────────────────────────────────────────────────────────────

    def redactor_with(self, own: frozenset[str], patterns: tuple[BoundedPattern, ...]) -> Redactor:
        """Of all that must not be stored of this run. `own`: the worker's secrets."""
        if self.redactor is None or not own <= self.redactor.secrets:
            self.redactor = Redactor(frozenset(self.secrets) | own, patterns)
        return self.redactor

    def session_of(self, path: str) -> str | None:
        """The id of the session that a path belongs to: the one that it names, else that of the run, as far as it is known."""
        named = _SESSION.match(path)
        return named[0] if named is not None else self._run.session_id or None

    def miss(self, why: str) -> None:
        """It is not complete. The first reason is the one that is told."""
        self.missing = self.missing or why

    def _add(self, item: WaitingLine) -> None:
        if self.ended or self.full:
            return
        if not self._owner.has_room(item.size):
            self._owner.dropped(item.size)
            if not self.dropping:
                self.dropping = True
                why = "the database was away for too long: lines were dropped"
                self.miss(why)
                self._push(WaitingLine(len(why), own=note_line(why)))
            return
        self.dropping = False
        self._push(item)

    def _push(self, item: WaitingLine) -> None:
        self._begun = True
        self.waiting.append(item)
        self._owner.came(self, item.size)

    def take(self, lines: Sequence[Line], size: int, most: int) -> int:
        """Make chunks of these lines, and number them. `size`: bytes of what the lines were made from, which waits no more. `most`:
        bytes that are stored of a run. Returns how many bytes more wait than before, which can be negative."""
        before = self.waits
        self.waits -= size
        for kind, path, text in self._limited(lines, most):
            length = len(text.encode())
            last = self.chunks[-1] if self.chunks else None
            # One that was sent may be stored already: it stays as it is.
            if (
                last is None
                or last.number >= 0
                or (last.kind, last.path) != (kind, path)
                or path == OWN_PATH
                or last.size + length > BATCH_BYTES
            ):
                last = Chunk(kind, path, "", 0)
                self.chunks.append(last)
            last.lines += text
            last.size += length
            self.stored += length
            self.waits += length
        for chunk in self.chunks:
            if chunk.number < 0:
                chunk.number = self.batches
                self.batches += 1
        return self.waits - before

    def _limited(self, lines: Sequence[Line], most: int) -> Iterable[Line]:
        """The lines, up to what is stored of a run. The last one is told here: only now it is known what is missing."""
        size = self.stored
        for kind, path, text in lines:
            if text == _END:
                yield LineKind.EVENT, OWN_PATH, end_line(self.missing)
                return
            if self.full:
                continue
            size += len(text.encode())
            if size > most:
                why = f"it is longer than {most:,} bytes: the rest is not stored"
                self.full = True
                self.miss(why)
                yield LineKind.EVENT, OWN_PATH, note_line(why)
                continue
            yield kind, path, text


def listed(work: Iterable[Line | str]) -> tuple[list[Line], str | None]:
    """What `cleaned` gives, and why it is not complete."""
    lines: list[Line] = []
    missing = None
    for one in work:
        if isinstance(one, str):
            missing = missing or one
            lines.append((LineKind.EVENT, OWN_PATH, note_line(one)))
        else:
            lines.append(one)
    return lines, missing


def cleaned(
    items: Sequence[WaitingLine], redactor: Redactor, streams: dict[tuple[LineKind, str], Stream]
) -> Iterable[Line | str]:
    """The lines without their secrets; a text: why one is missing. Runs in a thread, for one run at a time."""
    for item in items:
        if item.end:
            yield LineKind.EVENT, OWN_PATH, _END
        elif item.own is not None:
            yield LineKind.EVENT, OWN_PATH, item.own
        elif item.read is not None or item.rows is not None:
            found = item.read(item.line) if item.read is not None else (item.path, item.rows or ())
            if found is None:
                yield "rows of the session could not be read, and are left out"
                continue
            path, rows = found
            stream = streams.setdefault((LineKind.SESSION, path), Stream())
            for row in rows:
                try:
                    yield LineKind.SESSION, path, dumped(redactor.row(row, stream.said)) + "\n"
                except RecursionError:
                    yield "a row of the session is nested too deep, and is left out"
        else:
            stream = streams.setdefault((LineKind.EVENT, ""), Stream())
            yield LineKind.EVENT, "", redactor.event(item.line, stream.said) + "\n"
