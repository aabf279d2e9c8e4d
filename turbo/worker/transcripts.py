"""Transcripts: what agents say and do, on its way into `agent_transcripts`. Never a reason for a run to wait.

    an executor's line ──▶ waiting, of its run ──a thread: secrets taken out──▶ batches, numbered ──one statement──▶ the table
                              └── too much waits, the database is away: dropped, and noted ──▶ the transcript is not complete

Promises:
- A line is stored about FIRST_SECONDS after it came, where it is the first for a while, else with the next statement, one a
  second. A worker that is killed loses what came since then.
- The path of a run never waits here: it appends to a list. What waits is bounded, for a run and for the worker.
- A batch that was sent keeps its number and its text until the database has answered, so a replay adds nothing.
- The last batch of a run says whether the transcript is complete. Without one, its worker was killed.
- One connection for this alone, which gives way to those that the worker cannot do without (turbo.worker.sessions).
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from turbo import db
from turbo.db.lane import Lane
from turbo.db.transcript_store import TranscriptStore, WriteVerdict
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import Outcome
from turbo.domain.problem import ProblemKind
from turbo.domain.redaction import BoundedPattern, Redactor, Said, SecretsOf, ascii_json, dumped
from turbo.domain.run import Progress, Running
from turbo.domain.transcript import (
    NO_TRANSCRIPT,
    OWN_PATH,
    LineKind,
    ReadRows,
    Row,
    TranscriptBatch,
    TranscriptSink,
    begin_line,
    end_line,
    note_line,
)
from turbo.observability.metrics import Metrics
from turbo.runtime.backoff import Backoff
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

FIRST_SECONDS = 0.1
WRITE_SECONDS = 1.0
DEADLINE_SECONDS = 20.0
QUIET_SECONDS = 60.0
"""After so long with nothing to write, the connection is closed."""

GOODBYE_SECONDS = 2.0
"""How long a worker that stops waits for its last batches."""

MOST_OF_A_RUN = 64 * 1024 * 1024
"""Bytes that are stored of one run."""

MOST_WAITING = 32 * 1024 * 1024
"""Bytes of all runs that wait for the database; what comes beyond that is dropped."""

BATCH_BYTES = 256 * 1024
STATEMENT_BYTES = 4 * 1024 * 1024
PREPARED_BYTES = 1024 * 1024
"""How much is prepared at once, in a thread: between two such pieces, others get their turn."""

_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\.|/)")

RETRY_SECONDS = 10.0
UNKNOWN_SECONDS = 300.0
"""How long a run's batches wait for a row that does not know its claim."""

PROBLEM_SECONDS = 60.0
"""After so long without a write, people are told."""


@dataclass(slots=True)
class _Waiting:
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
class _Stream:
    """One path of a run. `digest`: of what is stored of it."""

    said: Said = field(default_factory=Said)
    digest: Any = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class _Chunk:
    """Prepared lines of one path, which make one batch."""

    kind: LineKind
    path: str
    lines: str
    size: int
    number: int = -1
    ascii_only: bool = False


class RunTranscript:
    """The TranscriptSink of one run; and what of it waits. `on_news` is called when something came."""

    wanted = True

    def __init__(self, owner: "TranscriptWriter", run: Running) -> None:
        self._owner = owner
        self._run = run
        self.claim = run.claim
        self.secrets: set[str] = set()
        self.redactor: Redactor | None = None
        self._begun = False
        self.waiting: deque[_Waiting] = deque()
        self.chunks: deque[_Chunk] = deque()
        self.streams: dict[tuple[LineKind, str], _Stream] = {}
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
            self._push(_Waiting(len(begin), own=begin))
        more = set(secrets) - self.secrets
        if more:
            self.secrets |= more
            self.redactor = None

    def line(self, line: bytes) -> None:
        """See TranscriptSink."""
        self._add(_Waiting(len(line) + 1, line))

    def session(self, path: str, rows: Sequence[Row]) -> None:
        """See TranscriptSink."""
        size = sum(len(dumped(row)) + 1 for row in rows)
        self._add(_Waiting(size, path=path, rows=rows))

    def later(self, line: bytes, read: ReadRows) -> None:
        """See TranscriptSink."""
        self._add(_Waiting(len(line), line, read))

    def lost(self, why: str) -> None:
        """See TranscriptSink."""
        self.miss(why)
        self._add(_Waiting(len(why), own=note_line(why)))

    def end(self) -> None:
        """The run is over."""
        if not self.ended:
            self.ended = True
            if self._begun:
                self._push(_Waiting(0, end=True))
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

    def _add(self, item: _Waiting) -> None:
        if self.ended or self.full:
            return
        if not self._owner.has_room(item.size):
            self._owner.dropped(item.size)
            if not self.dropping:
                self.dropping = True
                why = "the database was away for too long: lines were dropped"
                self.miss(why)
                self._push(_Waiting(len(why), own=note_line(why)))
            return
        self.dropping = False
        self._push(item)

    def _push(self, item: _Waiting) -> None:
        self._begun = True
        self.waiting.append(item)
        self._owner.came(self, item.size)


