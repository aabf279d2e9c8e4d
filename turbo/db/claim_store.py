"""Statements about claims: take tasks, poll, and compare this worker's runs with those that the database has."""

import asyncio
import functools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors

from turbo.db.account_store import AccountRow, pause_reason
from turbo.db.connect import Connection
from turbo.db.errors import is_about_one_row, is_key_race
from turbo.db.lane import Lane
from turbo.db.positions import Found, Position, rows_after
from turbo.db.refusals import Refusals
from turbo.db.row_by_row import Ref, RefusedRows, Work, fail_as_poison
from turbo.db.store import Row, Store, claim_columns, rows
from turbo.domain.claim import ClaimRef
from turbo.domain.limits import (
    HEAVY_CHARACTERS,
    KEY_CHARACTERS,
    TYPE_CHARACTERS,
    USUAL_LIMITS,
    InputLimits,
    too_many_values,
)
from turbo.domain.question import Answered, answered
from turbo.domain.states import AccountState, RowStatement, TaskState
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING, TypeFilter
from turbo.sql import Variant

DEFAULT_TIMEOUT_SECONDS = 300
MAX_TIMEOUT_SECONDS = 30 * 86_400
KEY_RACE_ATTEMPTS = 20

MOST_DUE = 1000
"""Rows that a poll promotes, as in tasks/poll.sql."""

REFUSED_BATCH = 100
"""Rows that a claim looks at, after the database refused one of those it would have taken."""

SHOWN_CHARACTERS = 1000
"""What is kept of a description that is too long."""

LOCKED_SECONDS = 5.0
"""Until the next look at an orphan whose row a person is editing."""


EARLIER_RUNS = 100
"""Runs of a task that asks whose use is carried along."""


@dataclass(frozen=True, slots=True)
class More:
    """What tasks/more.sql says of one task: see `Task.answers` and `Task.earlier_runs`."""

    answers: tuple[Answered, ...] = ()
    earlier_runs: tuple[Mapping[str, object], ...] = ()


NO_MORE = More()


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `idle_now`: the new idle flag, None if it did not change. `races`: concurrency keys lost to
    another claim. `again_in`: seconds after which to claim again because of refused rows. `failed`: the error that ended a
    claim around refused rows; the tasks are claimed all the same."""

    tasks: tuple[Task, ...]
    idle_now: bool | None
    races: int = 0
    again_in: float | None = None
    failed: Exception | None = None


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a poll saw.

    `next_in`: seconds until the next scheduled task is due, or a question's time is over; None without one.
    `again_in`: seconds after which to poll again because of refused rows. `asked_at`: when it was sent, in monotonic
    seconds: it cannot have seen what this process wrote later. `ended_below`: transactions with lower ids had ended, and are
    seen. `begun_below`: transactions with this id or a higher one had not begun.
    """

    due: int
    next_in: float | None
    runnable: tuple[str, ...]
    stop: tuple[str, ...]
    accounts: tuple[AccountRow, ...] = ()
    asked_at: float = 0.0
    ended_below: int = 0
    begun_below: int = 0
    again_in: float | None = None


@dataclass(frozen=True, slots=True)
class Differences:
    """Where the database and this worker differ (turbo.worker.reconciler), and which runs are to be stopped. `again_in`:
    seconds after which to compare again, because an orphan's row is locked or refused."""

    orphans: tuple[ClaimRef, ...]
    lost: tuple[ClaimRef, ...]
    stop: tuple[ClaimRef, ...]
    again_in: float | None = None


@dataclass(frozen=True, slots=True)
class Reasserted:
    """Claims that are this worker's again, and claims whose row the database does not let it write."""

    taken: tuple[ClaimRef, ...]
    refused: tuple[ClaimRef, ...] = ()


