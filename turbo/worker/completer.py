"""The completer: every result of a worker goes through here to the database, and none is lost.

    submitted ──durable──▶ spooled (fsync) ──▶ waiting ──batch──▶ recorded | already | late | gone ──▶ done/
              ──light────────────────────────▶ waiting            └── the database is away: keep, try again

A program's result is on disk before its slot is free. A python handler's goes straight to the database, and to the disk only
when that fails (an fsync per result would cap them at 2,200/s). One batch is in flight at a time, and what arrives
meanwhile makes the next one: no delay when idle, large batches under load.

A result that the database cannot store (SQLSTATE class 22) is found by halving the batch, put into quarantine, and recorded
as a pointer to it. A result that the table refuses (a CHECK of its owner, a foreign trigger) is found the same way, set
aside and sent again every minute: the constraint may be dropped, and the other results are not held up. So is one whose
row another transaction keeps locked, but sent again every few seconds.

A result keeps its slot until it is recorded (turbo.worker.slots). When none can be recorded for some seconds, nothing is
claimed until they are: a worker must not run what it cannot report.

While the disk takes nothing, results are held in memory and recorded directly (turbo.host.spool_writer).
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors

from turbo import db
from turbo.db.result_store import ResultAnswer, ResultStore
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.result import RunResult
from turbo.domain.states import RowStatement, TaskState, Verdict
from turbo.host.sanitize import sanitize_usage
from turbo.host.spool import SpoolEntry
from turbo.host.spool_writer import SpoolWriter
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.runtime.service import LoopService
from turbo.runtime.signal import Signal
from turbo.worker.slots import Slots
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)

BATCH_RESULTS = 200
BATCH_BYTES = 8 * 1024 * 1024
LIGHT_BYTES = 256
REFUSED_SECONDS = 60.0
LOCKED_SECONDS = 5.0
HOLD_SECONDS = 3.0
"""A restart of the server, or a switchover, is over sooner: claims are not held back for it."""


@dataclass(slots=True, eq=False)
class Submission:
    """A result on its way. `entry` None: it is not on disk. `replayed` counts the answers of one replay."""

    result: RunResult
    entry: SpoolEntry | None
    size: int = LIGHT_BYTES
    answered: bool = False
    refused: bool = False  # and logged
    locked: int = 0  # how often its row was locked
    replayed: "Counter[str] | None" = None


class Completer(LoopService):
    """`recorded` is emitted with each result and its answer."""

    name = "completer"

    def __init__(
        self,
        store: ResultStore,
        spool: SpoolWriter,
        slots: Slots,
        wakeups: WakeUps,
        problems: Problems,
        metrics: Metrics,
        hold_claims: Callable[[str | None], None],
        settle: Callable[[], None] = lambda: None,
        was_recorded: Callable[[str], None] = lambda _task_id: None,
        task_failed: Callable[[], None] = lambda: None,
        traced: Callable[[RunResult, ResultAnswer], None] = lambda _result, _answer: None,
    ) -> None:
        """`hold_claims` is called with why nothing may be claimed, and with None when that is over. `settle` is called when a task is
        over that others wait for; `was_recorded` with the id of each task whose result is answered; `task_failed` when a
        task has failed for good; `traced` with each result and its answer."""
        super().__init__()
        self._store = store
        self._spool = spool
        self._slots = slots
        self._wakeups = wakeups
        self._problems = problems
        self._metrics = metrics
        self._hold_claims = hold_claims
        self._settle = settle
        self._was_recorded = was_recorded
        self._task_failed = task_failed
        self._traced = traced
        self._holding = False
        self._unable: str | None = None  # why the last attempt to record failed
        self._patience: asyncio.TimerHandle | None = None
        self._waiting: deque[Submission] = deque()
        self._in_flight: list[Submission] = []
        self._refused: list[Submission] = []
        metrics.spool_pending.set_function(lambda: len(self._waiting) + len(self._in_flight) + len(self._refused))
        self._event = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.recorded: Signal[tuple[RunResult, ResultAnswer]] = Signal()

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, result: RunResult, *, durable: bool) -> None:
        """Take responsibility for `result`. A durable one is on disk when this returns, if the disk lets it."""
        entry = await self._spool.put(result) if durable else None
        self._push(Submission(result, entry, _size(result, entry)))

    async def replay(self, entries: Iterable[SpoolEntry], seconds: float | None) -> "Counter[str]":
        """Send results that are on disk, and wait up to `seconds` for the answers. How many got which answer; those that
        were waiting anyway are not counted."""
        replayed: Counter[str] = Counter()
        known = {s.entry.path for s in (*self._waiting, *self._in_flight, *self._refused) if s.entry is not None}
        for entry in entries:
            if entry.path not in known:
                self._push(Submission(entry.result, entry, _size(entry.result, entry), replayed=replayed))
        await self.flushed(seconds)
        return replayed

    async def flushed(self, seconds: float | None) -> bool:
        """Wait up to `seconds` until everything submitted is answered. False: some is not, or is refused; it is in the
        spool."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            await self._spool_light()
            return False
        return not self._refused

    def _push(self, submission: Submission) -> None:
        self._waiting.append(submission)
        self._empty.clear()
        self._event.set()

    # ── recording ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        outage = db.outage(log, "cannot record results, keeping them", "recording again")
        self.started.set()
        while True:
            await self._event.wait()
            self._event.clear()
            while self._waiting:
                batch = self._take()
                self._in_flight = batch
                self._expect_answers()
                try:
                    await self._record(batch)
                except db.DATABASE_ERRORS as error:
                    # Without those that were put aside: their timers send them again, or have done so meanwhile.
                    aside = (*self._refused, *self._waiting)
                    self._waiting.extendleft(s for s in reversed(batch) if not (s.answered or s in aside))
                    self._in_flight = []
                    # An error that waiting may not cure (a missing privilege) is tried again all the same: the privilege
                    # may be granted, and a result must not be thrown away.
                    pause = outage.failed(error)
                    self._slots.recording, self._unable = False, db.reason(error)
                    if self._holding:
                        self._hold()
                    await self._spool_light()
                    await asyncio.sleep(pause)
                else:
                    self._in_flight = []
                    outage.over()
                    self._answers_came()
            self._empty.set()

    def _expect_answers(self) -> None:
        """Hold back claims if results are not recorded soon."""
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._hold)

    def _database_answers(self) -> None:
        """It takes no whole batch, but it answers: the wait for the next answer begins anew."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._expect_answers()

    def _answers_came(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._slots.recording, self._unable = True, None
        if self._holding:
            self._holding = False
            self._hold_claims(None)
        self._wakeups.slot_freed(key=False)

    def _hold(self) -> None:
        self._holding, self._slots.recording = True, False
        self._hold_claims(f"results cannot be recorded: {self._unable or 'the database does not answer'}")

    def _take(self) -> list[Submission]:
        """The next batch. A result whose row was locked goes alone: it may make the whole batch wait for the lock again."""
        batch: list[Submission] = []
        size = 0
        while self._waiting and len(batch) < BATCH_RESULTS and (not batch or size < BATCH_BYTES):
            if self._waiting[0].locked:
                return batch or [self._waiting.popleft()]
            submission = self._waiting.popleft()
            size += submission.size
            batch.append(submission)
        return batch

    async def _record(self, batch: list[Submission]) -> None:
        """Send one batch; halve it around a result that is not taken."""
        unique = {(s.result.task_id, s.result.fencing_token): s for s in batch}
        answers: list[ResultAnswer] = []
        try:
            await self._store.finish([s.result for s in unique.values()], answers)
        except db.DATABASE_ERRORS as error:
            await self._take_answers(batch, unique, answers)  # to what was recorded before the error
            # A lock that a person holds is about one row, too, though waiting would help.
            if not isinstance(error, psycopg.Error) or not (
                db.is_about_one_row(error) or isinstance(error, errors.LockNotAvailable)
            ):
                raise
            self._database_answers()
            left = [s for s in batch if not s.answered]
            if len(left) > 1:
                half = len(left) // 2
                await self._record(left[:half])
                await self._record(left[half:])
            else:
                await self._not_taken(left[0], error)
        else:
            await self._take_answers(batch, unique, answers)

    async def _take_answers(
        self, batch: list[Submission], unique: dict[tuple[str, int], Submission], answers: list[ResultAnswer]
    ) -> None:
        """`unique`: the submissions of the batch that were sent; the others are copies of them."""
        for answer in answers:
            submission = unique.get((answer.task_id, answer.token))
            if submission is not None:
                await self._answered(submission, answer)
        for submission in batch:
            sent = unique[(submission.result.task_id, submission.result.fencing_token)]
            if sent is not submission and sent.answered:
                submission.answered = True
                await self._put_away(submission)

    async def _answered(self, submission: Submission, answer: ResultAnswer) -> None:
        submission.answered = True
        self._slots.recorded(ClaimRef(answer.task_id, answer.token))
        await self._put_away(submission)
        if submission.replayed is not None:
            submission.replayed[answer.verdict] += 1
            if answer.verdict is Verdict.RECORDED:
                log.info("recorded a result that was only on disk", extra={"task": answer.task_id})
        if submission.refused:
            log.info("recorded the result that was refused before", extra={"task": answer.task_id})
        if submission.refused or submission.locked:
            self._problems.clear(ProblemKind.REFUSED_RESULT, answer.task_id)
        if answer.verdict in (Verdict.LATE, Verdict.GONE):
            self._metrics.fenced.inc()
            late = answer.verdict is Verdict.LATE
            why = "another worker has the task; it is kept in the audit trail" if late else "the row was deleted"
            log.warning("result is %s: %s", answer.verdict, why, extra={"task": answer.task_id})
        self._follow_up(submission.result, answer)
        self._was_recorded(answer.task_id)
        self._traced(submission.result, answer)
        self.recorded.emit((submission.result, answer))

    def _follow_up(self, result: RunResult, answer: ResultAnswer) -> None:
        """Count what became of the task, and wake the claimer for its next attempt."""
        if answer.becomes is TaskState.FAILED:
            self._task_failed()
            if result.outcome == OutcomeKind.INFRASTRUCTURE:
                self._metrics.poisoned.inc()
        if answer.verdict is Verdict.ALREADY:
            # The answer to an earlier attempt was lost, with what became of the task: whoever would have been told looks.
            self._wakeups.poll_soon()
            self._settle()
            self._task_failed()
        if answer.needed:
            self._settle()
        if answer.becomes is TaskState.WAITING and result.answer_within is not None:
            self._wakeups.due_in(result.answer_within)  # a poll takes it out of `waiting` then
        if answer.verdict is not Verdict.RECORDED or answer.becomes not in (TaskState.SCHEDULED, TaskState.PENDING):
            return
        if result.outcome not in (OutcomeKind.CANCELLED, OutcomeKind.ASKED):
            self._metrics.retries.labels(result.queue, result.failure_kind or FailureKind.ERROR.value).inc()
        if answer.becomes is TaskState.SCHEDULED:
            self._wakeups.due_in(result.retry_delay_seconds)
        else:
            self._wakeups.wake(result.queue)

    async def _put_away(self, submission: Submission) -> None:
        if submission.entry is not None:
            await self._spool.done(submission.entry)

    # ── results that are not taken ──────────────────────────────────────────────────────────────────────────────────

    async def _not_taken(self, submission: Submission, error: psycopg.Error) -> None:
        result = submission.result
        if isinstance(error, errors.ForeignKeyViolation) and error.diag.table_name != "agent_tasks":
            # An adopted audit trail may refer to agent_tasks: it can keep nothing about a task that is gone.
            await self._answered(submission, ResultAnswer(result.task_id, result.fencing_token, Verdict.GONE, None))
        elif isinstance(error, errors.LockNotAvailable):
            await self._wait_for_lock(submission)
        elif db.is_unstorable(error) and "quarantined" not in result.detail:
            await self._quarantine(submission, error)
        else:
            await self._set_aside(submission, error)

    async def _quarantine(self, submission: Submission, error: psycopg.Error) -> None:
        """Keep the whole result on disk, and record the task with a pointer to it."""
        result = submission.result
        entry = submission.entry or await self._spool.put(result)
        where = "nowhere: the disk is full"
        if entry is not None:
            where = str(await self._spool.quarantine(entry, db.reason(error)))
        log.error("result cannot be stored, kept in %s: %s", where, db.reason(error), extra={"task": result.task_id})
        succeeded = result.outcome == OutcomeKind.SUCCEEDED
        submission.entry = None
        submission.result = replace(
            result,
            # A question that cannot be stored cannot be shown to anybody.
            outcome=OutcomeKind.FAILED.value if result.question is not None else result.outcome,
            question=None,
            uncounted=result.uncounted and result.question is None,
            output={"quarantined": where, "worker_id": result.worker_id},
            error=f"the result could not be stored in the database ({error.sqlstate}); it is kept in {where}",
            failure_kind=result.failure_kind or (None if succeeded else FailureKind.ERROR.value),
            detail={"quarantined": where},
            usage=sanitize_usage(result.usage, ascii_only=True),  # a name may be what it cannot store
        )
        await self._record([submission])

    async def _set_aside(self, submission: Submission, error: psycopg.Error) -> None:
        """The table does not take it as it is. It stays on disk, its task stays this worker's, and the others go on."""
        submission.entry = submission.entry or await self._spool.put(submission.result)
        if not submission.refused:
            submission.refused = True
            self._metrics.refused_rows.labels(RowStatement.FINISH).inc()
            log.error(
                "the database refuses this result (%s): it is kept in %s and sent again every %g s; "
                "change or drop the constraint or trigger that refuses it",
                db.reason(error),
                submission.entry.path if submission.entry else "memory",
                REFUSED_SECONDS,
                extra={"task": submission.result.task_id},
            )
            self._problems.report(
                ProblemKind.REFUSED_RESULT,
                submission.result.task_id,
                f"the result of task {submission.result.task_id} is refused by the database: {db.why_refused(error)}",
                "change or drop the constraint or trigger that refuses it; the result is kept, and sent again every minute",
            )
            if submission.replayed is not None:
                submission.replayed["refused"] += 1
        self._put_aside(submission, REFUSED_SECONDS)

    async def _wait_for_lock(self, submission: Submission) -> None:
        """Another transaction keeps the task's row locked. The others go on."""
        submission.entry = submission.entry or await self._spool.put(submission.result)
        submission.locked += 1
        task_id = submission.result.task_id
        if submission.locked == 2:
            log.warning("the task's row is locked by another transaction; its result waits", extra={"task": task_id})
            self._problems.report(
                ProblemKind.REFUSED_RESULT,
                task_id,
                f"the row of task {task_id} is locked by another transaction, so its result waits",
                "find that transaction in pg_locks and pg_stat_activity, and end it",
            )
        self._put_aside(submission, LOCKED_SECONDS)

    def _put_aside(self, submission: Submission, seconds: float) -> None:
        self._slots.set_aside(ClaimRef(submission.result.task_id, submission.result.fencing_token))
        self._refused.append(submission)
        asyncio.get_running_loop().call_later(seconds, self._send_again, submission)

    def _send_again(self, submission: Submission) -> None:
        self._refused.remove(submission)
        self._push(submission)

    async def _spool_light(self) -> None:
        """The database is away: what has no file yet gets one, so that a crash of this process loses nothing."""
        for submission in list(self._waiting):
            if submission.entry is None and self._spool.problem is None:
                submission.entry = await self._spool.put(submission.result)


def _size(result: RunResult, entry: SpoolEntry | None) -> int:
    """About how many bytes of a batch it takes."""
    return len(str(result.output)) + len(str(result.question)) if entry else LIGHT_BYTES
