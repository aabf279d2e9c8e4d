"""`turbo_wait`: whatever ends or stops a task tells those who wait for it, and nobody else.

The clients here would look again in an hour: what they answer, they were told. The one race that the gate leaves is stepped: a
transaction looks for waiters, a client registers, the transaction commits and has told nobody. The client knows that transaction, and
looks often until it is over.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import psycopg
import pytest

from tests.support.database import migrated_database
from tests.support.logins import login, user
from tests.support.pgbouncer import pgbouncer
from tests.support.settling import settling
from tests.support.steps import claim_one, ended, registered
from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo import AsyncClient, Client, UnknownTask
from turbo.client import hearing, waiting
from turbo.client.operations import Steps
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason
from turbo.sql import statement

HOUR = 3600.0


class Asleep:
    """`event`: a client has registered, has looked, and looks again in an hour. `awake`: it has polled."""

    def __init__(self) -> None:
        self.event, self.awake = threading.Event(), threading.Event()

    async def until(self) -> None:
        assert await asyncio.to_thread(self.event.wait, 20)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Asleep:
    for name in ("LOOK_FIRST_SECONDS", "LOOK_LAST_SECONDS"):
        monkeypatch.setattr(waiting, name, HOUR)
    found = Asleep()
    pause = waiting.Registration.pause

    def noted(
        self: waiting.Registration, waited: float, timeout: float | None, most: float | None = None
    ) -> Steps[None]:
        (found.event if self.told else found.awake).set()
        yield from pause(self, waited, timeout, HOUR if self.told else most)

    monkeypatch.setattr(waiting.Registration, "pause", noted)
    return found


def sync_wait(dsn: str, until: str = "end", timeout: float = 60) -> str:
    """How the task t ends. `until` waiting: or that it asks."""
    with Client(dsn) as client:
        try:
            for (task,) in client.follow("t", timeout=timeout):
                if task.finished or task.status == until:
                    return str(task.status)
        except UnknownTask:
            return "UnknownTask"
    raise AssertionError


def async_wait(dsn: str) -> str:
    async def wait() -> str:
        async with AsyncClient(dsn) as client:
            return str((await client.wait("t", timeout=60)).status)

    return asyncio.run(wait())


def sync_progress(dsn: str) -> str:
    with Client(dsn) as client:
        return [str(run.status) for run in client.progress("t", timeout=60)][-1]


def async_progress(dsn: str) -> str:
    async def last() -> str:
        async with AsyncClient(dsn) as client:
            return [str(run.status) async for run in client.progress("t", timeout=60)][-1]

    return asyncio.run(last())


# ── the ends ────────────────────────────────────────────────────────────────────────────────────────────────────────

End = Callable[[psycopg.Connection, Stores], Awaitable[None]]


async def by_finish(_db: psycopg.Connection, stores: Stores) -> None:
    await stores.results.finish([ended(await claim_one(stores))])


async def by_question(_db: psycopg.Connection, stores: Stores) -> None:
    asks = {"kind": "question", "text": "Which?"}
    await stores.results.finish([ended(await claim_one(stores), OutcomeKind.ASKED, question=json.dumps(asks))])


async def by_hand(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 't'")


async def by_hold(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("update agent_tasks set status = 'waiting' where task_id = 't'")


async def by_denial(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("update agent_tasks set answer = 'no' where task_id = 't'")


async def by_old_snapshot(db: psycopg.Connection, _stores: Stores) -> None:
    with db.transaction():
        db.execute("set transaction isolation level repeatable read")
        db.execute("update agent_tasks set status = 'completed' where task_id = 't'")


async def by_delete(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("delete from agent_tasks where task_id = 't'")


async def by_truncate(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("truncate agent_tasks")


async def by_release(db: psycopg.Connection, stores: Stores) -> None:
    held = await claim_one(stores)
    await by_hand(db, stores)
    await stores.results.release([(held, None)], "test")


async def by_reconcile(db: psycopg.Connection, stores: Stores) -> None:
    await claim_one(stores)
    await by_hand(db, stores)
    await stores.claims.reconcile([])


async def by_rescue(db: psycopg.Connection, stores: Stores) -> None:
    await claim_one(stores)
    db.execute("update agent_tasks set infra_count = 100, turbo_rev = turbo_rev + 1")
    db.execute("update agent_workers set state = 'dead'")
    await stores.registry.rescue(RescueReason.WORKER_SILENT)


async def by_expiry(db: psycopg.Connection, stores: Stores) -> None:
    db.execute(
        "update agent_tasks set question = question || '{\"then\": \"fail\"}', run_after = now() - interval '1 s',"
        " turbo_rev = turbo_rev + 1"
    )
    async with await psycopg.AsyncConnection.connect(db.info.dsn, autocommit=True) as worker:
        await worker.execute(statement("tasks/expire"), {"worker": "w-1-abc", "queues": ["default"]})


async def by_settler(db: psycopg.Connection, _stores: Stores) -> None:
    db.execute("update agent_tasks set status = 'failed' where task_id = 'need'")
    async with settling(db.info.dsn) as hand:
        await hand.one_pass()


async def by_refusal(db: psycopg.Connection, _stores: Stores) -> None:
    async with await psycopg.AsyncConnection.connect(db.info.dsn, autocommit=True) as worker:
        await worker.execute(
            statement("tasks/set_aside"),
            {"task_id": "t", "token": None, "worker": "w-1-abc", "statement": "claim", "status": "pending", "error": "x"}
            | {"audit": True},
        )  # fmt: skip


PLAIN = "insert into agent_tasks (task_id, task_description) values ('t', 'x')"
HELD = "insert into agent_tasks (task_id, task_description, status) values ('t', 'x', 'waiting')"
NEEDS = (
    "insert into agent_tasks (task_id, task_description, needs) values ('need', 'x', null), ('t', 'x', array['need'])"
)
ENDS: dict[str, tuple[str, End, str]] = {
    "a result": (PLAIN, by_finish, "completed"),
    "a question": (PLAIN, by_question, "waiting"),
    "a cancel by hand": (PLAIN, by_hand, "cancelled"),
    "a cancel while it is blocked": (NEEDS, by_hand, "cancelled"),
    "a hold by hand": (PLAIN, by_hold, "waiting"),
    "a hold that is denied": (HELD, by_denial, "cancelled"),
    "a transaction with an old snapshot": (PLAIN, by_old_snapshot, "completed"),
    "a delete": (PLAIN, by_delete, "UnknownTask"),
    "a truncate": (PLAIN, by_truncate, "UnknownTask"),
    "a release of a cancelled run": (PLAIN, by_release, "cancelled"),
    "an orphan that was cancelled": (PLAIN, by_reconcile, "cancelled"),
    "the rescue that is too many": (PLAIN, by_rescue, "failed"),
    "a deadline of a question": (HELD, by_expiry, "failed"),
    "a need that failed": (NEEDS, by_settler, "cancelled"),
    "a row that is refused": (PLAIN, by_refusal, "failed"),
}


@pytest.mark.parametrize("what", ENDS)
async def test_every_end_tells_who_waits(dsn: str, db: psycopg.Connection, asleep: Asleep, what: str) -> None:
    insert, end, becomes = ENDS[what]
    db.autocommit = True
    db.execute(insert)
    if what == "a need that failed":
        async with settling(dsn) as hand:
            await hand.one_pass()
    async with registered(dsn) as stores:
        stop = "waiting" if becomes == "waiting" else "end"
        waits = asyncio.create_task(asyncio.to_thread(sync_wait, dsn, stop))
        await asleep.until()
        await end(db, stores)
        assert await asyncio.wait_for(waits, 20) == becomes


@pytest.mark.parametrize("wait", [sync_progress, async_wait, async_progress])
async def test_other_waits_are_told_too(
    dsn: str, db: psycopg.Connection, asleep: Asleep, wait: Callable[[str], str]
) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores:
        waits = asyncio.create_task(asyncio.to_thread(wait, dsn))
        await asleep.until()
        await by_finish(db, stores)
        assert await asyncio.wait_for(waits, 20) == "completed"


# ── the gate ────────────────────────────────────────────────────────────────────────────────────────────────────────


def heard(db: psycopg.Connection) -> list[str]:
    return [notify.payload for notify in db.notifies(timeout=0.3)]


async def test_nobody_is_told_but_who_waits(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    db.execute("insert into agent_tasks (task_id, task_description) select 't' || n, 'x' from generate_series(1, 4) n")
    db.execute("listen turbo_done_mine; listen turbo_done")
    async with registered(dsn) as stores:
        await by_finish(db, stores)
        assert heard(db) == [], "nobody waits"
        assert db.execute("select turbo_wait('t2', 'mine')").fetchone() == ("turbo_done_mine",)
        await by_finish(db, stores)
        await by_finish(db, stores)
        assert heard(db) == ["t2"]
        db.execute("select turbo_wait('t4', 'mine')")
        db.execute("update agent_waiters set lapses = lapses - interval '61 s'")
        await by_finish(db, stores)
        assert heard(db) == [], "it has lapsed"


def test_channel_is_the_callers_or_a_new_one(db: psycopg.Connection) -> None:
    db.autocommit = True
    first, second = (db.execute("select turbo_wait('t')").fetchone() for _ in range(2))
    assert first != second
    assert str(first[0]).startswith("turbo_done_")
    for wrong in ("", "Mine", "a b", "x" * 33):
        with pytest.raises(psycopg.errors.CheckViolation, match="channel"):
            db.execute("select turbo_wait('t', %s)", [wrong])
    with pytest.raises(psycopg.errors.CheckViolation, match="task_id"):
        db.execute("select turbo_wait(%s)", ["x" * 3000])


# ── the race ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def finish_in(connection: psycopg.AsyncConnection, held: ClaimRef) -> None:
    """The statement of a result, in a transaction that stays open: it has looked for waiters."""
    document = {"task_id": held.task_id, "token": held.token, "outcome": "succeeded", "output": "{}", "ms": 1}
    await connection.execute(
        statement("tasks/finish"),
        {"results": json.dumps([document]), "worker": "w-1-abc", "host": "h", "infra_cap": 5},
    )


async def test_client_looks_until_open_transactions_are_over(dsn: str, db: psycopg.Connection, asleep: Asleep) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores, await psycopg.AsyncConnection.connect(dsn) as late:
        await finish_in(late, await claim_one(stores))
        waits = asyncio.create_task(asyncio.to_thread(sync_wait, dsn))
        await asyncio.to_thread(asleep.awake.wait, 20)  # it looks often
        assert not asleep.event.is_set(), "it knows that it may not be told"
        await late.commit()
        assert await asyncio.wait_for(waits, 20) == "completed"


async def test_without_this_guard_an_end_is_missed(
    dsn: str, db: psycopg.Connection, asleep: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same steps, and a client that believes itself told."""
    monkeypatch.setattr(waiting.Registration, "told", property(lambda self: self._ear is not None))
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores, await psycopg.AsyncConnection.connect(dsn) as late:
        await finish_in(late, await claim_one(stores))
        waits = asyncio.create_task(asyncio.to_thread(sync_wait, dsn))
        await asleep.until()
        await late.commit()
        assert await asyncio.wait({waits}, timeout=0.5) == (set(), {waits})
        db.execute("select pg_notify('turbo_done', '')")
        assert await asyncio.wait_for(waits, 20) == "completed"


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wait", [sync_wait, async_wait])
async def test_lost_session_is_replaced_and_registered(
    dsn: str, db: psycopg.Connection, asleep: Asleep, monkeypatch: pytest.MonkeyPatch, wait: Callable[[str], str]
) -> None:
    monkeypatch.setattr(hearing, "LOST_SECONDS", 0.05)
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores:
        waits = asyncio.create_task(asyncio.to_thread(wait, dsn))
        await asleep.until()
        asleep.event.clear()
        db.execute("truncate agent_waiters")  # as a crash of the server, or a failover, empties it
        ended_sessions = db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and application_name in ('turbo client', 'turbo wait')"
        ).rowcount
        assert ended_sessions > 0
        await asleep.until()
        assert db.execute("select from agent_waiters").rowcount == 1
        await by_finish(db, stores)
        assert await asyncio.wait_for(waits, 20) == "completed"


