"""Statements about claims: take tasks, and compare this worker's runs with those that the database has. Polls are sent here, too
(turbo.db.polls)."""

import asyncio
import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors

from turbo.db import claimed
from turbo.db.bypass import USUAL_BYPASSES, Bypasses, BypassTimings, Filtered, survey_parameters
from turbo.db.connect import Connection
from turbo.db.errors import is_about_one_row, is_key_race, is_transient, why_refused
from turbo.db.lane import Lane
from turbo.db.polls import PollResult, Polls
from turbo.db.positions import Found, Position, rows_after
from turbo.db.refusals import Refusals
from turbo.db.row_by_row import Ref, RefusedRows, Work, fail_as_poison
from turbo.db.store import Row, Store, claim_columns, ids_of
from turbo.domain.claim import ClaimRef
from turbo.domain.limits import USUAL_LIMITS, InputLimits
from turbo.domain.placement import STAY_SECONDS
from turbo.domain.question import Answered
from turbo.domain.states import RowStatement, TaskState
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING, TypeFilter
from turbo.sql import Variant

log = logging.getLogger(__name__)

KEY_RACE_ATTEMPTS = 20

TOKEN, MORE, IDLE_NOW, UNRANKED = 9, 13, 14, 15
"""Columns of tasks/claim.sql. The last only of a claim past rows at the head."""

REFUSED_BATCH = 100
"""Rows that a claim looks at, after the database refused one of those it would have taken."""

