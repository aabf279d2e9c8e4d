"""Quiet queues: where many insert, one worker looks for their rows, and they notify nobody. No wake-up is lost.

The races are stepped: who inserts, who commits, when the mark is set and removed, when the keeper looks. Each guard has a control
without it, in which the wake-up is lost.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.rig import Rig
from tests.support.waiting import until_async
from turbo.db.lane import Lane
from turbo.db.quiet_store import QuietStore
from turbo.worker.quiet_keeper import QuietKeeper, QuietTimings

IDLE = """
insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle)
select 'idle-' || n, 'idle', 'host' || n %% 2, n, '0', 1, '{default}', true from generate_series(1, %s) n
"""
INSERT = "insert into agent_tasks (task_description) values ('x')"
UNHURRIED = QuietTimings(every=3600.0, lapse=1.0)
"""The test says when the keeper stops; it makes no look by itself."""


class Ear:
    """A session that listens as the workers of a queue do."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute("listen turbo_q_default; listen turbo_q_other")

    def heard(self) -> list[str]:
        """The queues whose wake-ups have arrived since the last call. What was committed before is here after a round trip."""
        self._connection.execute("select 1")
        return [n.channel.removeprefix("turbo_q_") for n in self._connection.notifies(timeout=0)]


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A stop waits for its close, however busy the machine is."""
    monkeypatch.setattr("turbo.worker.quiet_keeper.STOP_SECONDS", 20.0)


@pytest.fixture
def ear(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(IDLE, [2])
        yield Ear(connection)


@pytest.fixture
async def store(dsn):
    lane = Lane(dsn, "keeper")
    yield QuietStore(lane, "idle-1")
    await lane.close()


def test_inserts_of_a_quiet_queue_notify_nobody(dsn, ear):
    with psycopg.connect(dsn, autocommit=True) as db:
        mark(db)
        db.execute(INSERT)
        assert ear.heard() == []
        assert unsent(db) == 1
        db.execute("update turbo_quiet set until = clock_timestamp()")
        db.execute(INSERT)
        assert ear.heard() == ["default"], "the mark has lapsed: its keeper was killed"


@pytest.mark.parametrize(
    "insert",
    [
        "insert into agent_tasks (task_description) select 'x' from generate_series(1, 9)",
        "insert into agent_tasks (task_description, run_after) values ('x', now() + interval '5 s')",
        "insert into agent_tasks (task_description, requires) values ('x', '{\"gpu\": \"1\"}')",
        "insert into agent_tasks (task_description) values ('x'), ('y'); insert into agent_tasks (task_description, queue)"
        " values ('z', 'other')",
    ],
    ids=["many rows", "a scheduled row", "a row with labels", "a row of another queue"],
)
def test_inserts_that_are_not_ordinary_notify_as_ever(dsn, ear, insert):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("update agent_workers set queues = '{default,other}', schema = 1000")
        mark(db)
        db.execute(insert)
        assert ear.heard() in (["default"], ["other"])


def test_no_insert_waits_for_another_or_for_the_keeper(dsn, ear):
    """Three open transactions: two inserters, and a keeper in the middle of its step. A rollback leaves nothing behind."""
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as two, psycopg.connect(dsn) as keeper:
        for db in (one, two, keeper):
            db.execute("set lock_timeout = '1s'")
        mark(keeper, "idle-1")
        one.execute(INSERT)
        two.execute(INSERT)
        one.rollback()
        two.commit()
        assert ear.heard() == ["default"], "the mark was not committed yet: the insert notifies"
        keeper.rollback()
        two.execute(INSERT)
        two.commit()
        assert ear.heard() == ["default"]


async def test_look_wakes_as_many_as_tasks_wait(dsn, store):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(IDLE, [20])
        for n in range(1, 21):
            db.execute(f'listen "turbo_w_idle-{n}"')
        db.execute("listen turbo_q_default")
        first = await store.keep("default", 1.0)
        assert (first.unsent, first.woken) == (0, 0)
        for _ in range(3):
            db.execute(INSERT)
        look = await store.keep("default", 1.0, first.unsent)
        assert (look.unsent, look.woken) == (3, 3)
        calls = [n.payload for n in db.notifies(timeout=5, stop_after=3)]
        assert calls == ["default 0"] * 3
        assert (await store.keep("default", 1.0, look.unsent)).unsent == 3
        list(db.notifies(timeout=0))
        await store.end("default")
        assert (await store.look("default")).woken == 3
        calls = [n.payload for n in db.notifies(timeout=5, stop_after=6)]
        assert sorted(calls) == ["default 0"] * 3 + ["default 1", "default 2", "default 3"], (
            "the last look has standby workers"
        )


async def test_tasks_nobody_claims_wake_few(dsn, store):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 100)")
        db.execute(IDLE, [50])
        look = await store.keep("default", 1.0)
        assert look.woken == 0
        assert (await store.keep("default", 1.0, look.unsent)).woken == 8


async def test_one_worker_keeps_a_queue_until_its_mark_lapses(dsn, store):
    other_lane = Lane(dsn, "other keeper")
    other = QuietStore(other_lane, "idle-2")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(IDLE, [2])
        assert await store.keep("default", 1.0) is not None
        assert await other.keep("default", 1.0) is None
        await other.end("default")
        assert db.execute("select keeper from turbo_quiet").fetchone() == ("idle-1",)
        db.execute("update turbo_quiet set until = clock_timestamp()")
        assert await other.keep("default", 1.0) is not None
        assert await store.keep("default", 1.0, 0) is None
        await other.end("default")
        assert db.execute("select from turbo_quiet").rowcount == 0
    await other_lane.close()


async def test_gate_closed_too_early_is_opened_by_the_next_look(dsn, ear, store):
    """Another keeper's end may close it while this one begins. Until the next look inserts notify."""
    gate = "select pg_sequence_last_value('turbo_quiet_seq') is not null"
    with psycopg.connect(dsn, autocommit=True) as db:
        await store.keep("default", 1.0)
        assert db.execute(gate).fetchone() == (True,)
        db.execute("select setval('turbo_quiet_seq', 1, false)")
        db.execute(INSERT)
        assert ear.heard() == ["default"]
        await store.keep("default", 1.0, 0)
        ear.heard()
        db.execute(INSERT)
        assert ear.heard() == []
        await store.end("default")
        assert db.execute(gate).fetchone() == (False,)


