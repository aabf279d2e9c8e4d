"""A settler's statements and passes, taken by hand: for tests of tasks that wait for others.

async with stepped(dsn, "settle/settle") as step:      # a settler that has read, and stands still in mid-statement
    ...                                                # what others do meanwhile
step.done                                              # the pass has ended
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psycopg

from tests.model.mutations import Mutation, edited
from tests.support.steps import ended
from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo import sql
from turbo.db.channels import Notifier
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals, RefusalTimings
from turbo.db.settle_store import SettleStore
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.observability.metrics import Metrics
from turbo.runtime.backoff import Backoff
from turbo.runtime.problems import Problems
from turbo.worker.settler import Settled, Settler
from turbo.worker.wakeups import WakeUps

Connection = psycopg.Connection[Any]

PAUSE_KEY = 77
_PAUSE = f"with recursive pause as materialized (select pg_advisory_xact_lock_shared({PAUSE_KEY})::text as p), "
_PAUSED = "where (select p.p from pause p) is not null and "
_PAUSES = {
    "settle/settle": (
        ("with recursive over as materialized (", _PAUSE + "over as materialized ("),
        ("where t.needed is true and t.status not in", _PAUSED + "t.needed is true and t.status not in"),
    ),
    "settle/tie": (
        ("with recursive note as materialized (", _PAUSE + "note as materialized ("),
        ("where u.note_id > %(after)s", _PAUSED + "u.note_id > %(after)s"),
    ),
}
"""A statement that has its snapshot, and then waits for an advisory lock before it looks at any row."""


class Hand:
    """One settler. `store`: its statements, one by one. `one_pass`: what it does when it is woken."""

    def __init__(self, dsn: str, worker_id: str = "w-1-abc", *, lock_seconds: float | None = 5.0) -> None:
        self.lane = Lane(dsn, f"turbo settle {worker_id}", lock_seconds=lock_seconds)
        self.lane.prepare_statements(True)
        self.store = SettleStore(self.lane, worker_id, Refusals(Problems(), Metrics(), RefusalTimings(0.01, 0.05, 0.1)))
        self.wakeups = WakeUps(["default"], poll_seconds=30)
        self.settler = Settler(self.store, Notifier(self.lane), self.wakeups, again=Backoff(base=0.01, cap=0.05))

    async def one_pass(self) -> Settled:
        return await self.settler.once()


@contextlib.asynccontextmanager
async def settling(dsn: str, worker_id: str = "w-1-abc") -> AsyncIterator[Hand]:
    hand = Hand(dsn, worker_id)
    try:
        yield hand
    finally:
        await hand.settler.stop()


@contextlib.contextmanager
def changed(*mutations: Mutation | None) -> Iterator[None]:
    """The statements of turbo/sql, and functions of none, as the mutations make them. None: as they are."""
    edits = {m.where: m.edits for m in mutations if m is not None}

    def statement(name: str, variant: sql.Variant | None = None) -> str:
        text = sql.statement(name, variant)
        return edited(text, edits[name]) if name in edits and variant is None else text

    for name in edits:
        statement(name)
    with patch("turbo.db.store.statement", statement):
        yield


@dataclass
class Stepped:
    """A statement in the middle. `done`: what the whole returned."""

    done: Any = None


@contextlib.asynccontextmanager
async def stepped(dsn: str, name: str, guard: Mutation | None = None) -> AsyncIterator[Stepped]:
    """A second settler sends `name` once, and stands still with its snapshot until the block ends. `guard`: is taken from it."""
    edits = _PAUSES[name] + (guard.edits if guard is not None else ())
    step = Stepped()
    async with settling(dsn, "stepped") as other:
        with psycopg.connect(dsn, autocommit=True) as gate:
            gate.execute("select pg_advisory_lock(%s)", [PAUSE_KEY])
            with changed(Mutation("", name, edits)):
                send = other.store.settle() if name == "settle/settle" else other.store.tie()
                task = asyncio.create_task(send)
                await until_async(lambda: _waits(gate), what="the statement stands still")
            try:
                yield step
            finally:
                gate.execute("select pg_advisory_unlock(%s)", [PAUSE_KEY])
            step.done = await task


def _waits(db: Connection) -> bool:
    query = (
        "select true from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()"
        " where l.locktype = 'advisory' and l.objid = %s and not l.granted"
    )
    return db.execute(query, [PAUSE_KEY]).fetchone() is not None


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def states(db: Connection) -> dict[str, str]:
    """Every task's status."""
    return dict(db.execute("select task_id::text, status::text from agent_tasks order by 1").fetchall())


def end(db: Connection, *task_ids: str, status: str = "completed") -> None:
    """As a person does it: closed, failed or cancelled by hand."""
    for task_id in task_ids:
        db.execute("update agent_tasks set status = %s where task_id::text = %s", [status, task_id])


def insert_many(db: Connection, prefix: str, many: int, need: str) -> None:
    """`prefix`1, `prefix`2, … by one statement, all of which need `need`."""
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs)"
        " select %s || n, 'x', array[%s] from generate_series(1, %s) n",
        [prefix, need, many],
    )


def fail(db: Connection, task_id: str, kind: str = "error") -> None:
    """As a run that failed leaves it."""
    db.execute(
        "update agent_tasks set status = 'failed', failure_kind = %s, completed_at = clock_timestamp(), turbo_rev = turbo_rev + 1"
        " where task_id = %s",
        [kind, task_id],
    )


def at_rest(db: Connection) -> None:
    """The settler has nothing left to do, every count is right, and nobody is blocked by nothing."""
    (unsettled,) = db.execute("select public.turbo_unsettled()").fetchone() or (None,)
    assert unsettled is False, "something is left"
    wrong = db.execute(
        "select b.task_id, b.needs_left, count(d.*) from agent_blocked b"
        " left join agent_dependencies d on d.task_id = b.task_id and not d.settled group by 1, 2 having count(d.*) <> b.needs_left"
    ).fetchall()
    assert wrong == [], "counts that are not their open edges"
    lost = db.execute(
        "select t.task_id from agent_tasks t where t.status = 'blocked' and not exists (select from agent_blocked b"
        " where b.task_id = t.task_id and b.needs_left > 0)"
    ).fetchall()
    assert lost == [], "blocked by nothing"
    early = db.execute(
        "select t.task_id from agent_tasks t, unnest(t.needs) n(need) where t.status in ('pending', 'running', 'scheduled')"
        " and coalesce(t.on_needs_failed, 'cancel') = 'cancel'"
        " and exists (select from agent_tasks o where o.task_id::text = n.need and o.status <> 'completed')"
        " and not exists (select from agent_dependencies d"
        " where d.task_id = t.task_id and d.needs::text = n.need and d.gone is not null)"
        " and exists (select from agent_actions a where a.task_id = t.task_id and a.action_type = 'unblocked')"
    ).fetchall()
    assert early == [], "let go early"


async def claimed(stores: Stores, task_id: str) -> ClaimRef:
    """The claim of that task: the next one to be had."""
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert task.task_id == task_id
    return ClaimRef(task.task_id, task.fencing_token)


def result(claim: ClaimRef, outcome: OutcomeKind = OutcomeKind.SUCCEEDED, **more: object) -> RunResult:
    return ended(claim, outcome, **more)
