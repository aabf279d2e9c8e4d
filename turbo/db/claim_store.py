"""Statements about claims: take tasks, poll, and compare this worker's runs with those that the database has."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import errors

from turbo.db.account_store import AccountRow, pause_reason
from turbo.db.connect import Connection
from turbo.db.lane import Lane
from turbo.db.store import Store, claim_columns, rows
from turbo.domain.claim import ClaimRef
from turbo.domain.states import AccountState
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING, TypeFilter

DEFAULT_TIMEOUT_SECONDS = 300
MAX_TIMEOUT_SECONDS = 30 * 86_400
KEY_RACE_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `idle_now`: the new idle flag, None if it did not change. `races`: concurrency keys lost to
    another claim."""

    tasks: tuple[Task, ...]
    idle_now: bool | None
    races: int = 0


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a poll saw.

    `next_in`: seconds until the next scheduled task is due, None without one. `asked_at`: when it was sent, in monotonic
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


@dataclass(frozen=True, slots=True)
class Differences:
    """Where the database and this worker differ (turbo.worker.reconciler), and which runs are to be stopped."""

    orphans: tuple[ClaimRef, ...]
    lost: tuple[ClaimRef, ...]
    stop: tuple[ClaimRef, ...]


class ClaimStore(Store):
    """Bound to one worker. `accounts`: those whose breakers a poll reads."""

    def __init__(self, lane: Lane, worker_id: str, *, host: str = "", accounts: Sequence[str] = ()) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._host = host
        self._accounts = list(accounts)

    async def open(self) -> None:
        """Open the lane's connection, so that its observer knows the server before a claim is sent."""
        await self._lane.open()

    async def claim(self, queue: str, limit: int, *, may_idle: bool, types: TypeFilter = EVERYTHING) -> Claim:
        """Claim up to `limit` tasks of `queue` in claim order, and set the idle flag if that came back short."""
        parameters = {
            "worker": self._worker_id,
            "queue": queue,
            "n": limit,
            "may_idle": may_idle,
            "only_types": None if types.include is None else list(types.include),
            "skip_types": list(types.exclude) or None,
        }
        for races in range(KEY_RACE_ATTEMPTS):
            try:
                found = await self._rows("tasks/claim", parameters)
            except errors.UniqueViolation:
                continue  # a sibling took the same concurrency_key; its commit is visible to the next attempt
            tasks = [_task(row, queue) for row in found if row[0] is not None]
            tasks.sort(key=_claim_order)
            return Claim(tuple(tasks), found[0][-1], races)
        return Claim((), None, KEY_RACE_ATTEMPTS)

    async def poll(self, queues: Sequence[str], connection: Connection | None = None) -> PollResult:
        """Promote due tasks and read what changed, on `connection` (the listener's) or on this store's lane."""
        parameters = {
            "worker": self._worker_id,
            "queues": list(queues),
            "accounts": self._accounts,
            "host": self._host,
        }
        if connection is None:
            async with self._lane.use() as connection:
                return await _poll(connection, parameters)
        return await _poll(connection, parameters)

    async def reconcile(self, known: Iterable[ClaimRef]) -> Differences:
        """Compare; the statement itself releases orphans. Never call it while a claim is under way."""
        found: dict[str, list[ClaimRef]] = {"orphan": [], "lost": [], "stop": []}
        for what, task_id, token in await self._rows("tasks/reconcile", self._claims(known)):
            found[what].append(ClaimRef(task_id, token))
        return Differences(tuple(found["orphan"]), tuple(found["lost"]), tuple(found["stop"]))

    async def reassert(self, lost: Iterable[ClaimRef]) -> list[ClaimRef]:
        """Take back claims that a failover lost. One by one: if a key now runs elsewhere, only that claim is refused."""
        taken: list[ClaimRef] = []
        for claim in lost:
            try:
                taken += [ClaimRef(row[0], row[1]) for row in await self._rows("tasks/reassert", self._claims([claim]))]
            except errors.UniqueViolation:
                continue
        return taken

    def _claims(self, claims: Iterable[ClaimRef]) -> dict[str, object]:
        return {"worker": self._worker_id, **claim_columns(claims)}


async def _poll(connection: Connection, parameters: Mapping[str, object]) -> PollResult:
    asked_at = time.monotonic()
    (row,) = await rows(connection, "tasks/poll", parameters)
    due, next_in, runnable, stop, accounts, ended_below, begun_below, _ = row
    breakers = tuple(
        AccountRow(a["account"], a["host"], AccountState(a["state"]), pause_reason(a["reason"]), a["in"], a["probed"])
        for a in accounts or ()
    )
    return PollResult(due, next_in, tuple(runnable), tuple(stop), breakers, asked_at, ended_below, begun_below)


def _claim_order(task: Task) -> tuple[int, float]:
    """Highest priority first, nulls last; then the longest wait."""
    return (-task.priority if task.priority is not None else 1 << 32, -task.waited_seconds)


def _task(row: tuple[Any, ...], queue: str) -> Task:
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
        _idle_now,
    ) = row
    data: object = None
    problem: str | None = None
    if raw is not None:
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            problem = f"input_data cannot be read: {error}"
    seconds = float(timeout) if timeout is not None else DEFAULT_TIMEOUT_SECONDS
    return Task(
        task_id=task_id,
        task_type=task_type,
        task_description=description or "",
        input_data=data,
        queue=queue,
        priority=priority,
        timeout_seconds=min(max(seconds, 1.0), MAX_TIMEOUT_SECONDS),
        retry_count=retries,
        max_retries=3 if max_retries is None else max_retries,
        infra_count=infra,
        fencing_token=token,
        concurrency_key=key,
        agent_session_id=session,
        waited_seconds=max(0.0, waited),
        input_error=problem,
    )