class ClaimStore(Store):
    """Bound to one worker. `accounts`: those whose breakers a poll reads."""

    def __init__(
        self,
        lane: Lane,
        worker_id: str,
        refusals: Refusals,
        *,
        host: str = "",
        accounts: Sequence[str] = (),
        limits: InputLimits = USUAL_LIMITS,
    ) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._refusals = refusals
        self._unclaimable: dict[str, RefusedRows] = {}  # by queue
        self._unpromoted = RefusedRows(RowStatement.PROMOTION, refusals)
        self._unreconciled = RefusedRows(RowStatement.RECONCILE, refusals)
        self._host = host
        self._limits = limits
        self._accounts = list(accounts)

    async def open(self) -> None:
        """Open the lane's connection, so that its observer knows the server before a claim is sent."""
        await self._lane.open()

    async def claim(self, queue: str, limit: int, *, may_idle: bool, types: TypeFilter = EVERYTHING) -> Claim:
        """Claim up to `limit` tasks of `queue` in claim order, and set the idle flag if that came back short."""
        parameters = {
            "worker": self._worker_id,
            "queue": queue,
            "only_types": None if types.include is None else list(types.include),
            "skip_types": list(types.exclude) or None,
            "characters": self._limits.characters + 1,
            "host": self._host,
        }
        tasks: list[Task] = []
        idle_now: bool | None = None
        races = 0

        async def send(variant: Variant | None, ids: Sequence[str]) -> int:
            nonlocal idle_now, races
            # Only a claim that leaves out nothing but refused rows shows that there is no more to claim.
            may = {"n": limit - len(tasks), "may_idle": may_idle and variant != "only"}
            found, lost = await self._claim({**parameters, **may, **_ids(variant, ids)}, variant)
            races += lost
            before = len(tasks)
            more = await self._more([row[0] for row in found if row[-2] is not None])
            for row in found:
                if row[0] is None:
                    continue
                task = _task(row, queue, self._limits, more.get(row[0], NO_MORE))
                tasks.append(task)
                if task.heavy:
                    await asyncio.sleep(0)  # the next one may be as heavy
            if found and found[0][-1] is not None:
                idle_now = found[0][-1]
            return len(tasks) - before

        async def which(aside: Sequence[str]) -> list[Ref]:
            return await self._which("tasks/claim", {**parameters, "n": max(limit, REFUSED_BATCH)}, aside)

        async def after(position: Position, aside: Sequence[str]) -> Found:
            return await self._use(lambda own: rows_after(own, "tasks/claim_after", {"queue": queue}, position, aside))

        refused = self._unclaimable.get(queue)
        if refused is None:
            refused = self._unclaimable[queue] = RefusedRows(RowStatement.CLAIM, self._refusals, queue)
        _, failed = await refused.run(
            Work(
                send,
                which,
                wrote=int,
                fail=functools.partial(self._fail, RowStatement.CLAIM, TaskState.PENDING),
                full=lambda: len(tasks) >= limit,
                after=after,
            )
        )
        tasks.sort(key=_claim_order)
        return Claim(tuple(tasks), idle_now, races, refused.again_in, failed)

    async def _claim(self, parameters: dict[str, object], variant: Variant | None) -> tuple[list[Row], int]:
        """What a claim returns, and how many races it lost. No rows: it lost them all."""
        for races in range(KEY_RACE_ATTEMPTS):
            try:
                return await self._rows("tasks/claim", parameters, variant=variant), races
            except errors.UniqueViolation as error:
                if not is_key_race(error):
                    raise
                # a sibling took the same concurrency_key; its commit is visible to the next attempt
        return [], KEY_RACE_ATTEMPTS

    async def _more(self, task_ids: Sequence[str]) -> dict[str, More]:
        """What claimed tasks bring besides their text, by task id. Without it a claim is as good as lost: its rows are given
        back."""
        if not task_ids:
            return {}
        found = await self._rows("tasks/more", {"task_id": list(task_ids)})
        return {
            task_id: More(answered(question, answer, earlier), tuple((runs or ())[-EARLIER_RUNS:]))
            for task_id, question, answer, earlier, runs in found
        }

    async def _which(self, name: str, parameters: Mapping[str, object], aside: Sequence[str]) -> list[Ref]:
        found = await self._rows(name, {**parameters, "aside": list(aside)}, variant="which")
        return [(task_id, token) for task_id, token in found]

    async def _fail(self, statement: RowStatement, status: TaskState, ref: Ref, error: str, audit: bool) -> bool:
        return await self._use(lambda own: fail_as_poison(own, self._worker_id, statement, status, ref, error, audit))

    async def poll(self, queues: Sequence[str], connection: Connection | None = None) -> PollResult:
        """Promote due tasks of `queues`, let questions expire, and read what changed.

        Sent on `connection` (the listener's), or on this store's lane."""
        parameters = {
            "worker": self._worker_id,
            "queues": list(queues),
            "accounts": self._accounts,
            "host": self._host,
        }
        if len(queues) == 1:
            parameters["queue"] = queues[0]
        if connection is None:
            return await self._use(lambda own: self._poll(own, parameters))
        return await self._poll(connection, parameters)

    async def _poll(self, connection: Connection, parameters: Mapping[str, object]) -> PollResult:
        async def send(variant: Variant | None, ids: Sequence[str]) -> PollResult:
            return await _poll(connection, {**parameters, **_ids(variant, ids)}, variant)

        async def which(aside: Sequence[str]) -> list[Ref]:
            found = await rows(connection, _poll_name(parameters), {**parameters, "aside": list(aside)}, "which")
            return [(task_id, token) for task_id, token in found]

        async def fail(ref: Ref, error: str, audit: bool) -> bool:
            for status in (TaskState.SCHEDULED, TaskState.WAITING):
                if await fail_as_poison(connection, self._worker_id, RowStatement.PROMOTION, status, ref, error, audit):
                    return True
            return False

        async def after(position: Position, aside: Sequence[str]) -> Found:
            return await rows_after(connection, "tasks/poll_after", {"queues": parameters["queues"]}, position, aside)

        refused = self._unpromoted
        work = Work(send, which, wrote=lambda answer: answer.due, fail=fail, reads=True, after=after)
        answers, failed = await refused.run(work)
        if failed is not None:
            raise failed
        due = sum(answer.due for answer in answers)
        return replace(answers[-1], due=due, again_in=refused.again_in) if refused.any else answers[-1]

    async def reconcile(self, known: Iterable[ClaimRef]) -> Differences:
        """Compare; the statement itself releases orphans. Never call it while a claim is under way."""
        parameters = self._claims(known)
        orphans: list[ClaimRef] = []

        async def send(variant: Variant | None, ids: Sequence[str]) -> dict[str, list[ClaimRef]]:
            found: dict[str, list[ClaimRef]] = {"orphan": [], "left": [], "lost": [], "stop": []}
            for what, task_id, token in await self._rows(
                "tasks/reconcile", parameters | _ids(variant, ids), None, variant
            ):
                found[what].append(ClaimRef(task_id, token))
            orphans.extend(found["orphan"])
            return found

        async def which(aside: Sequence[str]) -> list[Ref]:
            return await self._which("tasks/reconcile", parameters, aside)

        refused = self._unreconciled
        answers, failed = await refused.run(
            Work(
                send,
                which,
                wrote=lambda found: len(found["orphan"]),
                fail=functools.partial(self._fail, RowStatement.RECONCILE, TaskState.RUNNING),
                reads=True,
            )
        )
        if failed is not None:
            raise failed
        last = answers[-1]
        again_in = refused.again_in or (LOCKED_SECONDS if last["left"] else None)
        return Differences(tuple(orphans), tuple(last["lost"]), tuple(last["stop"]), again_in)

    async def reassert(self, lost: Mapping[ClaimRef, Answered | None]) -> Reasserted:
        """Take back claims that a failover lost, each with the last question and answer that its run was given.

        One by one: if a key now runs elsewhere, only that claim is lost."""
        taken: list[ClaimRef] = []
        refused: list[ClaimRef] = []
        for claim, answer in lost.items():
            given = {"number": [answer and answer.question.number], "answer": [answer and answer.answer]}
            try:
                found = await self._rows("tasks/reassert", self._claims([claim]) | given)
                taken += [ClaimRef(row[0], row[1]) for row in found]
            except psycopg.Error as error:
                if is_key_race(error):
                    continue
                if not is_about_one_row(error):
                    raise
                self._refusals.refused(RowStatement.REASSERT, claim.task_id, error)
                refused.append(claim)
        return Reasserted(tuple(taken), tuple(refused))

    def _claims(self, claims: Iterable[ClaimRef]) -> dict[str, object]:
        return {"worker": self._worker_id, **claim_columns(claims)}