@pytest.mark.parametrize("what", ["no right to wait", "an older schema"])
async def test_client_that_cannot_register_polls(dsn: str, db: psycopg.Connection, asleep: Asleep, what: str) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    if what == "an older schema":
        db.execute("drop function turbo_wait(text, text)")
    async with registered(dsn) as stores:
        with login(dsn) if what == "no right to wait" else nullcontext(dsn) as by:
            db.execute(f"grant select on agent_tasks, agent_progress to {user(by)}".encode())
            waits = asyncio.create_task(asyncio.to_thread(sync_wait, by))
            await asyncio.to_thread(asleep.awake.wait, 20)
            await by_finish(db, stores)
            assert await asyncio.wait_for(waits, 20) == "completed"
    assert not asleep.event.is_set()


async def test_client_behind_a_pooler_polls(dsn: str, db: psycopg.Connection, asleep: Asleep) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores:
        with pgbouncer(dsn, "transaction") as pooled:
            waits = [asyncio.create_task(asyncio.to_thread(wait, pooled.dsn)) for wait in (sync_wait, async_wait)]
            await asyncio.to_thread(asleep.awake.wait, 20)
            await by_finish(db, stores)
            assert [await asyncio.wait_for(one, 20) for one in waits] == ["completed", "completed"]
    assert not asleep.event.is_set()


