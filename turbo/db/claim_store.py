"""The queue: the only module that runs SQL about tasks.

Each method is one statement of `turbo/sql/` and one round trip; what it promises stands in that file. All of it is right
with any number of workers at once, after a replay, and against rows that came past the triggers. Methods raise
psycopg.Error; `db.is_transient` tells whether to try again.

Claims, sweeps and the rest go over one lane, results over another, so that a long batch of results never holds up a claim.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import errors
from psycopg.rows import dict_row

from turbo.db.connect import Connection, Lane
from turbo.domain.claim import ClaimRef
from turbo.domain.result import RunResult
from turbo.domain.run import Progress
from turbo.domain.task import Task
from turbo.sql import statement
from turbo.worker.recovery_gate import RecoveryGate

INFRA_CAP = 5
"""Rescues and infrastructure outcomes of one task before it is failed as poison: a task that kills its worker must not
take the fleet round and round."""

DEFAULT_TIMEOUT_SECONDS = 300
MAX_TIMEOUT_SECONDS = 30 * 86_400
KEY_RACE_TRIES = 20


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `idle_now` is what the idle flag became, None when it stayed; `races` counts lost keys."""

    tasks: tuple[Task, ...]
    idle_now: bool | None
    races: int = 0


@dataclass(frozen=True, slots=True)
class ResultAnswer:
    """What the database says to one result: recorded | already | late | gone, and the task's status when recorded."""

    task_id: str
    token: int
    verdict: str
    becomes: str | None


@dataclass(frozen=True, slots=True)
class AccountRow:
    """A breaker as the table has it. `seconds` until somebody may probe it (a pause's end, a prober's lease), None for
    never. `probed`: the last to open it was a good probe, not a person. `cleared`: a good probe began after the moment
    that was asked about."""

    account: str
    host: str
    state: str
    reason: str | None
    seconds: float | None
    probed: bool = False
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a poll saw. `next_in`: seconds until the next scheduled task is due, None without one. `asked_at`: when it was
    sent, monotonic seconds: what this process wrote later it cannot have seen. `ended_below`, `begun_below`: transactions with
    lower ids are over, and seen; those with ids from there on had not begun."""

    due: int
    next_in: float | None
    runnable: tuple[str, ...]
    stop: tuple[str, ...]
    accounts: tuple["AccountRow", ...] = ()
    asked_at: float = 0.0
    ended_below: int = 0
    begun_below: int = 0


@dataclass(frozen=True, slots=True)
class Differences:
    """What the database and this worker do not agree on, and whom somebody wants stopped."""

    orphans: tuple[ClaimRef, ...]
    lost: tuple[ClaimRef, ...]
    stop: tuple[ClaimRef, ...]


@dataclass(frozen=True, slots=True)
class Rescued:
    task_id: str
    queue: str
    status: str
    was_on: str


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker says of itself in `agent_workers`. Intervals in seconds."""

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