def _ids(variant: Variant | None, ids: Sequence[str]) -> dict[str, object]:
    return {} if variant is None else {variant: list(ids)}


async def _poll(connection: Connection, parameters: Mapping[str, object], variant: Variant | None) -> PollResult:
    asked_at = time.monotonic()
    (row,) = await rows(connection, _poll_name(parameters), parameters, variant)
    due, next_in, runnable, stop, accounts, ended_below, begun_below, _ = row
    breakers = tuple(
        AccountRow(a["account"], a["host"], AccountState(a["state"]), pause_reason(a["reason"]), a["in"], a["probed"])
        for a in accounts or ()
    )
    queues = parameters["queues"]
    assert isinstance(queues, list)
    if due >= max(1, MOST_DUE // max(1, len(queues))):
        next_in = 0.0  # more may be due now
    return PollResult(due, next_in, tuple(runnable), tuple(stop), breakers, asked_at, ended_below, begun_below)


def _poll_name(parameters: Mapping[str, object]) -> str:
    queues = parameters["queues"]
    assert isinstance(queues, list)
    return "tasks/poll_one" if len(queues) == 1 else "tasks/poll"


def _claim_order(task: Task) -> tuple[int, float]:
    """Highest priority first, nulls last; then the longest wait."""
    return (-task.priority if task.priority is not None else 1 << 32, -task.waited_seconds)


def _task(row: tuple[Any, ...], queue: str, limits: InputLimits, more: More) -> Task:
    (
        task_id,
        task_type,
        description,
        raw,
        priority,
        timeout,
        retries,
        max_retries,
        infra,
        token,
        key,
        session,
        waited,
        _question,
        _idle_now,
    ) = row
    data: object = None
    seconds = float(timeout) if timeout is not None else DEFAULT_TIMEOUT_SECONDS
    problem = _unfit(seconds, key) or _too_long(task_type, description or "", raw or "", limits)
    if problem is not None:
        task_type, description = task_type[:TYPE_CHARACTERS], (description or "")[:SHOWN_CHARACTERS]
    elif raw is not None:
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            problem = f"input_data cannot be read: {error}"
    return Task(
        task_id=task_id,
        task_type=task_type,
        task_description=description or "",
        input_data=data,
        queue=queue,
        priority=priority,
        timeout_seconds=min(seconds, MAX_TIMEOUT_SECONDS) if seconds >= 1 else 1.0,
        retry_count=retries,
        max_retries=3 if max_retries is None else max(0, max_retries),
        infra_count=infra,
        fencing_token=token,
        concurrency_key=key,
        agent_session_id=session,
        waited_seconds=max(0.0, waited),
        input_error=problem,
        heavy=raw is not None and len(raw) > HEAVY_CHARACTERS,
        answers=more.answers,
        earlier_runs=more.earlier_runs,
    )


def _unfit(seconds: float, key: str | None) -> str | None:
    """What an insert would have refused: a person with the right to UPDATE may write it all the same."""
    if not seconds >= 1:  # nor is NaN
        return f"timeout_seconds is {seconds:g}; write at least 1, or null for {DEFAULT_TIMEOUT_SECONDS}"
    if key is not None and len(key) > KEY_CHARACTERS:
        return f"concurrency_key is longer than {KEY_CHARACTERS} characters; write a shorter one, or a hash of it"
    return None


def _too_long(task_type: str, description: str, raw: str, limits: InputLimits) -> str | None:
    """The first column that is longer than a worker takes. The claim has cut what is, so its real length is not known."""
    most, remedy = limits.characters, "; worker.max_input_mb of worker.yaml sets the limit"
    if len(raw) <= HEAVY_CHARACTERS and len(description) <= HEAVY_CHARACTERS and len(task_type) <= TYPE_CHARACTERS:
        return None
    if len(task_type) > TYPE_CHARACTERS:
        return f"task_type is longer than {TYPE_CHARACTERS:,} characters"
    for column, text in (("task_description", description), ("input_data", raw)):
        if len(text) > most:
            return f"{column} is longer than {most:,} characters{remedy}"
    return too_many_values("input_data", raw)