class TranscriptWriter(LoopService):
    """`open` is the runner's side. Off for executors that are not in `executors`."""

    name = "transcripts"

    def __init__(
        self,
        lane: Lane,
        executors: Collection[str],
        metrics: Metrics,
        problems: Problems,
        *,
        secrets: SecretsOf = lambda: (),
        patterns: tuple[BoundedPattern, ...] = (),
        most_of_a_run: int = MOST_OF_A_RUN,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """`lane` is for this service alone. `secrets`: the worker's own. `patterns`: of `redact:`. `most_of_a_run`, `most_waiting`: in
        bytes."""
        super().__init__()
        self._lane = lane
        self._store = TranscriptStore(lane)
        self._executors = frozenset(executors)
        self._metrics = metrics
        self._problems = problems
        self._secrets = secrets
        self._patterns = patterns
        self._most_of_a_run = most_of_a_run
        self._most_waiting = most_waiting
        self._open: dict[ClaimRef, RunTranscript] = {}
        self._waits = 0
        self._event = asyncio.Event()
        self._failing_since: float | None = None
        self._backoff = Backoff(base=0.5, cap=RETRY_SECONDS)
        self._outage = db.outage(log, "transcripts wait for the database", "transcripts are stored again")

    # ── the runner's side ───────────────────────────────────────────────────────────────────────────────────────────

    def open(self, run: Running) -> TranscriptSink:
        """For a run that begins."""
        if run.executor not in self._executors:
            return NO_TRANSCRIPT
        return self._open.setdefault(run.claim, RunTranscript(self, run))

    def run_ended(self, claim: ClaimRef) -> None:
        """Its program is gone. Returns at once; its last lines are stored later."""
        if (transcript := self._open.get(claim)) is not None:
            transcript.end()

    def clean(self, claim: ClaimRef, outcome: Outcome) -> Outcome:
        """What the agent answered and why it failed, without secrets. The question that it asks stays as it is: what a person approves
        is exactly what runs."""
        redactor = self._redactor(claim)
        if redactor is None:
            return outcome
        return replace(
            outcome,
            output=redactor.value(outcome.output),
            error=outcome.error and redactor.text(outcome.error),
            extra={key: redactor.value(value) for key, value in outcome.extra.items()},
        )

    def clean_progress(self, claim: ClaimRef, progress: Progress) -> Progress:
        """The agent's last line, without secrets."""
        redactor = self._redactor(claim)
        return progress if redactor is None else replace(progress, text=redactor.text(progress.text))

    def _redactor(self, claim: ClaimRef) -> Redactor | None:
        transcript = self._open.get(claim)
        return transcript.redactor_with(frozenset(self._secrets()), self._patterns) if transcript is not None else None

    # ── the sinks' side ─────────────────────────────────────────────────────────────────────────────────────────────

    def has_room(self, size: int) -> bool:
        return self._waits + size <= self._most_waiting

    def came(self, transcript: RunTranscript, size: int) -> None:
        transcript.waits += size
        self._waits += size
        self._event.set()

    def empty(self, claim: ClaimRef) -> None:
        """The run has ended without a line."""
        self._open.pop(claim, None)

    def dropped(self, size: int) -> None:
        self._metrics.transcript_dropped.inc(size)

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        self.started.set()
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._event.wait()
            except TimeoutError:
                await self._lane.close()
                continue
            await asyncio.sleep(FIRST_SECONDS)
            self._event.clear()
            begun = time.monotonic()
            pause = WRITE_SECONDS
            if await self._write():
                self._backoff.reset()
            else:
                self._event.set()
                pause += self._backoff.next()
            await asyncio.sleep(max(0.0, begun + pause - FIRST_SECONDS - time.monotonic()))

    async def stop(self) -> None:
        """Cancel, and store what waits, if the database answers at once."""
        self._lane.end_in(GOODBYE_SECONDS)
        async with self._lane.idle():
            await super().stop()
        for transcript in list(self._open.values()):
            transcript.end()
        await self._write()
        await self._lane.close()
        if self._waits:
            log.warning("%d bytes of transcripts were not stored before the end of this worker", self._waits)

    async def _write(self) -> bool:
        """Store all that waits. False: try again."""
        while await self._prepare():
            batches: list[tuple[RunTranscript, _Chunk]] = []
            size = 0
            for transcript in self._open.values():
                for chunk in transcript.chunks:
                    if batches and size + chunk.size > STATEMENT_BYTES:
                        break
                    batches.append((transcript, chunk))
                    size += chunk.size
            try:
                done = await self._send(batches)
            except db.DATABASE_ERRORS as error:
                self._failed(error)
                return False
            self._outage.over()
            if self._failing_since is not None:
                self._failing_since = None
                self._problems.clear(ProblemKind.TRANSCRIPTS, "writing")
            if not done:
                return False
        return True

    async def _send(self, batches: Sequence[tuple[RunTranscript, _Chunk]]) -> bool:
        """False: a row does not know its claim yet."""
        rows: list[tuple[ClaimRef, TranscriptBatch]] = []
        digests: dict[tuple[ClaimRef, LineKind, str], Any] = {}
        for transcript, chunk in batches:
            key = (chunk.kind, chunk.path)
            digest = digests.get((transcript.claim, *key))
            if digest is None:
                digest = transcript.streams.setdefault(key, _Stream()).digest.copy()
            digest.update(chunk.lines.encode())
            digests[(transcript.claim, *key)] = digest.copy()
            batch = TranscriptBatch(
                chunk.number, transcript.session_of(chunk.path), chunk.kind, chunk.path, chunk.lines, digest.digest()
            )
            rows.append((transcript.claim, batch))
        try:
            verdicts = await self._store.write(rows, DEADLINE_SECONDS)
        except psycopg.Error as error:
            if not db.is_about_one_row(error):
                raise
            return await self._refused(batches, error)
        for transcript, chunk in batches:
            match verdicts.get(transcript.claim):
                case WriteVerdict.STORED:
                    transcript.unknown_since = None
                    transcript.streams[(chunk.kind, chunk.path)].digest = digests[
                        (transcript.claim, chunk.kind, chunk.path)
                    ]
                    self._metrics.transcript_batches.inc()
                    self._metrics.transcript_bytes.inc(chunk.size)
                    self._gone(transcript, chunk)
                case WriteVerdict.GONE:
                    self._forget(transcript)
                case _:
                    self._not_known(transcript)
        return all(verdict is not WriteVerdict.UNKNOWN for verdict in verdicts.values())

    async def _refused(self, batches: Sequence[tuple[RunTranscript, _Chunk]], error: psycopg.Error) -> bool:
        """The database does not take one of them, as it is: alone, then in ASCII, then not at all."""
        if len(batches) > 1:
            done = [await self._send([one]) for one in batches if one[1] in one[0].chunks]
            return all(done)
        ((transcript, chunk),) = batches
        if not chunk.ascii_only:
            chunk.ascii_only = True
            chunk.lines = ascii_json(chunk.lines)
            return await self._send(batches)
        log.warning(
            "a part of a transcript is refused by the database: %s", db.reason(error), extra=_fields(transcript)
        )
        transcript.miss("the database has refused a part of it")
        self.dropped(chunk.size)
        self._gone(transcript, chunk)
        return True

    def _gone(self, transcript: RunTranscript, chunk: _Chunk) -> None:
        """A chunk that is dealt with."""
        if chunk in transcript.chunks:
            transcript.chunks.remove(chunk)
            transcript.waits -= chunk.size
            self._waits -= chunk.size
        if transcript.ended and not transcript.chunks and not transcript.waiting:
            self._open.pop(transcript.claim, None)

    def _forget(self, transcript: RunTranscript) -> None:
        """The task is deleted, or will not know this run."""
        self._waits -= transcript.waits
        transcript.waits = 0
        transcript.waiting.clear()
        transcript.chunks.clear()
        transcript.full = True
        if transcript.ended:
            self._open.pop(transcript.claim, None)

    def _not_known(self, transcript: RunTranscript) -> None:
        now = time.monotonic()
        if transcript.unknown_since is None:
            transcript.unknown_since = now
        elif now - transcript.unknown_since > UNKNOWN_SECONDS and transcript.ended:
            log.warning("its task does not know this run: its transcript is dropped", extra=_fields(transcript))
            self.dropped(transcript.waits)
            self._forget(transcript)

    def _failed(self, error: Exception) -> None:
        self._outage.failed(error)
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since >= PROBLEM_SECONDS:
            self._problems.report(
                ProblemKind.TRANSCRIPTS,
                "writing",
                f"transcripts cannot be stored: {db.reason(error)}",
                "their runs go on; what does not fit into memory is dropped, and noted there",
            )

    # ── preparing ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self) -> bool:
        """Turn a part of what waits into chunks. Whether there is any chunk to send."""
        own = frozenset(self._secrets())
        for transcript in list(self._open.values()):
            if not transcript.waiting or sum(c.size for c in transcript.chunks) > STATEMENT_BYTES:
                continue
            items: list[_Waiting] = []
            size = 0
            while transcript.waiting and (not items or size < PREPARED_BYTES):
                items.append(transcript.waiting.popleft())
                size += items[-1].size
            work = _clean(items, transcript.redactor_with(own, self._patterns), transcript.streams)
            try:
                lines, missing = await asyncio.to_thread(_listed, work)
            except asyncio.CancelledError:
                transcript.waiting.extendleft(reversed(items))
                raise
            if missing is not None:
                transcript.miss(missing)
            self._number(transcript, lines, size)
        return any(transcript.chunks for transcript in self._open.values())

    def _number(self, transcript: RunTranscript, lines: Sequence["_Line"], size: int) -> None:
        """`size`: of what they were made from, which waits no more."""
        self._waits -= size
        transcript.waits -= size
        for kind, path, text in _limited(transcript, lines, self._most_of_a_run):
            length = len(text.encode())
            last = transcript.chunks[-1] if transcript.chunks else None
            # One that was sent may be stored already: it stays as it is.
            if (
                last is None
                or last.number >= 0
                or (last.kind, last.path) != (kind, path)
                or path == OWN_PATH
                or last.size + length > BATCH_BYTES
            ):
                last = _Chunk(kind, path, "", 0)
                transcript.chunks.append(last)
            last.lines += text
            last.size += length
            transcript.stored += length
            transcript.waits += length
            self._waits += length
        for chunk in transcript.chunks:
            if chunk.number < 0:
                chunk.number = transcript.batches
                transcript.batches += 1
        if not transcript.chunks and transcript.ended and not transcript.waiting:
            self._open.pop(transcript.claim, None)


_Line = tuple[LineKind, str, str]
_END = "\0end"


def _limited(transcript: RunTranscript, lines: Sequence[_Line], most: int) -> Iterable[_Line]:
    """The lines, up to what is stored of a run. The last one is told here: only now it is known what is missing."""
    size = transcript.stored
    for kind, path, text in lines:
        if text == _END:
            yield LineKind.EVENT, OWN_PATH, end_line(transcript.missing)
            return
        if transcript.full:
            continue
        size += len(text.encode())
        if size > most:
            why = f"it is longer than {most:,} bytes: the rest is not stored"
            transcript.full = True
            transcript.miss(why)
            yield LineKind.EVENT, OWN_PATH, note_line(why)
            continue
        yield kind, path, text


def _listed(work: Iterable[_Line | str]) -> tuple[list[_Line], str | None]:
    """What `_clean` gives, and why it is not complete."""
    lines: list[_Line] = []
    missing = None
    for one in work:
        if isinstance(one, str):
            missing = missing or one
            lines.append((LineKind.EVENT, OWN_PATH, note_line(one)))
        else:
            lines.append(one)
    return lines, missing


def _clean(
    items: Sequence[_Waiting], redactor: Redactor, streams: dict[tuple[LineKind, str], _Stream]
) -> Iterable[_Line | str]:
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
            stream = streams.setdefault((LineKind.SESSION, path), _Stream())
            for row in rows:
                try:
                    yield LineKind.SESSION, path, dumped(redactor.row(row, stream.said)) + "\n"
                except RecursionError:
                    yield "a row of the session is nested too deep, and is left out"
        else:
            stream = streams.setdefault((LineKind.EVENT, ""), _Stream())
            yield LineKind.EVENT, "", redactor.event(item.line, stream.said) + "\n"


def _fields(transcript: RunTranscript) -> dict[str, object]:
    return {"task": transcript.claim.task_id}
