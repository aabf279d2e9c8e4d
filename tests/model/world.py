"""The database under the model: reset, read whole, pushed through time, and thrown back to an earlier commit.

A failover to an asynchronous standby is exactly that last thing: the tables as they were some commits ago, and sequences
that hand out the same numbers again, under workers that remember everything. Time passes by moving every stored moment
into the past, in the standby's copy too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from turbo.db.connect import Connection
from turbo.db.lane import Lane
from turbo.domain.claim import ClaimRef

TABLES = (
    "agent_tasks", "agent_actions", "agent_workers", "agent_queues", "agent_leader",
    "agent_dependencies", "agent_blocked", "agent_unsettled", "agent_conversations", "agent_messages",
    "agent_requirements", "agent_portable", "agent_limits",
)  # fmt: skip
STAY = 41 * 100.0
"""After so long a worker takes what waits for another host. The model's moments never lie so far apart, in its seconds."""
SEQUENCES = ("turbo_fence_seq", "turbo_look_seq", "agent_messages_message_id_seq")

MOMENTS = {
    "agent_tasks": ("run_after", "created_at", "started_at", "completed_at", "cancel_requested_at"),
    "agent_workers": ("heartbeat_at", "counted_at"),
    "agent_leader": ("since", "expires_at"),
    "agent_blocked": ("since",),
    "agent_messages": ("created_at", "delivered_at"),
}

Row = dict[str, Any]


