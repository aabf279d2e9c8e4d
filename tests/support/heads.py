"""Rows at the head of a queue that a worker may not take now, of every kind, and how many entries of the claim's index it reads."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support.steps import ME
from tests.support.stores import Stores
from tests.support.work_rows import past_the_judges
from turbo.db.bypass import BypassTimings
from turbo.db.claim_store import Claim
from turbo.db.lane import Lane
from turbo.domain.states import WorkerState
from turbo.domain.type_filter import EVERYTHING, TypeFilter

EAGER = BypassTimings(slow=-1.0, none=0.0, soon=0.0, longest=0.0, hasty=0.0, young=0.0)
"""A survey is due after every claim."""


@dataclass(frozen=True)
class Kind:
    """A reason for which a worker on host `h` may not take a row. `column`: what its rows have; `opened`: what lets them be claimed.
    `types`, `spent`: what its claims leave out."""

    column: Mapping[str, str]
    opened: str
    types: TypeFilter = EVERYTHING
    spent: Sequence[Mapping[str, object]] = ()


KINDS = {
    "a paused account's type": Kind({"task_type": "b"}, "task_type = 'a'", types=TypeFilter(exclude=("b",))),
    "a spent budget": Kind({"submitted_by": "ann"}, "submitted_by = 'bob'", spent=[{"by": "ann", "open": []}]),
    "a full key": Kind({"concurrency_key": "k"}, "concurrency_key = 'other'"),
    "a label that this host lacks": Kind({"requires": '{"xcode": "16"}'}, "requires = null"),
    "another host's conversation": Kind({"prefer_host": "elsewhere"}, "prefer_host = null"),
}


def load(
    db: psycopg.Connection[Any],
    kind: Kind | None,
    rows: int,
    *,
    priority: int = 5,
    queue: str = "default",
    days: int = 2,
    name: str = "",
) -> None:
    """So many pending rows from some days ago on, a millisecond apart, past the triggers. None: rows that anybody may take."""
    column = {} if kind is None else kind.column
    names, values = "".join(f", {name}" for name in column), "".join(f", '{value}'" for value in column.values())
    name = name or f"{'free' if kind is None else 'held'}-{queue}-{priority}"
    past_the_judges(
        db,
        f"insert into agent_tasks (task_id, task_description, queue, task_priority, run_after{names})"
        f" select '{name}-' || n, 'x', '{queue}', {priority}, now() - interval '{days} days' + n * interval '1 ms'{values}"
        f" from generate_series(1, {rows}) n",
    )


def keep_busy(db: psycopg.Connection[Any], *keys: str) -> None:
    """A run of somebody else has each of these keys."""
    past_the_judges(
        db,
        "insert into agent_tasks (task_id, task_description, queue, status, assigned_worker_id, fencing_token, concurrency_key)"
        f" select 'run-' || k, 'x', 'elsewhere', 'running', 'somebody', 7, k from unnest('{{{','.join(keys)}}}'::text[]) k",
    )


def let_go(db: psycopg.Connection[Any], key: str) -> None:
    """The run of `keep_busy` ends."""
    db.execute(
        "update agent_tasks set status = 'completed', turbo_rev = turbo_rev + 1 where task_id = %s", [f"run-{key}"]
    )


@dataclass
class HeadWorker:
    """A worker whose claims and surveys a test sends. `reads`: entries of the claim's index that the last claim read."""

    stores: Stores
    lane: Lane
    db: psycopg.Connection[Any]
    reads: int = 0
    last: Claim | None = field(default=None)

    async def claim(
        self, kind: Kind | None = None, limit: int = 1, *, queue: str = "default", woken: bool = False
    ) -> list[str]:
        """The ids of what it claimed, in claim order."""
        types, spent = (EVERYTHING, ()) if kind is None else (kind.types, kind.spent)
        before = await self._read()
        self.last = await self.stores.claims.claim(queue, limit, may_idle=False, types=types, spent=spent, woken=woken)
        self.reads = await self._read() - before
        return [task.task_id for task in self.last.tasks]

    async def survey(self) -> bool:
        """Whether it sees a row to take."""
        assert self.last is not None
        return (await self.stores.claims.survey(self.last, short=True)).claimable

    async def _read(self) -> int:
        async with self.lane.use() as connection:
            await connection.execute("select pg_stat_force_next_flush()")
        (read,) = self.db.execute(
            "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'agent_tasks_claim'"
        ).fetchone() or (0,)
        return int(read)


@contextlib.asynccontextmanager
async def head_worker(
    dsn: str, db: psycopg.Connection[Any], timings: BypassTimings = EAGER, *, name: str = "w"
) -> AsyncIterator[HeadWorker]:
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    for lane in lanes:
        lane.prepare_statements(True)
    stores = Stores(f"{name}-1-abc", *lanes, host="h", bypasses=timings)
    await stores.registry.register(ME, WorkerState.UP)
    try:
        yield HeadWorker(stores, lanes[0], db)
    finally:
        for lane in lanes:
            await lane.close()
