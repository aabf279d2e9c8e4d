"""Rows that the database refuses to let turbo write: one of them stops no statement over many rows.

    the statement ──refused──▶ its rows in portions, halved around a refusal ──▶ one row alone, refused: set aside
         ▲                                                                            │  ▲
         └──────────── leaves out the rows set aside ◀────────────────────────────────┘  │ again, after a pause that doubles
                                                        tried alone ─────────────────────┘
                                                             ├── taken, or gone: forgotten
                                                             └── refused for 15 s, while others were taken: failed as poison

A CHECK of the owner's, a trigger, an index that a long id does not fit: PostgreSQL refuses the whole statement, whichever row
it is about. Promises:
- The usual statement is sent as it is. Its variants (turbo.sql) are sent only while a row is refused.
- A row is set aside only if it was refused alone. It is failed only if the same statement took another row since: what
  refuses every row is wrong with the table, or with this worker's privileges, and fails no task.
- One call sends at most STATEMENTS statements more, in about SECONDS seconds; twice as many past a crowd. What is left is for
  the next call.
- What is set aside is remembered by this worker only. A row it loses sight of is refused again, and set aside again.
- Any number of refused rows stops neither claims nor promotions. At most RefusalTimings.most_aside of them are remembered. Two
  positions go over the rows by age, past those that are refused. One is ahead of all rows that were there when it became too
  many, so it finds a new row within a second. The other goes over the old ones again and again.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import psycopg

from turbo.db.connect import Connection
from turbo.db.errors import is_about_one_row, is_about_this_role, is_exhausted, why_refused
from turbo.db.positions import BEGINNING, NOW, After, Position
from turbo.db.refusals import REMEDY, Refusals
from turbo.db.store import rows
from turbo.domain.states import RowStatement, TaskState
from turbo.sql import Variant

STATEMENTS = 50
SECONDS = 0.3
SOON_SECONDS = 0.05
"""Until the next call, if this one did not get through all rows: other queues and other statements have their turn."""

NEW_SECONDS = 1.0
"""Until the next look at what has come, where more rows are refused than are set aside."""

SUSPICIOUS_SECONDS = 0.25
"""Between two calls over the old rows, as long as every row is refused, and once all have been tried."""

PASS_SECONDS = 30.0
"""Between two passes over the old rows: some of them could not be claimed at the time, for instance for their key."""

SUSPICIOUS = 20
"""After so many refusals in a row it may be every row that is refused: then one row is tried again, not all of them."""

EXHAUSTED_SECONDS = 5.0

Answer = TypeVar("Answer")
Ref = tuple[str, int | None]
"""A task's id and its fencing token."""


@dataclass(frozen=True, slots=True)
class Work(Generic[Answer]):
    """A statement over many rows, as turbo.sql has its variants.

    `send` sends one with the ids that it leaves out or takes. `which`: what it would take now, in its order, without some
    ids. `wrote`: how many rows an answer is about. `fail` fails one task as poison (`audit`: with an audit row), False if
    it has changed meanwhile. `full`: no more rows are wanted. `reads`: an answer is needed even if it takes no row. `after`: its
    rows by age. Without that, and with too many rows set aside, the statement waits until one of them is taken or gone.
    """

    send: Callable[[Variant | None, Sequence[str]], Awaitable[Answer]]
    which: Callable[[Sequence[str]], Awaitable[Sequence[Ref]]]
    wrote: Callable[[Answer], int]
    fail: Callable[[Ref, str, bool], Awaitable[bool]]
    full: Callable[[], bool] = lambda: False
    reads: bool = False
    after: After | None = None


@dataclass(slots=True, eq=False)
class _Row:
    """A row set aside. Times are monotonic seconds."""

    ref: Ref
    since: float
    due: float
    pause: float


@dataclass(slots=True, eq=False)
class _Crowd:
    """More refused rows than one call gets through. Every row is after `new`, or is met by `old` on its next pass. `reported`: more
    than are set aside, too."""

    new: Position = NOW
    old: Position = BEGINNING
    passed: bool = False  # the old rows were gone over once
    pass_at: float = 0.0  # when they may be gone over again, in monotonic seconds
    reported: bool = False


