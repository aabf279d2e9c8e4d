"""Statements about workers: this worker's row, its heartbeat, and the tasks of dead workers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from psycopg import DataError
from psycopg.rows import dict_row

from turbo.db import result_store
from turbo.db.connect import Connection
from turbo.db.errors import DATABASE_ERRORS, reason
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.row_by_row import Ref, RefusedRows, Work, fail_as_poison
from turbo.db.store import Store, claim_columns, rows
from turbo.domain.claim import ClaimRef
from turbo.domain.problem import Problem
from turbo.domain.states import RescueReason, RowStatement, TaskState, WorkerState
from turbo.host.sanitize import sanitize
from turbo.sql import Variant, statement

ASKING_SCHEMA = 12
"""The first schema with tasks that wait for a person."""

SLOW_SECONDS = 60.0
"""Deadline of statements that read much: counting a backlog, listing unfinished tasks."""


PORTION, MOST_PORTIONS = 5000, 200
"""Of tasks with requirements: how many are looked at by one statement, and how many statements are sent."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker writes about itself in `agent_workers`. Intervals are in seconds. `schema`: the newest that it knows."""

    name: str
    host: str
    pid: int
    version: str
    slots: int
    queues: tuple[str, ...]
    labels: dict[str, str]
    accounts: tuple[str, ...]
    metrics_address: str | None
    heartbeat_seconds: float
    lease_seconds: float
    poll_seconds: float
    schema: int | None = None


@dataclass(frozen=True, slots=True)
class Rescued:
    """A task taken back from the dead worker `was_on`, and its new status: a TaskState's value, unless a trigger of the
    table's owner wrote another one."""

    task_id: str
    queue: str
    status: str
    was_on: str


@dataclass(frozen=True, slots=True)
class BeatAnswer:
    """What one beat brought back. `alive` False: the row is gone, or was marked dead; register again. `queue_usage`: how full
    the server's notification queue is, from 0 to 1. `older`: of the queues whose tasks may ask, those that a live worker from
    before ASKING_SCHEMA serves, with its id."""

    alive: bool
    leads: bool
    died: tuple[str, ...]
    to_rescue: bool
    queue_usage: float = 0.0
    older: Mapping[str, str] = field(default_factory=dict)


