"""Rows at the head of a queue that a worker may not take now cost its claims little, and hide no row for long."""

import asyncio

import psycopg
import pytest

from tests.support.heads import KINDS, head_worker, keep_busy, let_go, load
from tests.support.rig import Rig
from tests.support.size import sized
from turbo.db import bypass
from turbo.db.bypass import BypassTimings
from turbo.domain.claim import ClaimRef
from turbo.sql import source, statement

HELD = sized(1_000, 10_000)
FREE = sized(1_000, 1_000_000)
FEW = 20
"""Index entries that a claim of one reads at most, rows that it claimed before included."""

KEY, HOST, TYPE = KINDS["a full key"], KINDS["another host's conversation"], KINDS["a paused account's type"]


@pytest.fixture
async def worker(dsn, db):
    async with head_worker(dsn, db) as found:
        yield found


async def bypassed(worker, db, kind, rows=200):
    """Rows of this kind stand at the head of the queue, and the worker knows it."""
    keep_busy(db, "k")
    load(db, kind, rows)
    assert await worker.claim(kind) == []
    assert not await worker.survey()


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.sized
@pytest.mark.parametrize("name", KINDS)
async def test_claim_reads_few_rows_past_a_long_head(worker, db, name):
    kind = KINDS[name]
    keep_busy(db, "k")
    await worker.claim(kind)  # its statements are prepared while the table is empty
    await worker.survey()
    load(db, kind, HELD)
    load(db, None, FREE, days=1)
    assert await worker.claim(kind) == ["free-default-5-1"]
    assert worker.reads > HELD, "the control: without the bypass it reads them all"
    assert await worker.survey()
    for number in range(2, 5):
        assert await worker.claim(kind) == [f"free-default-5-{number}"]
        assert worker.reads <= FEW


async def test_three_priorities_at_the_head_are_passed(worker, db):
    for priority in (3, 5, 9):
        load(db, HOST, 100, priority=priority)
        load(db, None, 2, priority=priority, days=1)
    assert await worker.claim(HOST, 2) == ["free-default-9-1", "free-default-9-2"]
    assert await worker.survey()
    assert await worker.claim(HOST, 9) == [f"free-default-{p}-{n}" for p in (5, 3) for n in (1, 2)]
    assert await worker.survey() is False
    assert await worker.claim(HOST, 9) == []
    assert worker.reads <= FEW


async def test_few_rows_at_the_head_are_not_worth_a_way_around(worker, db):
    await bypassed(worker, db, HOST, rows=bypass.LEAST_ROWS - 1)
    assert await worker.claim(HOST) == []
    assert worker.reads == bypass.LEAST_ROWS - 1


async def test_survey_reads_no_more_than_its_bound(worker, db, monkeypatch):
    monkeypatch.setattr(bypass, "MOST_ROWS", 150)
    load(db, HOST, 300)
    load(db, None, 1, days=1)
    assert await worker.claim(HOST, 5) == ["free-default-5-1"]
    assert not await worker.survey(), "the row it might take is beyond"
    assert await worker.claim(HOST) == []
    assert 150 <= worker.reads <= 151 + FEW


# ── nothing new is hidden ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("priority", ["9", "5", "1", "-2147483648", "2147483647", "null"])
async def test_row_that_comes_later_is_claimed_at_once(worker, db, priority):
    await bypassed(worker, db, HOST)
    db.execute(
        f"insert into agent_tasks (task_id, task_description, task_priority) values ('new', 'x', {priority})".encode()
    )
    assert await worker.claim(HOST) == ["new"]


async def test_rows_past_the_head_come_in_claim_order(worker, db):
    await bypassed(worker, db, HOST)
    for number, priority in enumerate(["null", "4", "5", "5", "6"]):
        db.execute(
            "insert into agent_tasks (task_id, task_description, task_priority, run_after)"
            f" values ('n{number}', 'x', {priority}, now() - interval '1 h' + {number} * interval '1 s')".encode()
        )
    assert await worker.claim(HOST, 2) == ["n4", "n2"]
    assert await worker.claim(HOST, 9) == ["n3", "n1", "n0"]