LOCKED_SECONDS = 5.0
"""Until the next look at an orphan whose row a person is editing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `idle_now`: the new idle flag, None if it did not change. `races`: concurrency keys lost to
    another claim. `again_in`: seconds after which to claim again because of refused rows. `failed`: the error that ended a
    claim around refused rows; the tasks are claimed all the same. `filtered`: what was asked for, for `survey`."""

    tasks: tuple[Task, ...]
    idle_now: bool | None
    races: int = 0
    again_in: float | None = None
    failed: Exception | None = None
    filtered: Filtered | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """`claimable`: a row was seen that this worker may take. `again_in`: seconds after which to claim again, for the survey that
    was not due yet."""

    claimable: bool = False
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
    """Bound to one worker. `labels`: what the `requires` of a task is compared with. `stay_seconds`: after so long it takes a task that
    waits for another host, but could run here. `accounts`: those whose breakers a poll reads. `has_files`: whether this host has a
    directory that is named by this task id: of a conversation, perhaps, whose first task is deleted, and this one is another."""

    def __init__(
        self,
        lane: Lane,
        worker_id: str,
        refusals: Refusals,
        *,
        host: str = "",
        labels: Mapping[str, str] | None = None,
        stay_seconds: float = STAY_SECONDS,
        accounts: Sequence[str] = (),
        limits: InputLimits = USUAL_LIMITS,
        has_files: Callable[[str], bool] | None = None,
        bypasses: BypassTimings = USUAL_BYPASSES,
    ) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._refusals = refusals
        self._unclaimable: dict[str, RefusedRows] = {}  # by queue
        self._unreconciled = RefusedRows(RowStatement.RECONCILE, refusals)
        self._place = json.dumps({"host": host, "labels": dict(labels or {}), "stay": stay_seconds})
        self._limits = limits
        self._bypasses = Bypasses(bypasses)
        self._messages_open = True  # not known before the first poll
        self._has_files = has_files
        self._conversations = True  # as above
        self._told_at = 0.0
        self._limits_known = False  # not knowing of limits means one task of a key at a time, never too many
        self._limits_told_at = 0.0
        self._polls = Polls(worker_id, refusals, host=host, accounts=accounts, stay_seconds=stay_seconds)

    async def open(self) -> None:
        """Open the lane's connection, so that its observer knows the server before a claim is sent."""
        await self._lane.open()

    async def claim(
        self,
        queue: str,
        limit: int,
        *,
        may_idle: bool,
        types: TypeFilter = EVERYTHING,
        spent: Sequence[Mapping[str, object]] = (),
        woken: bool = False,
    ) -> Claim:
        """Claim up to `limit` tasks of `queue` in claim order, and set the idle flag if that came back short. `spent`: see
        turbo.domain.budget.SpentQueue. `woken`: by a notification, or because a key came free. `survey` is to be called after it."""
        filtered = Filtered(queue, types, json.dumps(spent) if spent else "")
        name, parameters = self._filter(filtered)
        known = self._bypasses.get(filtered)
        past, bypassed = ("", {}) if known is None else known.parameters(woken=woken)
        tasks: list[Task] = []
        idle_now: bool | None = None
        races = 0
        slowest = 0.0

        async def send(variant: Variant | None, ids: Sequence[str]) -> int:
            if not past or variant == "only":
                return (await take("", variant, ids))[0]
            count, unranked = await take(past, variant, ids)
            # Rows without a priority come after all others, and no claim past rows at the head sees them.
            return count + (await take("", variant, ids))[0] if unranked and len(tasks) < limit else count

        async def take(past: str, variant: Variant | None, ids: Sequence[str]) -> tuple[int, bool]:
            nonlocal idle_now, races, slowest
            # Only a claim that leaves out nothing but refused rows shows that there is no more to claim.
            may = {"n": limit - len(tasks), "may_idle": may_idle and variant != "only", **(bypassed if past else {})}
            begun = time.monotonic()
            found, lost = await self._claim(name + past, {**parameters, **may, **ids_of(variant, ids)}, variant)
            slowest = max(slowest, time.monotonic() - begun)
            races += lost
            before = len(tasks)
            brings = await self._more(found)
            held = {task_id for task_id, more in brings.items() if more.untied}
            for row in found:
                if row[0] is None or row[0] in held:
                    continue
                task = claimed.task(row, queue, self._limits, brings.get(row[0], claimed.NO_MORE))
                tasks.append(task)
                if task.heavy:
                    await asyncio.sleep(0)  # the next one may be as heavy
            if found and found[0][IDLE_NOW] is not None:
                idle_now = found[0][IDLE_NOW]
            if held:
                await self._block([ClaimRef(row[0], row[TOKEN]) for row in found if row[0] in held])
            return len(tasks) - before + len(held), bool(past and found and found[0][UNRANKED])

        async def which(aside: Sequence[str]) -> list[Ref]:
            return await self._which(name + past, {**parameters, **bypassed, "n": max(limit, REFUSED_BATCH)}, aside)

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
        tasks.sort(key=claimed.claim_order)
        self._bypasses.claimed(filtered, slowest, took=bool(tasks), woken=woken)
        return Claim(tuple(tasks), idle_now, races, refused.again_in, failed, filtered)

    def _filter(self, filtered: Filtered) -> tuple[str, dict[str, object]]:
        """The name of a claim's statement, and its parameters but for what it may take."""
        types = filtered.types
        parameters: dict[str, object] = {
            "worker": self._worker_id,
            "queue": filtered.queue,
            "only_types": None if types.include is None else list(types.include),
            "skip_types": list(types.exclude) or None,
            "characters": self._limits.characters + 1,
            "place": self._place,
            **({"spent": filtered.spent} if filtered.spent else {}),
        }
        return "tasks/claim" + "+spent" * bool(filtered.spent) + "+limits" * self._limits_known, parameters

    async def survey(self, claim: Claim, *, short: bool) -> Surveyed:
        """After a claim: see whether rows at the head of the queue are in the way, if that is due (turbo.db.bypass). `short`: the
        claim took fewer tasks than it might have."""
        filtered, known = claim.filtered, self._bypasses
        if filtered is None or (due_in := known.due_in(filtered)) is None:
            return Surveyed()
        if due_in > 0:
            return Surveyed(again_in=due_in if short and not known.settled(filtered) else None)
        name, parameters = self._filter(filtered)
        begun = time.monotonic()
        try:
            rows = await self._rows(name, {**parameters, **survey_parameters(known.timings)}, variant="survey")
        except psycopg.Error as error:
            if is_transient(error):
                raise
            # A missing privilege is what the claims say themselves.
            level = logging.DEBUG if isinstance(error, psycopg.errors.InsufficientPrivilege) else logging.WARNING
            log.log(
                level, "cannot see what is in the way of claims from queue %s: %s", filtered.queue, why_refused(error)
            )
            known.survey_failed(filtered)
            return Surveyed()
        return Surveyed(claimable=known.surveyed(filtered, rows, time.monotonic() - begun))

    async def _claim(self, name: str, parameters: dict[str, object], variant: Variant | None) -> tuple[list[Row], int]:
        """What a claim or a reassertion returns, and how many races it lost. No rows: it lost them all."""
        for races in range(KEY_RACE_ATTEMPTS):
            try:
                return await self._rows(name, parameters, variant=variant), races
            except errors.UniqueViolation as error:
                if not is_key_race(error):
                    raise
                # a sibling took the same place of a concurrency_key; its commit is visible to the next attempt
        return [], KEY_RACE_ATTEMPTS

    async def _more(self, found: Sequence[Row]) -> dict[str, claimed.More]:
        """What claimed tasks bring besides their text, by task id. Without it a claim is as good as lost: its rows are given
        back."""
        task_ids = [row[0] for row in found if row[0] is not None and (row[MORE] or self._asks_for_more(row[0]))]
        if not task_ids:
            return {}
        rows = await self._rows("tasks/more", {"task_id": task_ids, **claimed.MORE_PARAMETERS})
        return dict(map(claimed.more, rows))

    def _asks_for_more(self, task_id: str) -> bool:
        return self._messages_open or (self._conversations and self._has_files is not None and self._has_files(task_id))

    async def _block(self, claims: Sequence[ClaimRef]) -> None:
        """Give back what must not run before the settler has looked at what it needs. Should that fail, the rows are orphans
        (tasks/reconcile.sql)."""
        log.warning(
            "claimed %d tasks with needs that nobody has looked at: they are given back, and wait for them. They came past "
            "the triggers of agent_tasks, as in a restore, or a failover lost what was known of their needs",
            len(claims),
        )
        await self._rows("tasks/block", {"worker": self._worker_id, **claim_columns(claims)})

    async def _which(self, name: str, parameters: Mapping[str, object], aside: Sequence[str]) -> list[Ref]:
        found = await self._rows(name, {**parameters, "aside": list(aside)}, variant="which")
        return [(task_id, token) for task_id, token in found]

    async def _fail(self, statement: RowStatement, status: TaskState, ref: Ref, error: str, audit: bool) -> bool:
        return await self._use(lambda own: fail_as_poison(own, self._worker_id, statement, status, ref, error, audit))

    async def poll(self, queues: Sequence[str], connection: Connection | None = None) -> PollResult:
        """Promote due tasks of `queues`, let questions expire, and read what changed.

        Sent on `connection` (the listener's), or on this store's lane."""
        if connection is None:
            result = await self._use(lambda own: self._polls.poll(own, queues))
        else:
            result = await self._polls.poll(connection, queues)
        self._conversations = result.conversations
        if result.messages or self._told_at < result.asked_at:
            self._messages_open = result.messages
        if result.limits or self._limits_told_at < result.asked_at:
            self._limits_known = result.limits
        return result

    def message_told(self) -> None:
        """Somebody has told a task something: until a poll finds no open message, each claim looks whether it is for its tasks. An
        INSERT cannot mark the row of the task, and a look in each claim would cost it 2 %."""
        self._messages_open, self._told_at = True, time.monotonic()

    def limits_told(self) -> None:
        """Somebody has written a limit, or removed one: until a poll finds none, claims ask how many tasks of a key may run."""
        self._limits_known, self._limits_told_at = True, time.monotonic()

    async def reconcile(self, known: Iterable[ClaimRef]) -> Differences:
        """Compare; the statement itself releases orphans. Never call it while a claim is under way."""
        parameters = self._claims(known)
        orphans: list[ClaimRef] = []

        async def send(variant: Variant | None, ids: Sequence[str]) -> dict[str, list[ClaimRef]]:
            found: dict[str, list[ClaimRef]] = {"orphan": [], "left": [], "lost": [], "stop": []}
            for what, task_id, token in await self._rows(
                "tasks/reconcile", parameters | ids_of(variant, ids), None, variant
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

        One by one: if a key has no place left, only that claim is lost."""
        taken: list[ClaimRef] = []
        refused: list[ClaimRef] = []
        for claim, answer in lost.items():
            given = {"number": [answer and answer.question.number], "answer": [answer and answer.answer]}
            try:
                found, _ = await self._claim("tasks/reassert", self._claims([claim]) | given, None)
                taken += [ClaimRef(row[0], row[1]) for row in found]
            except psycopg.Error as error:
                if not is_about_one_row(error):
                    raise
                self._refusals.refused(RowStatement.REASSERT, claim.task_id, error)
                refused.append(claim)
        return Reasserted(tuple(taken), tuple(refused))

    def _claims(self, claims: Iterable[ClaimRef]) -> dict[str, object]:
        return {"worker": self._worker_id, **claim_columns(claims)}
