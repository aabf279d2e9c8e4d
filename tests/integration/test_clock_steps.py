"""The database's clock is set back, or a failover goes to a server whose clock is behind: times in the future do not stop turbo."""

from datetime import timedelta

import psycopg
import pytest

from tests.support.steps import ME, claim_one
from tests.support.stores import Stores
from turbo import Client, db
from turbo.client.fleet_status import WorkerLine
from turbo.db.lane import Lane
from turbo.db.worker_registry import BeatAnswer, beat
from turbo.domain.states import AccountState, RescueReason, WorkerState

AHEAD = "interval '2 hours'"


@pytest.fixture
def sql(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield lambda query, *values: connection.execute(query, values)


@pytest.fixture
async def stores(dsn):
    lane = Lane(dsn, "claims")
    yield Stores("alive", lane, lane, host="h", accounts=["max"])
    await lane.close()


@pytest.fixture
async def beating(dsn):
    """Beats of the worker `alive`, or of another one."""
    connection = await db.connect(dsn, "beats")

    async def once(worker: str = "alive", *, may_lead: bool = False) -> BeatAnswer:
        return await beat(connection, worker, busy=0, may_lead=may_lead, leader_lease=30)

    yield once
    await connection.close()


def add_worker(sql, worker: str, beats_ahead: str = AHEAD) -> None:
    """Its interval is so short that each beat of another finds it silent."""
    sql(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle, heartbeat_at, counted_at,"
        f" heartbeat_seconds, lease_seconds) values (%s, %s, 'h', 1, '0', 1, '{{default}}', true,"
        f" clock_timestamp() + {beats_ahead}, clock_timestamp() + {beats_ahead}, 0.0001, 0.0004)",
        worker,
        worker,
    )


def state(sql, worker: str) -> tuple:
    return sql("select state, silent_beats, idle from agent_workers where worker_id = %s", worker).fetchone()


async def test_dead_worker_with_a_beat_ahead_is_counted_out(sql, stores, beating):
    await stores.registry.register(ME, WorkerState.UP)
    add_worker(sql, "dead")
    sql("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    await claim_one(stores)
    sql("update agent_tasks set assigned_worker_id = 'dead', turbo_rev = turbo_rev + 1")
    answers = [await beating() for _ in range(4)]
    assert [answer.died for answer in answers] == [(), (), (), ("dead",)]
    assert answers[-1].to_rescue
    assert [r.task_id for r in await stores.registry.rescue(RescueReason.WORKER_SILENT)] == ["t"]


async def test_live_worker_with_a_beat_ahead_stays_alive(sql, stores, beating):
    await stores.registry.register(ME, WorkerState.UP)
    add_worker(sql, "other")
    await beating()
    assert state(sql, "other") == ("up", 1, False), "counted, and the notify gate does not wait for it"
    assert (await beating("other")).alive
    assert state(sql, "other") == ("up", 0, False)
    assert sql("select heartbeat_at <= clock_timestamp() from agent_workers where worker_id = 'other'").fetchone() == (
        True,
    )


async def test_small_step_counts_nobody(sql, stores, beating):
    await stores.registry.register(ME, WorkerState.UP)
    add_worker(sql, "other", "interval '10 seconds'")
    sql("update agent_workers set heartbeat_seconds = 10, lease_seconds = 60 where worker_id = 'other'")
    assert (await beating()).died == ()
    assert state(sql, "other") == ("up", 0, True)


@pytest.mark.parametrize("holder", ["dead", "deregistered", "alive elsewhere"])
async def test_lease_of_a_dead_leader_does_not_outlast_it(sql, stores, beating, holder):
    await stores.registry.register(ME, WorkerState.UP)
    if holder != "deregistered":
        add_worker(sql, "leader", "interval '-1 second'" if holder == "dead" else "interval '0'")
        sql("update agent_workers set state = %s, counted_at = null, heartbeat_seconds = 10, lease_seconds = 60"
            " where worker_id = 'leader'", "dead" if holder == "dead" else "up")  # fmt: skip
    sql(f"insert into agent_leader (holder, since, expires_at) values ('leader', now(), now() + {AHEAD})")
    assert (await beating(may_lead=True)).leads is (holder != "alive elsewhere")


async def test_statements_of_a_worker_ahead_show_it_as_silent(sql, dsn):
    add_worker(sql, "dead")
    sql("update agent_workers set heartbeat_seconds = 10, lease_seconds = 60, silent_beats = 3")
    with Client(dsn) as client:
        assert client.served("default") == (False, False)
        fleet = client.fleet()
    (worker,) = fleet.workers
    assert isinstance(worker, WorkerLine)
    assert (worker.silent, worker.live, worker.silent_seconds) == (True, False, 30)


async def test_leftovers_from_the_future_are_pruned(sql, stores):
    add_worker(sql, "dead", "interval '30 years'")
    sql("update agent_workers set state = 'dead'")
    sql(
        f"insert into agent_progress (task_id, fencing_token, worker_id, updated_at) values ('t', 1, 'dead', now() + {AHEAD})"
    )
    await stores.registry.prune()
    assert sql("select count(*) from agent_workers").fetchone() == (0,)
    assert sql("select count(*) from agent_progress").fetchone() == (0,)


# ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────────

STEP_BACK = (
    f"update agent_accounts set until = until + {AHEAD}, probe_until = probe_until + {AHEAD}, probe_since = probe_since + {AHEAD},"
    f" good_since = good_since + {AHEAD}, changed_at = changed_at + {AHEAD}"
)
"""Every time in the table was written by a clock that was two hours ahead."""


async def test_pause_and_probe_from_the_future_are_due(sql, stores):
    accounts = stores.accounts
    await accounts.suspect("max", why="refused", unavailable=False, fresh=0, last=1800)
    assert (await accounts.become_prober("max", "h", lease=120)).state is AccountState.SUSPECT
    sql(STEP_BACK)
    (row,) = await accounts.rows("max")
    (polled,) = (await stores.claims.poll(["default"])).accounts
    assert (row.seconds, polled.seconds) == (0, 0), "the prober may be dead"
    assert (await accounts.become_prober("max", "h", lease=120)).state is AccountState.SUSPECT
    assert await accounts.become_prober("max", "h", lease=120) is None, "from here on its lease counts again"
    await accounts.bad("max", "h", first=600, last=1800, jitter=1, why="refused", unavailable=False)
    assert await accounts.become_prober("max", "h", lease=120) is None
    sql(STEP_BACK)
    assert (await accounts.become_prober("max", "h", lease=120)).state is AccountState.HALF_OPEN


async def test_manual_pause_from_the_future_stays(sql, dsn, stores):
    with Client(dsn) as client:
        client.pause_account("max")
    sql(STEP_BACK)
    (row,) = await stores.accounts.rows("max")
    (polled,) = (await stores.claims.poll(["default"])).accounts
    assert (row.seconds, polled.seconds) == (None, None)
    assert await stores.accounts.become_prober("max", "*", lease=120) is None


async def test_good_probe_from_the_future_proves_nothing(sql, stores):
    accounts = stores.accounts
    since = await accounts.suspect("max", why="refused", unavailable=False, fresh=0, last=1800)
    await accounts.become_prober("max", "h", lease=120)
    assert await accounts.good("max", "h", forget=True)
    assert (await accounts.rows("max", since))[0].cleared
    sql(STEP_BACK)
    assert not (await accounts.rows("max", since + timedelta(seconds=1)))[0].cleared
    await accounts.suspect("max", why="refused", unavailable=False, fresh=60, last=1800)
    assert (await accounts.rows("max"))[0].state is AccountState.SUSPECT


async def test_new_usage_limit_replaces_one_from_the_future(sql, stores):
    limit = {"resets_at": None, "shortest": 60, "longest": 86_400, "unknown": 900, "jitter": 0, "why": "limit"}
    await stores.accounts.limit("max", "*", **limit)
    sql(STEP_BACK)
    await stores.accounts.limit("max", "*", **limit)
    assert sql("select until < now() + interval '16 minutes' from agent_accounts").fetchone() == (True,)


async def test_task_inserted_by_a_clock_ahead_is_claimed(sql, stores):
    """Not one that bypassed the triggers: pending by mistake, and due later."""
    await stores.registry.register(ME, WorkerState.UP)
    sql("insert into agent_tasks (task_id, task_description) values ('t', 'x'), ('bypassed', 'x')")
    sql(
        f"update agent_tasks set run_after = run_after + {AHEAD}, created_at = created_at + {AHEAD}, turbo_rev = turbo_rev + 1"
    )
    sql("update agent_tasks set created_at = now() where task_id = 'bypassed'")
    assert (await stores.claims.poll(["default"])).runnable == ("default",)
    (task,) = (await stores.claims.claim("default", 5, may_idle=True)).tasks
    assert (task.task_id, task.waited_seconds) == ("t", 0)
    assert (await stores.claims.poll(["default"])).runnable == ()