# ── nothing is lost ──────────────────────────────────────────────────────────────────────────────────────────────────


class LooksBefore(QuietKeeper):
    """Without the first guard: the last look comes before the end of the mark."""

    async def _close(self, queue: str) -> None:
        await self._store.look(queue)
        await self._store.end(queue)
        self._marked = None
        self.closed.emit(queue)


class NoRechecks(QuietKeeper):
    """Without the second guard: transactions that are open at the last look are forgotten."""

    async def _recheck(self, queue: str, slipped_below: int) -> None:
        self.closed.emit(queue)


class Stepped(QuietStore):
    """Runs `between` once, after the first of the two statements that close."""

    between: Callable[[], None] | None = None

    async def end(self, queue: str) -> None:
        await super().end(queue)
        self._step_between()

    async def look(self, queue: str):  # type: ignore[no-untyped-def]
        look = await super().look(queue)
        self._step_between()
        return look

    def _step_between(self) -> None:
        if self.between is not None:
            step, self.between = self.between, None
            step()


async def keep_and_stop(
    dsn: str, kind: type[QuietKeeper], quiet: Callable[[], None], between: Callable[[], None]
) -> None:
    """Keep the queue quiet; call `quiet`, then stop the keeper, which closes; call `between` its two steps."""
    lane = Lane(dsn, "keeper")
    store = Stepped(lane, "idle-1")
    keeper = kind(store, poll_seconds=3600.0, timings=UNHURRIED)
    keeper.start(lambda _name, error: pytest.fail(str(error)))
    try:
        with keeper.kept.watch() as kept:
            for _ in range(UNHURRIED.heard):
                keeper.heard("default")
            await asyncio.wait_for(kept.get(), 20)
        with psycopg.connect(dsn) as db:  # on a busy machine a second is over before the test goes on
            db.execute("update turbo_quiet set until = clock_timestamp() + interval '1 minute'")
        quiet()
        store.between = between
        await keeper.stop()
        assert store.between is None
    finally:
        await lane.close()