class HeldLane(Lane):
    """A lane whose transaction can be kept open: `begin` is what opens it, None for turbo's own autocommit.

    Its dice fall the same way in every run: hypothesis repeats histories, and looks closely whether they are the same, and
    random bits decide which token is greater after a failover. A new session (a lost race ends one) has new dice."""

    begin: str | None = None

    def __init__(self, dsn: str, name: str, number: int) -> None:
        super().__init__(dsn, name)
        self.prepare_statements(True)  # as a worker does: the plans are those of a worker, too
        self._number = number
        self.same_dice()

    def same_dice(self) -> None:
        self._sessions = 0
        self._seeded: Connection | None = None

    @asynccontextmanager
    async def use(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        async with super().use(deadline) as connection:
            if self._seeded is not connection:
                await connection.execute("select setseed(%s)", [self._number / 10 + self._sessions / 1000])
                self._sessions += 1
                self._seeded = connection
            if self.begin is not None and connection.info.transaction_status is TransactionStatus.IDLE:
                await connection.execute(self.begin)
            yield connection

    async def end(self, how: str = "commit") -> None:
        self.begin = None
        if self._connection is not None and not self._connection.closed:
            await self._connection.execute(how)


@dataclass(frozen=True)
class Picture:
    """Everything that is stored, at one moment."""

    tasks: dict[str, Row]
    trail: dict[str, list[Row]]
    workers: dict[str, Row]
    paused: frozenset[str]
    edges: dict[str, list[Row]]  # by the task that waits
    counts: dict[str, Row]
    notes: frozenset[str]
    messages: dict[str, Row]  # by what they say
    limits: dict[str, int]  # how many tasks of a key run at a time

    def runs_of(self, worker_id: str) -> list[ClaimRef]:
        rows = self.tasks.values()
        mine = [r for r in rows if r["status"] == "running" and r["assigned_worker_id"] == worker_id]
        return [ClaimRef(r["task_id"], r["fencing_token"]) for r in mine]


class World:
    def __init__(self, dsn: str, slots: int) -> None:
        self.runner = asyncio.Runner()
        self.admin = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self.admin.execute("set synchronous_commit = off")
        self.admin.execute("create schema saved; create table saved.sequences (name text, last bigint, called boolean)")
        for table in TABLES:
            self.admin.execute(f"create table saved.{table} (like public.{table})")
            # An ANALYZE of the server's own choosing changes plans, and with them which of two racing claims finds what.
            self.admin.execute(f"alter table public.{table} set (autovacuum_enabled = off)")
        # What a message becomes has an id of the database's making, and no random one.
        self.admin.execute(
            "create sequence saved.made;"
            " alter table public.agent_tasks alter task_id set default 'f' || nextval('saved.made')"
        )
        self.lanes = [
            (
                HeldLane(dsn, f"claims {i}", 2 * i),
                HeldLane(dsn, f"results {i}", 2 * i + 1),
                HeldLane(dsn, f"messages {i}", 0),
            )
            for i in range(slots)
        ]
        self.hand = HeldLane(dsn, "psql", 2 * slots)
        self.teller = HeldLane(dsn, "another psql", 0)

    def close(self) -> None:
        async def close_lanes() -> None:
            for lane in self._all_lanes():
                await lane.close()

        self.run(close_lanes())
        self.runner.close()
        self.admin.close()

    def _all_lanes(self) -> list[HeldLane]:
        return [self.hand, self.teller, *(lane for lanes in self.lanes for lane in lanes)]

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    # ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self) -> None:
        for lane in self._all_lanes():
            if lane.begin is not None:  # a history that failed has left it so
                self.run(lane.end("rollback"))
        self.admin.execute(f"truncate {', '.join(TABLES)}, saved.{', saved.'.join(TABLES)}")
        self.admin.execute(
            "alter sequence saved.made restart; alter sequence public.turbo_look_seq restart;"
            " alter sequence public.agent_messages_message_id_seq restart"
        )
        for lane in self._all_lanes():
            lane.same_dice()
        self.save()

    def save(self) -> None:
        """What a standby has received."""
        with self._past_the_triggers() as db:
            for table in TABLES:
                db.execute(f"delete from saved.{table}; insert into saved.{table} select * from public.{table}")
            db.execute("delete from saved.sequences")
            for name in SEQUENCES:
                db.execute(f"insert into saved.sequences select '{name}', last_value, is_called from public.{name}")

    def fail_over(self) -> None:
        """The standby is the primary now."""
        with self._past_the_triggers() as db:
            for table in TABLES:
                db.execute(
                    f"delete from public.{table};"
                    f" insert into public.{table} overriding system value select * from saved.{table}"
                )
            db.execute("select setval('public.' || name, last, called) from saved.sequences")

    def pass_time(self, seconds: float) -> None:
        with self._past_the_triggers() as db:
            db.execute(
                ";".join(
                    f"update {schema}.{table} set "
                    + ", ".join(f"{m} = {m} - interval '{seconds} seconds'" for m in moments)
                    for schema in ("public", "saved")
                    for table, moments in MOMENTS.items()
                )  # type: ignore[arg-type]
            )
            for schema in ("public", "saved"):
                db.execute(f"update {schema}.agent_messages set task_born = task_born - {seconds}")

    def past_the_triggers(self, query: str, *parameters: object) -> None:
        with self._past_the_triggers() as db:
            db.execute(query, parameters)  # type: ignore[call-overload]

    def picture(self) -> Picture:
        tasks = self.admin.execute(
            "select *, run_after > clock_timestamp() as future, run_after <= statement_timestamp() as due,"
            " run_after <= statement_timestamp() - make_interval(secs => %s)"
            "   and exists (select from public.agent_portable e"
            "                where e.task_id = t.task_id and e.session is not distinct from t.agent_session_id) as to_be_had"
            " from public.agent_tasks t order by task_id",  # what is picked from it must be the same in every run
            [STAY],
        ).fetchall()
        trail: dict[str, list[Row]] = {}
        for row in self.admin.execute("select * from public.agent_actions order by action_id"):
            trail.setdefault(row["task_id"], []).append(row)
        paused = self.admin.execute("select queue from public.agent_queues where paused").fetchall()
        return Picture(
            {r["task_id"]: r for r in tasks},
            trail,
            self.workers(),
            frozenset(p["queue"] for p in paused),
            *self._work(tasks),
            {m["body"]: m for m in self.admin.execute("select * from public.agent_messages order by message_id")},
            {r["concurrency_key"]: r["running"] for r in self.admin.execute("select * from public.agent_limits")},
        )

    def _work(self, tasks: list[Row]) -> tuple[dict[str, list[Row]], dict[str, Row], frozenset[str]]:
        """What the settler keeps of tasks that wait; it is not read while there are none. One whose needs a person has set to
        null is blocked until the settler lets it go."""
        edges: dict[str, list[Row]] = {}
        if all(t["needs"] is None and t["continues"] is None and t["status"] != "blocked" for t in tasks):
            return edges, {}, frozenset()
        for row in self.admin.execute("select * from public.agent_dependencies order by task_id, needs"):
            edges.setdefault(row["task_id"], []).append(row)
        counts = {c["task_id"]: c for c in self.admin.execute("select * from public.agent_blocked")}
        notes = self.admin.execute("select task_id from public.agent_unsettled")
        return edges, counts, frozenset(n["task_id"] for n in notes)

    def required_in(self) -> set[str]:
        """The queues with tasks that require something, as far as turbo has written down."""
        return {str(r["queue"]) for r in self.admin.execute("select distinct queue from public.agent_requirements")}

    def workers(self) -> dict[str, Row]:
        return {w["worker_id"]: w for w in self.admin.execute("select * from public.agent_workers order by worker_id")}

    @contextmanager
    def _past_the_triggers(self) -> "Iterator[psycopg.Connection[Row]]":
        with self.admin.transaction():
            self.admin.execute("set local session_replication_role = replica")
            yield self.admin

    # ── two at once ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def interleaved(
        self,
        first: Callable[[], Awaitable[Any]],
        lane: HeldLane,
        second: Callable[[], Awaitable[Any]],
    ) -> tuple[Any, Any]:
        """`first` is carried out on `lane` and not committed; `second` begins, and ends or waits for a lock; then `first`
        is committed."""
        one = await self.open(lane, first)
        other = asyncio.ensure_future(second())
        while not other.done() and not self._somebody_waits():
            await asyncio.sleep(0.0005)
        await lane.end()
        return one, await other

    async def open(self, lane: HeldLane, work: Callable[[], Awaitable[Any]]) -> Any:
        """`work` is carried out on `lane`, whose transaction stays open until `lane.end()`."""
        lane.begin = "begin"
        try:
            return await work()
        except psycopg.Error:
            await lane.end("rollback")
            raise

    def _somebody_waits(self) -> bool:
        waits = self.admin.execute(
            "select exists (select from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock') as yes"
        ).fetchone()
        return bool(waits and waits["yes"])
