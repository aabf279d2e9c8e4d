"""The server's notification queue is filled by a login that listens in an open transaction: nothing of turbo's fails.

The queue has 64 pages, the smallest that PostgreSQL 17 and later allow; before them it holds 8 GB.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from tests.support.database import UNSYNCED, embedded_arguments, migrated_server
from tests.support.logins import login
from tests.support.rig import Rig
from tests.support.waiting import until, until_async
from tests.support.workers import bench
from turbo.migrate import grant_roles

USAGE = "select pg_notification_queue_usage()"
INSERT = "insert into agent_tasks (task_id, task_description, queue, concurrency_key) values (%s, 'x', %s, %s)"


@pytest.fixture(scope="module")
def small_queue() -> Iterator[str]:
    """A server with a small notification queue."""
    arguments = embedded_arguments()
    if "bin_dir" in arguments or arguments["version"] == 16:
        pytest.skip("the queue of PostgreSQL before 17 holds 8 GB")
    settings = {"max_notify_queue_pages": "64", **UNSYNCED}
    with migrated_server(settings) as server:
        grant_roles(server.dsn)
        yield server.dsn


@contextlib.contextmanager
def filled(dsn: str) -> Iterator[psycopg.Connection]:
    """The queue is full, by a login without any role. Yields the session that keeps it full."""
    with login(dsn) as anybody, psycopg.connect(anybody) as listener, psycopg.connect(anybody, autocommit=True) as db:
        listener.execute("listen anything")
        listener.commit()
        listener.execute("select 1")  # the transaction in which it reads nothing
        with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):
            for _ in range(100):
                db.execute("select pg_notify('anything', repeat('x', 7000) || i) from generate_series(1, 20) i")
        assert db.execute(USAGE).fetchone()[0] > 0.9
        with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):
            for _ in range(10):
                db.execute("select pg_notify('anything', repeat('x', 7900))")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            db.execute("select pg_notify('anything', repeat('x', 7900))")
        yield listener


@pytest.fixture
async def db(small_queue: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(small_queue, autocommit=True) as connection:
        await connection.execute("truncate agent_tasks, agent_actions, agent_workers, agent_queues, agent_accounts")
        yield connection


async def until_idle(db: psycopg.AsyncConnection, workers: int = 1) -> None:
    async def idle() -> bool:
        return (await (await db.execute("select count(*) from agent_workers where idle")).fetchone())[0] == workers

    await until_async(idle, 10, pause=0.005)


async def test_full_queue_fails_no_statement_of_turbo(small_queue, db):
    """Insert in both isolations, claim, finish with a waiting key, promotion, hand edits, answers, pauses, a worker's own NOTIFY."""

    async def later_is_due() -> bool:
        cursor = await db.execute("select run_after <= now() from agent_tasks where task_id = 'later'")
        return (await cursor.fetchone())[0]

    async with Rig(small_queue) as rig, Rig(small_queue, name="other", queues=("other",)) as other:
        await until_idle(db, 2)
        with filled(small_queue):
            await db.execute(INSERT, ["first", "default", "k"])
            rig.wakeups.poll_soon()
            first, _ = await rig.claimed()
            await db.execute(INSERT, ["waits", "other", "k"])
            async with await psycopg.AsyncConnection.connect(small_queue) as strict:
                await strict.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
                await strict.execute(INSERT, ["strict", "other", "k"])
            await db.execute("update agent_tasks set status = 'cancelled' where task_id = 'first'")  # a stop request
            await db.execute("insert into agent_queues (queue) values ('paused')")
            await db.execute("insert into agent_accounts (account, host, state) values ('a', '*', 'paused')")
            assert not await rig.stores.notifier.notify("turbo_ctl", "queues")
            await rig.finish(first)  # its key comes free, and an idle worker's queue waits for it
            await db.execute("update agent_tasks set status = 'pending' where task_id = 'first'")
            await db.execute(
                "insert into agent_tasks (task_id, task_description, run_after, queue)"
                " values ('later', 'x', now() + interval '50 ms', 'other')"
            )
            await until_async(later_is_due, 10)
            assert (await other.poller.poll()).due == 1
            await db.execute(
                "insert into agent_tasks (task_id, task_description, queue, status) values ('held', 'x', 'other', 'waiting')"
            )
            await db.execute("update agent_tasks set answer = 'yes' where task_id = 'held'")
            await db.execute(
                "insert into agent_tasks (task_id, task_description, queue) values ('pinned', 'x', 'nobody')"
            )
            await db.execute("update agent_workers set queues = '{nobody}' where name = 'other'")
            for host in ("elsewhere", None):
                await db.execute("update agent_tasks set prefer_host = %s where task_id = 'pinned'", [host])


def test_worker_polls_while_the_queue_is_full_and_says_so(small_queue, tmp_path):
    """Idle when the queue fills up, and another one that starts then; both as members of turbo_worker."""
    with (
        login(small_queue, "turbo_worker") as fleet,
        login(small_queue, "turbo_submitter") as submitter,
        bench(small_queue, tmp_path) as at,
    ):
        at.sql("truncate agent_tasks, agent_actions, agent_workers, agent_queues, agent_accounts")
        first = at.start(dsn=fleet, poll_seconds=600).listening()
        until(lambda: at.sql("select idle from agent_workers") == [(True,)], what="the worker is idle")
        with filled(small_queue) as listener, psycopg.connect(submitter, autocommit=True) as inserting:
            first.said("Polling every 1 s")
            for n in range(2):
                inserting.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [f"t{n}"])
                at.wait(f"t{n}", "completed")
            (problem,) = at.sql("select problems from agent_workers")[0][0]
            assert problem["kind"] == "notify_queue"
            second = at.start(dsn=fleet, poll_seconds=600, name="second")
            second.said("so nothing is sent to this worker")
            first.kill()
            inserting.execute("insert into agent_tasks (task_id, task_description) values ('t2', 'x')")
            at.wait("t2", "completed")
            listener.rollback()
            second.said("has room again")
        until(
            lambda: at.sql("select problems from agent_workers where name = 'second'") == [([],)],
            what="the problem is over",
        )