async def test_listen_dsn_tells_behind_a_pooler(
    dsn: str, db: psycopg.Connection, asleep: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TURBO_LISTEN_DSN belongs to TURBO_DSN. The session that hears is lost once, and replaced."""
    db.autocommit = True
    db.execute(PLAIN)
    lost = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'turbo wait'"
        " and datname = current_database()"
    )
    async with registered(dsn) as stores:
        with pgbouncer(dsn, "transaction") as pooled:
            monkeypatch.setenv("TURBO_DSN", pooled.dsn)
            monkeypatch.setenv("TURBO_LISTEN_DSN", dsn)
            monkeypatch.setattr(hearing, "LOST_SECONDS", 0.05)
            monkeypatch.setattr(hearing, "DEAF_SECONDS", 0.05)
            for wait in (sync_wait, async_wait):
                waits = asyncio.create_task(asyncio.to_thread(wait, pooled.dsn))
                await asleep.until()
                asleep.event.clear()
                assert db.execute(lost).fetchone() == (1,)
                await asleep.until()
                await by_finish(db, stores)
                assert await asyncio.wait_for(waits, 20) == "completed"
                db.execute("delete from agent_tasks")
                db.execute(PLAIN)
                asleep.event.clear()


async def test_listen_dsn_elsewhere_is_said_and_polled(
    dsn: str, db: psycopg.Connection, asleep: Asleep, caplog: pytest.LogCaptureFixture
) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    async with registered(dsn) as stores:
        with migrated_database() as other, Client(dsn, listen_dsn=other) as client:
            waits = asyncio.create_task(asyncio.to_thread(client.wait, "t", 60))
            await asyncio.to_thread(asleep.awake.wait, 20)
            async with AsyncClient(dsn, listen_dsn=other) as also:
                also_waits = asyncio.create_task(also.wait("t", 60))
                await until_async(lambda: len(caplog.messages) == 2)
                await by_finish(db, stores)
                assert {(await waits).status, (await also_waits).status} == {"completed"}
    assert not asleep.event.is_set()
    assert all(
        message.startswith("listen_dsn (TURBO_LISTEN_DSN) leads to another server") for message in caplog.messages
    )


def test_connection_of_the_caller_is_not_changed(dsn: str, db: psycopg.Connection, asleep: Asleep) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    with pytest.raises(TimeoutError):
        Client(connection=db).wait("t", timeout=0.2)
    assert db.execute("select pg_listening_channels()").fetchall() == []
    assert not asleep.event.is_set()


def test_client_stops_listening_after_the_wait(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    db.execute(PLAIN)
    with Client(dsn) as client:
        with pytest.raises(TimeoutError):
            client.wait("t", timeout=0.3)
        assert client.read("select count(*) from pg_listening_channels()", []) == (0,)
