"""The finisher: what was done is recorded. Every result of a worker goes through here, and none is lost.

    handed over ──durable──▶ spooled (fsync) ──▶ waiting ──batch──▶ recorded | already | late | gone ──▶ done/
                ──light────────────────────────▶ waiting            └── the database is away: stay, try again

A program's result is on disk before its slot is free; a python handler's goes straight to the database and to the disk
only when that fails (an fsync per result would cap them at 2,200/s). One batch is in flight at a time, and what arrives
meanwhile makes the next one: no delay when idle, large batches under load. A result that the database cannot store
(SQLSTATE class 22) is found by halving the batch, put into quarantine, and recorded as a pointer to it. One that the table
refuses (a CHECK of its owner's, a foreign trigger) is found likewise, set aside and sent again every minute: somebody may
drop the constraint, and the others are not held up.

When the disk takes nothing, results are held in memory and recorded directly, and `held_back` stops the claims.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors

from turbo import db
from turbo.db.claim_store import Queue, ResultAnswer
from turbo.db.connect import Backoff
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.result import RunResult
from turbo.host.spool import Spool, SpoolEntry, SpoolUnavailable
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service
from turbo.worker.slots import Slots

log = logging.getLogger(__name__)

BATCH_RESULTS = 200
BATCH_BYTES = 8 * 1024 * 1024
REFUSED_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Waiting:
    result: RunResult
    entry: SpoolEntry | None  # None: light, or the disk refused it
    size: int = 0
    settled: bool = False
    refused: bool = False  # said already
    tally: "Counter[str] | None" = None  # of a replay: what became of its results


class Completer(Service):
    name = "finisher"

    def __init__(
        self,
        queue: Queue,
        spool: Spool,
        slots: Slots,
        metrics: Metrics,
        recorded: Callable[[RunResult, ResultAnswer], None],
    ) -> None:
        super().__init__()
        self._queue = queue
        self._spool = spool
        self._slots = slots
        self._metrics = metrics
        self._recorded = recorded
        self._waiting: deque[Waiting] = deque()
        self._in_flight: list[Waiting] = []
        self._refused: list[Waiting] = []
        metrics.spool_pending.set_function(lambda: len(self._waiting) + len(self._in_flight) + len(self._refused))
        self._event = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.disk_trouble: str | None = None
        self.on_disk_change: Callable[[str | None], None] = lambda _reason: None

    # ── handing over ────────────────────────────────────────────────────────────────────────────────────────────────

    async def hand_over(self, result: RunResult, *, durable: bool) -> None:
        """Take responsibility for `result`. A durable one is on disk when this returns, if the disk lets it."""
        entry = await self._put(result) if durable else None
        self.push(result, entry)

    def push(self, result: RunResult, entry: SpoolEntry | None, tally: "Counter[str] | None" = None) -> None:
        """A result that is on disk already, or that need not be."""
        self._enqueue(Waiting(result, entry, len(str(result.output)) if entry else 256, tally=tally))

    def _enqueue(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._empty.clear()
        self._event.set()

    async def replay(self, entries: Iterable[SpoolEntry], seconds: float | None) -> "Counter[str]":
        """Send what is on disk, and wait up to `seconds` until it is answered. How many got which answer; those that were
        waiting anyway are not counted."""
        tally: Counter[str] = Counter()
        known = {w.entry.path for w in (*self._waiting, *self._in_flight, *self._refused) if w.entry is not None}
        for entry in entries:
            if entry.path not in known:
                self.push(entry.result, entry, tally)
        await self.flushed(seconds)
        return tally

    async def _put(self, result: RunResult) -> SpoolEntry | None:
        try:
            entry = await asyncio.to_thread(self._spool.put, result)
        except SpoolUnavailable as error:
            self._disk(str(error))
            return None
        return entry

    def _disk(self, trouble: str | None) -> None:
        """One warning when the disk stops taking results, one line when it takes them again."""
        if trouble is not None and self.disk_trouble is None:
            log.warning("spool is not writable: %s; recording directly, claiming nothing until it is", trouble)
        elif trouble is None and self.disk_trouble is not None:
            log.info("spool is writable again")
        if (trouble is None) != (self.disk_trouble is None):
            self.disk_trouble = trouble
            self.on_disk_change(trouble)

    async def check_disk(self) -> None:
        """Look whether the spool can be written again. Called now and then while it could not."""
        if self.disk_trouble is not None:
            try:
                await asyncio.to_thread(self._spool.probe)
            except SpoolUnavailable:
                return
            self._disk(None)

    # ── recording ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        backoff = Backoff()
        trouble = False
        while True:
            await self._event.wait()
            self._event.clear()
            while self._waiting:
                batch = self._take()
                self._in_flight = batch
                try:
                    await self._record(batch)
                except (psycopg.Error, OSError) as error:
                    self._waiting.extendleft(w for w in reversed(batch) if not (w.settled or w in self._refused))
                    self._in_flight = []
                    if not trouble:
                        level = logging.WARNING if db.is_transient(error) else logging.ERROR
                        log.log(
                            level, "cannot record %d results, keeping them: %s", len(self._waiting), db.reason(error)
                        )
                        trouble = True
                    await self._keep_light()
                    # An error that waiting may not cure (a missing privilege) is tried again all the same: somebody may
                    # grant it, and a result must not be thrown away.
                    await asyncio.sleep(backoff.next() if db.is_transient(error) else 5 * backoff.next())
                    continue
                self._in_flight = []
                backoff.reset()
                if trouble:
                    log.info("recording again")
                    trouble = False
            self._empty.set()

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH_RESULTS and (not batch or size < BATCH_BYTES):
            item = self._waiting.popleft()
            size += item.size
            batch.append(item)
        return batch

    async def _record(self, batch: list[Waiting]) -> None:
        """Send one batch; halve it around a result that is not taken."""
        unique = {(w.result.task_id, w.result.fencing_token): w for w in batch}
        try:
            answers = await self._queue.finish([w.result for w in unique.values()])
        except psycopg.Error as error:
            if not _is_of_one_result(error):
                raise
            if len(batch) > 1:
                half = len(batch) // 2
                await self._record(batch[:half])
                await self._record(batch[half:])
            elif isinstance(error, errors.ForeignKeyViolation) and error.diag.table_name != "agent_tasks":
                # an adopted trail may refer to agent_tasks: of a task that is gone it can keep nothing
                result = batch[0].result
                await self._settle(batch[0], ResultAnswer(result.task_id, result.fencing_token, "gone", None))
            elif _unstorable(error) and "quarantined" not in batch[0].result.detail:
                await self._quarantine(batch[0], error)
            else:
                await self._set_aside(batch[0], error)
            return
        for answer in answers:
            waiting = unique.get((answer.task_id, answer.token))
            if waiting is not None:
                await self._settle(waiting, answer)
        for waiting in batch:
            if unique[(waiting.result.task_id, waiting.result.fencing_token)] is not waiting:
                waiting.settled = True
                if waiting.entry is not None:
                    await asyncio.to_thread(self._spool.done, waiting.entry, "already")

    async def _settle(self, waiting: Waiting, answer: ResultAnswer) -> None:
        waiting.settled = True
        if waiting.entry is not None:
            await asyncio.to_thread(self._spool.done, waiting.entry, answer.verdict)
        self._slots.recorded(ClaimRef(answer.task_id, answer.token))
        if waiting.tally is not None:
            waiting.tally[answer.verdict] += 1
            if answer.verdict == "recorded":
                log.info("a result that was on disk only is recorded", extra={"task": answer.task_id})
        if waiting.refused:
            log.info("the result that was refused is recorded", extra={"task": answer.task_id})
        if answer.verdict in ("late", "gone"):
            self._metrics.fenced.inc()
            log.warning(
                "result is %s: %s",
                answer.verdict,
                "somebody else has the task; it is kept in the trail"
                if answer.verdict == "late"
                else "the row is gone",
                extra={"task": answer.task_id},
            )
        self._recorded(waiting.result, answer)

    async def _quarantine(self, waiting: Waiting, error: psycopg.Error) -> None:
        """Keep the whole result on disk, and record the task with a pointer to it."""
        entry = waiting.entry or await self._put(waiting.result)
        where = (
            str(await asyncio.to_thread(self._spool.quarantine, entry, db.reason(error)))
            if entry
            else "nowhere: the disk is full"
        )
        log.error(
            "result cannot be stored, kept in %s: %s", where, db.reason(error), extra={"task": waiting.result.task_id}
        )
        waiting.entry = None
        waiting.result = replace(
            waiting.result,
            output={"quarantined": where, "worker_id": waiting.result.worker_id},
            error=f"the result could not be stored in the database ({error.sqlstate}); it is kept in {where}",
            failure_kind=waiting.result.failure_kind
            or (None if waiting.result.outcome == OutcomeKind.SUCCEEDED else FailureKind.ERROR.value),
            detail={"quarantined": where},
        )
        await self._record([waiting])

    async def _set_aside(self, waiting: Waiting, error: psycopg.Error) -> None:
        """The table does not take it as it is. It stays on disk, its task stays this worker's, and the others go on."""
        waiting.entry = waiting.entry or await self._put(waiting.result)
        if not waiting.refused:
            waiting.refused = True
            log.error(
                "the database refuses this result (%s): it is kept in %s and sent again every %g s; drop or mend what refuses it",
                db.reason(error),
                waiting.entry.path if waiting.entry else "memory",
                REFUSED_SECONDS,
                extra={"task": waiting.result.task_id},
            )
            if waiting.tally is not None:
                waiting.tally["refused"] += 1
        self._refused.append(waiting)
        asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._once_more, waiting)

    def _once_more(self, waiting: Waiting) -> None:
        self._refused.remove(waiting)
        self._enqueue(waiting)

    async def _keep_light(self) -> None:
        """The database is away: what has no file yet gets one, so that a crash of this process loses nothing."""
        for waiting in list(self._waiting):
            if waiting.entry is None and self.disk_trouble is None:
                waiting.entry = await self._put(waiting.result)

    async def flushed(self, seconds: float | None) -> bool:
        """Wait up to `seconds` until everything handed over is recorded. What is not, or is refused, stays in the spool."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            await self._keep_light()
            return False
        return not self._refused


def _is_of_one_result(error: psycopg.Error) -> bool:
    """Whether a result in the batch may be why: what it holds, a constraint, or what a foreign trigger raises."""
    of_a_row = error.sqlstate is not None and error.sqlstate.startswith(("23", "P0"))
    return not db.is_transient(error) and (of_a_row or _unstorable(error))


def _unstorable(error: psycopg.Error) -> bool:
    """Class 22 (data exception) and 54 (limits), or text psycopg cannot send: this very result is at fault."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate.startswith(("22", "54"))