class _Budget:
    """Statements and seconds that one call may use."""

    def __init__(self, statements: int = STATEMENTS) -> None:
        self._left = statements
        self._until = time.monotonic() + SECONDS

    def take(self) -> bool:
        """Whether one more may be sent."""
        self._left -= 1
        return self._left >= 0 and time.monotonic() < self._until


class RefusedRows:
    """What one statement was refused, and the way around it. One user at a time; another one takes no rows meanwhile."""

    def __init__(self, statement: RowStatement, refusals: Refusals, queue: str | None = None) -> None:
        """`queue`: the only one whose rows the statement writes."""
        self._statement = statement
        self._queue = queue
        self._refusals = refusals
        self._timings = refusals.timings
        self._rows: dict[str, _Row] = {}
        self._took_at = float("-inf")
        self._in_a_row = 0  # refusals of single rows since something was taken
        self._probe_at = 0.0  # with SUSPICIOUS refusals in a row: when one row is tried again
        self._probe_pause = 0.0
        self._again_at: float | None = None
        self._crowd: _Crowd | None = None
        self._freed_at = float("-inf")  # when a row was last set aside no more
        self._last_refusal: psycopg.Error | None = None
        self._busy = False

    @property
    def any(self) -> bool:
        """Whether the usual statement is not enough for now."""
        return self._refuses or self._again_at is not None

    @property
    def _refuses(self) -> bool:
        return bool(self._rows) or self._crowd is not None

    @property
    def _has_room(self) -> bool:
        return len(self._rows) < self._timings.most_aside

    @property
    def again_in(self) -> float | None:
        """Seconds after which the statement should be sent again because of refused rows; None without any."""
        times = [] if self._again_at is None else [self._again_at]
        if self._rows:
            times.append(self._probe_at if self._suspicious else min(row.due for row in self._rows.values()))
        return max(SOON_SECONDS, min(times) - time.monotonic()) if times else None

    async def run(self, work: Work[Answer]) -> tuple[list[Answer], psycopg.Error | None]:
        """Send the statement; around rows that are refused, in several. The answers, the last one the most recent.

        An error that is not about a row is raised if there is no answer yet, and returned with the answers otherwise: what
        they took is taken. No answer at all: every row was refused."""
        self._again_at = None
        if not self._refuses:
            try:
                answer = await work.send(None, ())
            except psycopg.Error as error:
                if is_exhausted(error):
                    self._exhausted(error)
                    return await self._read_only(work), None
                if not is_about_one_row(error):
                    raise
            else:
                self._took(work.wrote(answer))
                return [answer], None
        if self._busy:
            return await self._read_only(work), None
        self._busy = True
        answers: list[Answer] = []
        try:
            if not await self._around(work, answers):
                answers += await self._read_only(work)
        except psycopg.Error as error:
            if is_exhausted(error):
                self._exhausted(error)
                answers += await self._read_only(work)
            elif not answers:
                raise
            else:
                return answers, error
        finally:
            self._busy = False
        return answers, None

    async def _read_only(self, work: Work[Answer]) -> list[Answer]:
        return [await work.send("only", ())] if work.reads else []

    async def _around(self, work: Work[Answer], answers: list[Answer]) -> bool:
        """Take what can be taken. False: not all of it was reached."""
        if self._crowd is not None and work.after is not None:
            return await self._past_a_crowd(work, work.after, self._crowd, answers)
        budget = _Budget()
        await self._retry(work, answers, budget)
        while not work.full():
            if not self._has_room:
                self._crowded(work)
                return False
            self._dispersed()
            if not budget.take():
                if self._suspicious and work.after is not None:
                    self._crowd = _Crowd()
                self._again_at = time.monotonic() + SOON_SECONDS
                return False
            aside = list(self._rows)
            try:
                answer = await work.send("aside", aside)
            except psycopg.Error as error:
                if not is_about_one_row(error):
                    raise
                refs = await work.which(aside)
                if not refs:
                    raise  # it is not about a row that would be taken
                await self._walk(work, refs, answers, budget)
            else:
                answers.append(answer)
                self._took(work.wrote(answer))
                return True
        return True

    def _crowded(self, work: Work[Answer]) -> None:
        """There are more refused rows than are set aside."""
        if self._crowd is None:
            self._crowd = _Crowd()
            self._again_at = time.monotonic() + SOON_SECONDS
        if not self._crowd.reported and self._last_refusal is not None:
            self._crowd.reported = True
            most, goes_on = self._timings.most_aside, work.after is not None
            self._refusals.crowded(self._statement, self._queue, most, self._last_refusal, goes_on)

    def _dispersed(self) -> None:
        crowd, self._crowd = self._crowd, None
        if crowd is not None and crowd.reported:
            self._refusals.dispersed(self._statement, self._queue)

    async def _past_a_crowd(self, work: Work[Answer], after: After, crowd: _Crowd, answers: list[Answer]) -> bool:
        """Take what has come since the crowd was noticed, try the rows set aside, and go on over the old ones. The new ones come
        first, so that no number of rows set aside delays them."""
        crowd.new, all_new = await self._walk_after(work, after, crowd.new, answers, _Budget())
        budget = _Budget()
        await self._retry(work, answers, budget)
        if not self._has_room:
            self._crowded(work)
        pause = SOON_SECONDS if self._has_room or not (self._suspicious or crowd.passed) else SUSPICIOUS_SECONDS
        if self._rests(crowd):
            pause = NEW_SECONDS if all_new else SOON_SECONDS
        else:
            crowd.old, all_old = await self._walk_after(work, after, crowd.old, answers, budget)
            if all_old and self._has_room:
                self._dispersed()
            elif all_old:
                crowd.old, crowd.passed, crowd.pass_at = BEGINNING, True, time.monotonic() + PASS_SECONDS
        self._again_at = time.monotonic() + pause
        return bool(answers)

    def _rests(self, crowd: _Crowd) -> bool:
        """Whether the old rows are left alone for now. They have all been tried once; the rest is to find those that could not be
        claimed then, and to set more of them aside as others are failed."""
        if self._has_room or not crowd.passed:
            return False
        now = time.monotonic()
        return now < crowd.pass_at or now < self._freed_at + PASS_SECONDS

    async def _walk_after(
        self, work: Work[Answer], after: After, position: Position, answers: list[Answer], budget: _Budget
    ) -> tuple[Position, bool]:
        """Take what comes after a position. How far that went, and whether it was everything."""
        while budget.take() and not (work.full() and position is not NOW):
            position, found = await after(position, list(self._rows))
            if not found:
                return position, True
            done = await self._walk(work, [ref for ref, _ in found], answers, budget)
            if done:
                position = found[done - 1][1]
        return position, False

    async def _walk(self, work: Work[Answer], refs: Sequence[Ref], answers: list[Answer], budget: _Budget) -> int:
        """Take `refs` in portions: half as many after a refusal, twice as many after none. A row refused alone is set
        aside. Returns how many were tried: the rows of a portion that filled the last slot may be claimable still."""
        place, size = 0, len(refs)
        while place < len(refs) and not work.full() and (self._has_room or self._crowd is not None) and budget.take():
            portion = refs[place : place + size]
            try:
                answer = await work.send("only", [task_id for task_id, _ in portion])
            except psycopg.Error as error:
                if not is_about_one_row(error):
                    raise
                if len(portion) == 1:
                    self._set_aside(portion[0], error)
                    place += 1
                size = max(1, len(portion) // 2)
            else:
                answers.append(answer)
                self._took(work.wrote(answer))
                if work.full():
                    break
                place += len(portion)
                size *= 2
        return place

    async def _retry(self, work: Work[Answer], answers: list[Answer], budget: _Budget) -> None:
        """Try rows alone whose pause is over."""
        for row in self._due():
            if work.full() or not budget.take():
                return
            try:
                answer = await work.send("only", [row.ref[0]])
            except psycopg.Error as error:
                if not is_about_one_row(error):
                    raise
                await self._refused_again(row, error, work)
            else:
                answers.append(answer)
                self._took(work.wrote(answer))
                self._forget(row)

    @property
    def _suspicious(self) -> bool:
        return self._in_a_row >= SUSPICIOUS

    def _due(self) -> list[_Row]:
        now = time.monotonic()
        if self._suspicious:
            first = min(self._rows.values(), key=lambda row: row.due, default=None)
            return [first] if first is not None and self._probe_at <= now else []
        return sorted((row for row in self._rows.values() if row.due <= now), key=lambda row: row.due)

    def _took(self, count: int) -> None:
        if not count:
            return
        self._took_at = time.monotonic()
        self._refusals.took()
        if self._suspicious:
            for row in self._rows.values():
                row.due = min(row.due, self._took_at)
        self._in_a_row, self._probe_pause = 0, 0.0

    def _refusal(self) -> None:
        self._in_a_row += 1
        if self._suspicious:
            self._probe_pause = min(max(2 * self._probe_pause, self._timings.first), self._timings.longest)
            self._probe_at = time.monotonic() + self._probe_pause

    def _set_aside(self, ref: Ref, error: psycopg.Error) -> None:
        """In a crowd without room the row is passed over."""
        now = time.monotonic()
        self._last_refusal = error
        self._refusal()
        self._refusals.refused(self._statement, ref[0], error)
        if self._has_room:
            self._rows[ref[0]] = _Row(ref, now, now + self._timings.first, self._timings.first)
            self._refusals.report(self._statement, ref[0], error)

    async def _refused_again(self, row: _Row, error: psycopg.Error, work: Work[Answer]) -> None:
        now = time.monotonic()
        row.pause = min(2 * row.pause, self._timings.longest)
        row.due = now + row.pause
        self._refusal()
        self._refusals.remind(self._statement, row.ref[0], error)
        self._refusals.report(self._statement, row.ref[0], error)
        patient = now - row.since < self._timings.patience
        # What row level security refuses may be another worker's to write.
        if not patient and self._took_at > row.since and not is_about_this_role(error):
            await self._fail(row, error, work)

    async def _fail(self, row: _Row, error: psycopg.Error, work: Work[Answer]) -> None:
        """Fail the task as poison, without an audit row if that is what is refused. A row that takes no change at all stays
        set aside."""
        message = (
            f"the database refuses what turbo writes into this row ({self._statement}): {why_refused(error)}; "
            f"{REMEDY}, then run turbo retry"
        )
        for audit in (True, False):
            try:
                failed = await work.fail(row.ref, message, audit)
            except psycopg.Error as refusal:
                if not is_about_one_row(refusal):
                    raise
                continue
            self._forget(row)
            if failed:
                self._in_a_row = 0
                self._refusals.failed(self._statement, row.ref[0], error)
            return

    def _forget(self, row: _Row) -> None:
        self._rows.pop(row.ref[0], None)
        self._freed_at = time.monotonic()
        self._refusals.forget(row.ref[0])

    def _exhausted(self, error: psycopg.Error) -> None:
        self._again_at = time.monotonic() + EXHAUSTED_SECONDS
        self._refusals.exhausted(self._statement, error)


async def fail_as_poison(
    connection: Connection,
    worker_id: str,
    statement: RowStatement,
    status: TaskState,
    ref: Ref,
    error: str,
    audit: bool,
) -> bool:
    """Fail a task that still has `status` and its token. False: it has not, or a person is editing it."""
    parameters = {"worker": worker_id, "statement": statement, "status": status, "error": error, "audit": audit}
    return bool(await rows(connection, "tasks/set_aside", {**parameters, "task_id": ref[0], "token": ref[1]}))