class Queue:
    """The statements, bound to one worker and its lanes."""

    def __init__(
        self,
        worker_id: str,
        claims: Lane,
        results: Lane,
        *,
        host: str = "",
        accounts: Sequence[str] = (),
        settling: RecoveryGate | None = None,
    ) -> None:
        self.worker_id = worker_id
        self.host = host
        self.accounts = tuple(accounts)
        self._claims = claims
        self._results = results
        self._settling = settling

    # ── claiming ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def settled(self) -> None:
        """Before a claim: wait until what a crash or a failover may have forgotten is put back."""
        if self._settling is not None:
            await self._claims.open()
            await self._settling.settled()

    async def claim(
        self,
        queue: str,
        limit: int,
        *,
        may_idle: bool,
        only_types: Sequence[str] | None = None,
        skip_types: Sequence[str] | None = None,
    ) -> Claim:
        """Claim up to `limit` tasks of `queue` in claim order, and set the idle flag if that came back short."""
        parameters = {
            "worker": self.worker_id,
            "queue": queue,
            "n": limit,
            "may_idle": may_idle,
            "only_types": list(only_types) if only_types is not None else None,
            "skip_types": list(skip_types) if skip_types else None,
        }
        for races in range(KEY_RACE_TRIES):
            try:
                async with self._claims.use() as connection:
                    cursor = await connection.execute(statement("tasks/claim"), parameters)
                    rows = await cursor.fetchall()
            except errors.UniqueViolation:
                continue  # a sibling took the same concurrency_key; its commit is visible to the next try
            tasks = [_task(row, queue) for row in rows if row[0] is not None]
            tasks.sort(key=_claim_order)
            return Claim(tuple(tasks), rows[0][-1], races)
        return Claim((), None, KEY_RACE_TRIES)

    async def sweep(self, queues: Sequence[str], connection: Connection | None = None) -> PollResult:
        """Promote what is due and look what there is, on `connection` (the listener's own) or on the claims' lane."""
        if connection is None:
            async with self._claims.use() as own:
                return await self.sweep(queues, own)
        parameters = {
            "worker": self.worker_id,
            "queues": list(queues),
            "accounts": list(self.accounts),
            "host": self.host,
        }
        asked_at = time.monotonic()
        row = await (await connection.execute(statement("tasks/poll"), parameters)).fetchone()
        assert row is not None
        due, next_in, runnable, stop, accounts, ended_below, begun_below, _ = row
        breakers = tuple(
            AccountRow(a["account"], a["host"], a["state"], a["reason"], a["in"], a["probed"]) for a in accounts or ()
        )
        return PollResult(due, next_in, tuple(runnable), tuple(stop), breakers, asked_at, ended_below, begun_below)

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self, results: Sequence[RunResult]) -> list[ResultAnswer]:
        """Record a batch in one transaction with its trail. Every result gets an answer; see sql/tasks/finish.sql."""
        parameters = {
            "worker": self.worker_id,
            "results": json.dumps([_document(result, self.worker_id) for result in results]),
            "infra_cap": INFRA_CAP,
        }
        async with self._results.use() as connection:
            cursor = await connection.execute(statement("tasks/finish"), parameters)
            return [ResultAnswer(*row) for row in await cursor.fetchall()]

    async def release(
        self, held: Iterable[tuple[ClaimRef, str | None]], reason: str, *, delay: float = 0.0
    ) -> list[ClaimRef]:
        """Give tasks back without a try, each with the agent's session id where one is to be resumed; claimable again
        in `delay` seconds."""
        items = list(held)
        async with self._results.use() as connection:
            cursor = await connection.execute(
                statement("tasks/release"),
                {
                    "worker": self.worker_id,
                    "task_id": [h.task_id for h, _ in items],
                    "token": [h.token for h, _ in items],
                    "session": [session for _, session in items],
                    "reason": reason,
                    "delay": delay,
                },
            )
            return [ClaimRef(row[0], row[1]) for row in await cursor.fetchall()]

    async def progress(
        self, connection: Connection, said: Mapping[ClaimRef, Progress], over: Sequence[ClaimRef]
    ) -> None:
        """Where runs are, and which of them are over, on `connection` (the progress loop's own)."""
        parameters = {
            "worker": self.worker_id,
            "task_id": [held.task_id for held in said],
            "token": [held.token for held in said],
            "line": [progress.text for progress in said.values()],
            "input_tokens": [progress.input_tokens for progress in said.values()],
            "output_tokens": [progress.output_tokens for progress in said.values()],
            "over_id": [held.task_id for held in over],
            "over_token": [held.token for held in over],
        }
        await connection.execute(statement("tasks/progress"), parameters)

    # ── leases ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def reconcile(self, known: Iterable[ClaimRef]) -> Differences:
        """Compare; orphans are released by the statement itself. Never call it while a claim is under way."""
        found: dict[str, list[ClaimRef]] = {"orphan": [], "lost": [], "stop": []}
        async with self._claims.use() as connection:
            cursor = await connection.execute(statement("tasks/reconcile"), self._held(known))
            for what, task_id, token in await cursor.fetchall():
                found[what].append(ClaimRef(task_id, token))
        return Differences(tuple(found["orphan"]), tuple(found["lost"]), tuple(found["stop"]))

    async def reassert(self, lost: Iterable[ClaimRef]) -> list[ClaimRef]:
        """Take claims back that a failover lost. One by one: a key that meanwhile runs elsewhere refuses only itself."""
        taken: list[ClaimRef] = []
        for held in lost:
            try:
                async with self._claims.use() as connection:
                    cursor = await connection.execute(statement("tasks/reassert"), self._held([held]))
                    taken += [ClaimRef(row[0], row[1]) for row in await cursor.fetchall()]
            except errors.UniqueViolation:
                continue
        return taken

    async def rescue(self, reason: str) -> list[Rescued]:
        """Take back the tasks of dead workers, all passes. `reason`: worker_silent | worker_restarted."""
        rescued: list[Rescued] = []
        while True:
            async with self._claims.use() as connection:
                cursor = await connection.execute(
                    statement("tasks/rescue"), {"worker": self.worker_id, "infra_cap": INFRA_CAP, "reason": reason}
                )
                batch = [Rescued(*row) for row in await cursor.fetchall()]
            rescued += batch
            if not batch:
                return rescued

    async def unfinished(self) -> list[str]:
        """The ids of tasks that were run and are not over."""
        async with self._claims.use(deadline=60) as connection:
            return [row[0] for row in await (await connection.execute(statement("tasks/unfinished"))).fetchall()]

    async def bury(self, dead: Sequence[str], host: str) -> list[str]:
        """Declare siblings of this host dead whose process is known to be gone. Returns those the database knew."""
        async with self._claims.use() as connection:
            cursor = await connection.execute(statement("workers/mark_dead"), {"dead": list(dead), "host": host})
            return [row[0] for row in await cursor.fetchall()]

    # ── the worker's own row ────────────────────────────────────────────────────────────────────────────────────────

    async def register(self, me: WorkerRow, state: str) -> None:
        parameters = {
            "worker": self.worker_id,
            "name": me.name,
            "host": me.host,
            "pid": me.pid,
            "version": me.version,
            "slots": me.slots,
            "queues": list(me.queues),
            "labels": json.dumps(me.labels),
            "accounts": list(me.accounts),
            "metrics_address": me.metrics_address,
            "state": state,
            "heartbeat": me.heartbeat_seconds,
            "lease": me.lease_seconds,
            "poll": me.poll_seconds,
        }
        await self._run("workers/register", parameters)

    async def set_state(self, state: str) -> None:
        await self._run("workers/state", {"worker": self.worker_id, "state": state})

    async def set_idle(self, idle: bool) -> None:
        await self._run("workers/idle", {"worker": self.worker_id, "idle": idle})

    async def deregister(self) -> None:
        await self._run("workers/deregister", {"worker": self.worker_id})
        await self._run("workers/resign", {"worker": self.worker_id})

    # ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def account(self, name: str, **parameters: object) -> Any:
        """Run one of the account_*.sql statements. The first column of its row; None when it changed nothing."""
        async with self._claims.use() as connection:
            cursor = await connection.execute(statement(name), {"worker": self.worker_id, **parameters})
            row = await cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    async def account_rows(self, account: str, since: datetime | None = None) -> tuple[AccountRow, ...]:
        """This host's row and that of all hosts. `since`: the database's moment that `cleared` asks about."""
        parameters = {"account": account, "host": self.host, "since": since}
        async with self._claims.use() as connection:
            cursor = await connection.execute(statement("accounts/rows"), parameters)
            return tuple(AccountRow(*row) for row in await cursor.fetchall())

    # ── the leader ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def gauges(self) -> list[dict[str, object]]:
        async with self._claims.use(deadline=60) as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement("workers/gauges"))
            return await cursor.fetchall()

    async def prune_workers(self) -> None:
        await self._run("workers/prune", {})

    async def probe(self, channel: str, payload: str) -> None:
        """Send one NOTIFY, from another session than the listener's: a pooler may deliver a session's own to itself."""
        await self._run("workers/notify", {"channel": channel, "payload": payload})

    async def wake_all(self, queue: str) -> None:
        """Wake every idle worker of `queue`, as the insert trigger does where few are idle."""
        await self.probe(f"turbo_q_{queue}", "")

    async def _run(self, name: str, parameters: dict[str, object]) -> None:
        async with self._claims.use() as connection:
            await connection.execute(statement(name), parameters)

    def _held(self, held: Iterable[ClaimRef]) -> dict[str, object]:
        items = list(held)
        return {
            "worker": self.worker_id,
            "task_id": [h.task_id for h in items],
            "token": [h.token for h in items],
        }


def _document(result: RunResult, worker_id: str) -> dict[str, object]:
    """One result as sql/tasks/finish.sql reads it. What is usual is left out: server and client pay for every word."""
    document: dict[str, object] = {
        "task_id": result.task_id,
        "token": result.fencing_token,
        "outcome": result.outcome,
        "output": result.output,
        "ms": result.execution_ms,
    }
    if result.detail:
        document["detail"] = result.detail
    if result.worker_id != worker_id:
        document["worker"] = result.worker_id
    if result.retry_delay_seconds:
        document["delay"] = result.retry_delay_seconds
    if result.final:
        document["final"] = True
    if result.uncounted:
        document["uncounted"] = True
    if result.error is not None:
        document["error"] = result.error
    if result.failure_kind is not None:
        document["kind"] = result.failure_kind
    if result.agent_session_id is not None:
        document["session"] = result.agent_session_id
    return document


def _claim_order(task: Task) -> tuple[int, float]:
    """Highest priority first, nulls last; then who waited longest."""
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