@pytest.mark.parametrize("young", [60.0, 0.0])
async def test_row_of_a_transaction_that_was_open_is_found(dsn, db, young):
    timings = BypassTimings(slow=-1.0, none=0.0, soon=0.0, longest=0.0, hasty=0.0, young=young)
    async with head_worker(dsn, db, timings) as worker:
        load(db, HOST, 200)
        with psycopg.connect(dsn) as slow:
            slow.execute("insert into agent_tasks (task_id, task_description) values ('open', 'x')")
            load(db, HOST, 1, priority=5, queue="default", days=0, name="newer")
            assert await worker.claim(HOST) == []
            assert not await worker.survey()
        found = await worker.claim(HOST)
        if young:
            assert found == ["open"]
        else:  # the control: what is young is passed by, too; the next survey finds it
            assert found == []
            assert await worker.survey()
            assert await worker.claim(HOST) == ["open"]


# ── what is passed by is found again ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", KINDS)
async def test_survey_finds_what_may_be_claimed_again(worker, db, name):
    kind = KINDS[name]
    await bypassed(worker, db, kind)
    db.execute(
        f"update agent_tasks set {kind.opened}, turbo_rev = turbo_rev + 1 where task_id = 'held-default-5-77'".encode()
    )
    assert await worker.claim(kind) == [], "it is passed by until then"
    assert await worker.survey()
    assert await worker.claim(kind) == ["held-default-5-77"]


async def test_waiter_starts_with_the_claim_after_its_key_is_free(worker, db):
    await bypassed(worker, db, KEY)
    load(db, None, 3, days=1)
    assert await worker.claim(KEY) == ["free-default-5-1"]
    let_go(db, "k")
    assert await worker.claim(KEY, 3) == ["held-default-5-1", "free-default-5-2", "free-default-5-3"]
    assert worker.reads <= FEW
    assert await worker.claim(KEY, 3) == [], "the key is taken again"
    (claim,) = db.execute("select fencing_token from agent_tasks where task_id = 'held-default-5-1'").fetchall()
    await worker.stores.results.finish([_ended("held-default-5-1", claim[0])])
    assert await worker.claim(KEY) == ["held-default-5-2"]


async def test_freed_keys_of_many_are_found_after_a_wake_up(worker, db):
    keys = [f"k{number}" for number in range(3 * bypass.KEYS_A_CLAIM)]
    keep_busy(db, *keys)
    load(db, KEY, 200)
    db.execute(
        "update agent_tasks set concurrency_key = 'k' || substr(task_id, 16)::int % 150, turbo_rev = turbo_rev + 1"
        " where status = 'pending'"
    )
    assert await worker.claim(KEY) == []
    assert not await worker.survey()
    let_go(db, "k149")
    assert await worker.claim(KEY, woken=True) == ["held-default-5-149"]


async def test_raised_limit_lets_waiters_at_the_head_go(worker, db):
    await bypassed(worker, db, KEY)
    db.execute("insert into agent_limits (concurrency_key, running) values ('k', 2)")
    worker.stores.claims.limits_told()
    assert await worker.claim(KEY) == ["held-default-5-1"]
    assert await worker.claim(KEY) == []


async def test_waiter_of_a_higher_priority_goes_first(worker, db):
    keep_busy(db, "k")
    for priority in (3, 9):
        load(db, KEY, 100, priority=priority)
    load(db, None, 1, priority=7)
    assert await worker.claim(KEY) == ["free-default-7-1"]
    assert not await worker.survey()
    load(db, None, 2, priority=6)
    let_go(db, "k")
    assert await worker.claim(KEY) == ["held-default-9-1"]
    assert await worker.claim(KEY) == ["free-default-6-1"]


async def test_account_that_is_back_has_its_tasks_at_once(worker, db):
    await bypassed(worker, db, TYPE)
    assert await worker.claim(None) == ["held-default-5-1"]