class WorkerRegistry(Store):
    """Bound to one worker."""

    def __init__(self, lane: Lane, worker_id: str, refusals: Refusals) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._unrescued = RefusedRows(RowStatement.RESCUE, refusals)

    # ── this worker's row ───────────────────────────────────────────────────────────────────────────────────────────

    async def register(self, row: WorkerRow, state: WorkerState) -> None:
        parameters = {
            "worker": self._worker_id,
            "name": row.name,
            "host": row.host,
            "pid": row.pid,
            "version": row.version,
            "slots": row.slots,
            "queues": list(row.queues),
            "labels": json.dumps(row.labels),
            "accounts": list(row.accounts),
            "metrics_address": row.metrics_address,
            "state": state,
            "heartbeat": row.heartbeat_seconds,
            "lease": row.lease_seconds,
            "poll": row.poll_seconds,
            "schema": row.schema,
        }
        await self._run("workers/register", parameters)

    async def set_state(self, state: WorkerState) -> None:
        await self._run("workers/state", {"worker": self._worker_id, "state": state})

    async def set_idle(self, idle: bool) -> None:
        await self._run("workers/idle", {"worker": self._worker_id, "idle": idle})

    async def deregister(self) -> None:
        """Remove the row, and give up the leader's lease."""
        await self._run("workers/deregister", {"worker": self._worker_id})
        await self._run("workers/resign", {"worker": self._worker_id})

    # ── whose database, and whose files ─────────────────────────────────────────────────────────────────────────────

    async def database_id(self) -> str | None:
        """The identity of the database (turbo.db.identity)."""
        ((found,),) = await self._rows("workers/identity", {})
        return None if found is None else str(found)

    async def known(self, claims_by_owner: Mapping[str, Iterable[ClaimRef]]) -> set[str]:
        """The owners that this database knows, by a worker's id or by one of their claims."""
        known: set[str] = set()
        for owner, claims in claims_by_owner.items():
            with suppress(DataError):  # task ids of another kind than this database's: not its own
                known |= {row[0] for row in await self._rows("workers/known", {"owner": owner} | claim_columns(claims))}
        return known

    # ── the tasks of dead workers ───────────────────────────────────────────────────────────────────────────────────

    async def mark_dead(self, worker_ids: Sequence[str], host: str) -> list[str]:
        """Mark workers of this host dead whose process is known to be gone. Returns those the database knew."""
        return [row[0] for row in await self._rows("workers/mark_dead", {"dead": list(worker_ids), "host": host})]

    async def rescue(self, reason: RescueReason) -> list[Rescued]:
        """Take back the tasks of dead workers, all passes. A task whose row the database refuses stays with its dead worker,
        and is tried again by a later call."""
        parameters = {"worker": self._worker_id, "infra_cap": result_store.INFRA_CAP, "reason": reason}
        rescued: list[Rescued] = []

        async def send(variant: Variant | None, ids: Sequence[str]) -> int:
            more = {} if variant is None else {variant: list(ids)}
            batch = [Rescued(*row) for row in await self._rows("tasks/rescue", parameters | more, None, variant)]
            rescued.extend(batch)
            return len(batch)

        async def which(aside: Sequence[str]) -> list[Ref]:
            found = await self._rows("tasks/rescue", parameters | {"aside": list(aside)}, None, "which")
            return [(task_id, token) for task_id, token in found]

        async def fail(ref: Ref, error: str, audit: bool) -> bool:
            return await self._use(
                lambda own: fail_as_poison(
                    own, self._worker_id, RowStatement.RESCUE, TaskState.RUNNING, ref, error, audit
                )
            )

        work = Work(send, which, wrote=int, fail=fail)
        while True:
            before = len(rescued)
            try:
                _, failed = await self._unrescued.run(work)
            except DATABASE_ERRORS:
                if rescued:
                    return rescued  # they are to be counted and logged; the next beat asks for the others
                raise
            if failed is not None or len(rescued) == before:
                return rescued

    async def unfinished(self) -> list[str]:
        """The ids of tasks whose files are needed: they have run and are not finished, or a conversation that they began is not."""
        return [row[0] for row in await self._rows("tasks/unfinished", {}, SLOW_SECONDS)]

    async def unfinished_if_known(self) -> list[str] | None:
        """The same; None where the database cannot say."""
        try:
            return await self.unfinished()
        except DATABASE_ERRORS:
            return None

    async def goes_on(self, task_id: str) -> bool:
        """Whether another task of the same conversation is not over. True where the database cannot say."""
        try:
            ((goes_on,),) = await self._rows("tasks/conversation_goes_on", {"task_id": task_id})
        except DATABASE_ERRORS:
            return True
        return bool(goes_on)

    async def earlier_work(self, task_id: str) -> list[dict[str, object]]:
        """The `output_data.workspace` of a task's conversation: of its last run, of the last one that pushed its branch, and of the
        first one of this task. One that there is none of is empty. Raises OSError if the database cannot say."""
        try:
            found = await self._rows("tasks/earlier_work", {"task_id": task_id})
        except DATABASE_ERRORS as error:
            raise OSError(f"the database cannot say where the task worked before: {reason(error)}") from error
        ((last, pushed, own),) = found
        return [one if isinstance(one, dict) else {} for one in (last, pushed, own)]

    # ── the leader ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def gauges(self) -> list[dict[str, object]]:
        """The facts behind the fleet's gauges (observability.fleet_gauges)."""
        return await self._use(_gauges, SLOW_SECONDS)

    async def prune(self) -> None:
        """Delete the rows of workers that died long ago, and what was written of the requirements of tasks that are over."""
        await self._run("workers/prune", {})
        after: str | None = None
        for _ in range(MOST_PORTIONS):
            ((_, after),) = await self._rows("tasks/met", {"after": after, "most": PORTION}, SLOW_SECONDS)
            if after is None:
                return


async def _gauges(connection: Connection) -> list[dict[str, object]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement("workers/gauges"))
        return await cursor.fetchall()


async def beat(
    connection: Connection,
    worker_id: str,
    *,
    busy: int,
    problems: Sequence[Problem] = (),
    may_lead: bool,
    leader_lease: float,
    asking: Sequence[str] = (),
) -> BeatAnswer:
    """One beat, on the heartbeat's connection. `leader_lease` in seconds. `asking`: the queues whose tasks may ask a person."""
    parameters = {
        "worker": worker_id,
        "busy": busy,
        "problems": json.dumps(sanitize([asdict(problem) for problem in problems], set()), ensure_ascii=False),
        "may_lead": may_lead,
        "leader_lease": leader_lease,
        "asking": list(asking) or None,
        "asking_schema": ASKING_SCHEMA,
    }
    ((alive, leads, died, to_rescue, queue_usage, older, *_),) = await rows(connection, "workers/beat", parameters)
    return BeatAnswer(bool(alive), bool(leads), tuple(died), bool(to_rescue), float(queue_usage), older or {})