@pytest.mark.parametrize(("kind", "woken"), [(QuietKeeper, True), (LooksBefore, False)])
async def test_row_committed_while_the_keeper_closes_is_seen(dsn, ear, kind, woken):
    """An insert comes between the two steps that close. If the first is the look, the insert meets the mark, and no look follows."""
    with psycopg.connect(dsn, autocommit=True) as db:
        await keep_and_stop(dsn, kind, lambda: None, lambda: run(db, INSERT))
        assert ("default" in ear.heard()) is woken
        assert unsent(db) == (0 if woken else 1)


async def test_row_committed_before_the_end_is_seen_by_the_last_look(dsn, ear):
    with psycopg.connect(dsn, autocommit=True) as db:
        await keep_and_stop(dsn, QuietKeeper, lambda: run(db, INSERT), lambda: None)
        assert unsent(db) == 1
        assert set(ear.heard()) == {"default"}, "more than one, if a transaction of another database is open"


@pytest.mark.parametrize(("kind", "woken"), [(QuietKeeper, True), (NoRechecks, False)])
async def test_row_of_a_transaction_open_at_the_last_look_is_seen(dsn, ear, kind, woken):
    """The insert meets the mark; the mark ends; the keeper looks; then the insert commits. Later looks see its row."""
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as watcher:
        looks = []

        class Counted(kind):  # type: ignore[misc, valid-type]
            async def _close(self, queue: str) -> None:
                await super()._close(queue)
                looks.append(watcher.execute("select from turbo_quiet").rowcount)
                assert ear.heard() == [], "the row is not visible yet"
                writer.commit()

        await keep_and_stop(dsn, Counted, lambda: run(writer, INSERT), lambda: None)
        assert looks == [0], "the mark was removed before"
        assert ("default" in ear.heard()) is woken


async def test_closing_after_an_outage_looks_again(dsn, ear):
    """The keeper's session is cut while it closes: it closes once more, and sees the row."""
    lane = Lane(dsn, "keeper to be cut")
    store = Stepped(lane, "idle-1")
    keeper = QuietKeeper(store, poll_seconds=3600.0, timings=QuietTimings(every=0.005, trial=1, lapse=1.0))
    cut = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'keeper to be cut' and datname = current_database()"
    )
    with psycopg.connect(dsn, autocommit=True) as db, keeper.kept.watch() as kept, keeper.closed.watch() as closed:
        store.between = lambda: run(db, cut)  # after `end`: the look fails
        keeper.start(lambda _name, error: pytest.fail(str(error)))
        for _ in range(3):
            keeper.heard("default")
        await asyncio.wait_for(kept.get(), 20)
        await asyncio.wait_for(closed.get(), 20)
        assert store.between is None, "the session was cut"
        assert db.execute("select from turbo_quiet").rowcount == 0
    await keeper.stop()
    await lane.close()


# ── a worker ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_crowd_is_coalesced_and_all_of_it_is_claimed(dsn):
    """Inserts go on until some were left to the keeper; the worker polls once an hour, so it lives on wake-ups alone."""
    timings = QuietTimings(worth=1, spread=0.0)
    async with (
        Rig(dsn, slots_size=100_000, quiet=timings) as rig,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watcher,
    ):

        async def idle() -> bool:
            return bool((await (await watcher.execute("select idle from agent_workers")).fetchone())[0])

        await until_async(idle, 10)
        inserted, done = 0, asyncio.Event()

        async def write() -> None:
            nonlocal inserted
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
                while not done.is_set():
                    await writer.execute(INSERT)
                    inserted += 1

        async def coalesced() -> bool:
            cursor = await watcher.execute("select coalesce(pg_sequence_last_value('turbo_unsent_seq'), 0)")
            return int((await cursor.fetchone())[0]) > 50

        writers = [asyncio.create_task(write()) for _ in range(4)]
        await until_async(coalesced, 30)
        done.set()
        await asyncio.gather(*writers)
        for _ in range(inserted):
            await rig.claimed(20)


def run(db: psycopg.Connection[Any], text: str) -> None:
    db.execute(text)


def mark(db: psycopg.Connection[Any], keeper: str = "idle-1") -> None:
    kept = db.execute("select kept from turbo_keep_quiet('default', %s, 1, -1)", [keeper]).fetchone()
    assert kept == (True,)


def unsent(db: psycopg.Connection[Any]) -> int:
    return int(db.execute("select coalesce(pg_sequence_last_value('turbo_unsent_seq'), 0)").fetchone()[0])  # type: ignore[index]