async def test_retry_with_an_old_moment_is_found(worker, db):
    load(db, None, 1, days=3)
    assert await worker.claim(HOST) == ["free-default-5-1"]
    await bypassed(worker, db, HOST)
    db.execute(
        "update agent_tasks set status = 'pending', turbo_rev = turbo_rev + 1 where task_id = 'free-default-5-1'"
    )
    assert await worker.claim(HOST) == []
    assert await worker.survey()
    assert await worker.claim(HOST) == ["free-default-5-1"]


async def test_each_queue_has_its_own_head(worker, db):
    await bypassed(worker, db, HOST)
    load(db, None, 1, queue="second", days=3)
    assert await worker.claim(HOST, queue="second") == ["free-second-5-1"]
    assert await worker.claim(HOST) == []
    assert worker.reads <= FEW


async def test_next_worker_begins_with_the_whole_queue(dsn, worker, db):
    await bypassed(worker, db, HOST)
    db.execute(
        "update agent_tasks set prefer_host = null, turbo_rev = turbo_rev + 1 where task_id = 'held-default-5-9'"
    )
    assert await worker.claim(HOST) == []
    async with head_worker(dsn, db, name="next") as successor:
        assert await successor.claim(HOST) == ["held-default-5-9"]


async def test_row_that_the_database_refuses_is_passed_as_well(worker, db):
    await bypassed(worker, db, HOST)
    db.execute("alter table agent_tasks add constraint house check (status <> 'running' or task_description <> 'bad')")
    for name, text in {"one": "bad", "good": "x", "two": "bad", "fine": "x"}.items():
        db.execute("insert into agent_tasks (task_id, task_description) values (%s, %s)", [name, text])
    assert sorted(await worker.claim(HOST, 2)) == ["fine", "good"]


async def test_worker_that_went_idle_finds_what_it_passed_by(dsn, db):
    """Nothing wakes it for a host that a person took out of a row, and polls are an hour apart."""
    load(db, HOST, 200)
    timings = BypassTimings(slow=-1.0, none=0.0, soon=0.5, longest=0.5, hasty=0.5, young=0.0)
    async with Rig(dsn, slots_size=9, bypasses=timings) as rig:
        while not await _knows(rig):
            db.execute("insert into agent_tasks (task_description) values ('x')")
            await rig.claimed()
        db.execute(
            "update agent_tasks set prefer_host = null, turbo_rev = turbo_rev + 1 where task_id = 'held-default-5-9'"
        )
        db.execute("insert into agent_tasks (task_id, task_description) values ('wakes', 'x')")
        found = {(await rig.claimed())[0].task_id, (await rig.claimed())[0].task_id}
    assert found == {"wakes", "held-default-5-9"}


# ── one text ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_survey_refuses_for_what_the_claim_refuses():
    """Word for word, but for what lasts no longer than another claim, a paused queue, or a dead worker."""
    claim, survey = (_conditions(statement("tasks/claim", variant)) for variant in (None, "survey"))
    taking = "and public.turbo_take_key(t.concurrency_key::text)"
    busy = (
        "not exists (select from public.agent_tasks r where r.status = 'running' and r.conversation = t.conversation)"
    )
    survey = survey.replace("or false and", "and").replace(f"when true then {busy} ", "")
    assert taking in survey, "it is there, and never asked"
    shared, _, momentary = claim.partition(" and not exists (select from public.agent_queues p")
    assert survey == shared
    assert momentary.startswith(
        " where p.queue = %(queue)s and p.paused) and (select w.state from public.agent_workers w"
    )
    assert momentary.count(" and ") == 2
    for line in source("tasks/claim").split("--end survey:")[1].split("\n"):
        assert "--if spent" not in line


def _conditions(text: str) -> str:
    """Of the candidates."""
    return (
        text.rpartition("with candidates")[2]
        .partition(") t where " if "limit %(most)s) t" in text else " t where ")[2]
        .partition(" order by")[0]
    )


async def _knows(rig: Rig) -> bool:
    while not rig.wakeups.at_rest:
        await asyncio.sleep(0.001)
    return any(known.bypass is not None for known in rig.stores.claims._bypasses._known.values())


def _ended(task_id: str, token: int):
    from tests.support.rig import finished

    return finished(ClaimRef(task_id, token), "w-1-abc")
