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
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from turbo import db
from turbo.db.lane import Lane
from turbo.db.transcript_store import TranscriptStore, WriteVerdict
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import Outcome
from turbo.domain.problem import ProblemKind
from turbo.domain.redaction import BoundedPattern, Redactor, SecretsOf, ascii_json
from turbo.domain.run import Progress, Running
from turbo.domain.transcript import NO_TRANSCRIPT, LineKind, TranscriptBatch, TranscriptSink
from turbo.observability.metrics import Metrics
from turbo.runtime.backoff import Backoff
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService
from turbo.worker.run_transcript import Chunk, Line, RunTranscript, Stream, WaitingLine, cleaned, listed

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

STATEMENT_BYTES = 4 * 1024 * 1024
PREPARED_BYTES = 1024 * 1024
"""How much is prepared at once, in a thread: between two such pieces, others get their turn."""

RETRY_SECONDS = 10.0
UNKNOWN_SECONDS = 300.0
"""How long a run's batches wait for a row that does not know its claim."""

PROBLEM_SECONDS = 60.0
"""After so long without a write, people are told."""


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
            batches: list[tuple[RunTranscript, Chunk]] = []
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

    async def _send(self, batches: Sequence[tuple[RunTranscript, Chunk]]) -> bool:
        """False: a row does not know its claim yet."""
        rows: list[tuple[ClaimRef, TranscriptBatch]] = []
        digests: dict[tuple[ClaimRef, LineKind, str], Any] = {}
        for transcript, chunk in batches:
            key = (chunk.kind, chunk.path)
            digest = digests.get((transcript.claim, *key))
            if digest is None:
                digest = transcript.streams.setdefault(key, Stream()).digest.copy()
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

    async def _refused(self, batches: Sequence[tuple[RunTranscript, Chunk]], error: psycopg.Error) -> bool:
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

    def _gone(self, transcript: RunTranscript, chunk: Chunk) -> None:
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
            items: list[WaitingLine] = []
            size = 0
            while transcript.waiting and (not items or size < PREPARED_BYTES):
                items.append(transcript.waiting.popleft())
                size += items[-1].size
            work = cleaned(items, transcript.redactor_with(own, self._patterns), transcript.streams)
            try:
                lines, missing = await asyncio.to_thread(listed, work)
            except asyncio.CancelledError:
                transcript.waiting.extendleft(reversed(items))
                raise
            if missing is not None:
                transcript.miss(missing)
            self._number(transcript, lines, size)
        return any(transcript.chunks for transcript in self._open.values())

    def _number(self, transcript: RunTranscript, lines: Sequence[Line], size: int) -> None:
        """`size`: of what they were made from, which waits no more."""
        self._waits += transcript.take(lines, size, self._most_of_a_run)
        if not transcript.chunks and transcript.ended and not transcript.waiting:
            self._open.pop(transcript.claim, None)


def _fields(transcript: RunTranscript) -> dict[str, object]:
    return {"task": transcript.claim.task_id}
