"""A row that the database does not let turbo write stops no other: it is set aside, reported, and failed as poison where
it can be."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.rig import Rig
from tests.support.shell import Shell
from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo.db.lane import Lane
from turbo.db.refusals import RefusalTimings
from turbo.domain.claim import ClaimRef
from turbo.domain.problem import ProblemKind
from turbo.domain.states import RescueReason

LONG_ID = secrets.token_hex(1344)
"""2,688 bytes: the primary key takes them, the index of the audit trail does not."""
QUICK = RefusalTimings(first=0.05, longest=0.2, patience=0.1)

SCHEDULED = (
    "insert into agent_tasks (task_id, task_description, status, run_after)"
    " values (%s, 'x', 'scheduled', now() - make_interval(secs => %s))"
)
RUNNING = (
    "insert into agent_tasks (task_id, task_description, status, assigned_worker_id, fencing_token)"
    " values (%s, 'x', 'running', %s, 5)"
)
INSERT = "insert into agent_tasks (task_id, task_description) values (%s, 'x')"
TRIGGER = (
    "create function owner_rule() returns trigger language plpgsql as $$ begin {} return new; end $$;"
    " create trigger owner_rule before update on agent_tasks for each row execute function owner_rule()"
)
ALLOWED = "status in ('pending', 'scheduled', 'failed')"
CROWD = (
    "insert into agent_tasks (task_id, task_description, status, task_priority, run_after)"
    " select 'bad' || coalesce(%(priority)s::int, 0) || '-' || n, 'x', %(status)s, %(priority)s::int, now() - interval '1 s'"
    " from generate_series(1, 60) n"
)
REFUSALS = {
    "check": "alter table agent_tasks add constraint owner_check check (task_id not like 'bad%') not valid",
    "check on the change": f"alter table agent_tasks add check (task_id not like 'bad%' or {ALLOWED}) not valid",
    "trigger": TRIGGER.format("if new.task_id like 'bad%' then raise exception 'no'; end if;"),
    "trigger with its own error": TRIGGER.format("if new.task_id like 'bad%' then perform * from missing; end if;"),
    "trigger that cannot cast": TRIGGER.format("if new.task_id like 'bad%' then perform new.task_id::int; end if;"),
    "unique index": "create unique index owner_key on agent_tasks ((1))"
    " where task_id like 'bad%' and status <> 'pending' or task_id = 'holder'",
    "foreign key of the trail": "create table known (task_id text primary key);"
    " insert into known values ('good'), ('later');"
    " alter table agent_actions add constraint owner_fk foreign key (task_id) references known not valid",
    "generated column": "alter table agent_tasks add column owner_sum smallint generated always as"
    f" (case when task_id like 'bad%' and not ({ALLOWED}) then 40000 else 1 end) stored",
}
"""What owners of a table do, that refuses the update or the audit row of one task."""


@pytest.fixture
def owner(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def bypassing(owner: psycopg.Connection, statement: str, *parameters: object, **named: object) -> None:
    """As rows get in past the triggers: replication, a restore."""
    owner.execute("set session_replication_role = replica")
    owner.execute(statement, named or parameters)  # type: ignore[arg-type]
    owner.execute("set session_replication_role = origin")


def dead_worker(owner: psycopg.Connection) -> None:
    owner.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, state)"
        " values ('dead', 'w', 'h', 1, '0', 1, '{default}', 'dead')"
    )


def status(owner: psycopg.Connection, task_id: str) -> str | None:
    row = owner.execute("select status from agent_tasks where task_id = %s", [task_id]).fetchone()
    return row[0] if row else None


async def becomes(owner: psycopg.Connection, task_id: str, wanted: str, seconds: float = 15) -> None:
    await until_async(lambda: status(owner, task_id) == wanted, seconds, f"{task_id[:20]} becomes {wanted}")


# ── the claim ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", REFUSALS)
async def test_refused_claim_stops_no_other_task(dsn: str, owner: psycopg.Connection, kind: str) -> None:
    owner.execute(INSERT, ["bad"])
    owner.execute(INSERT, ["good"])
    owner.execute("insert into agent_tasks (task_id, task_description, status) values ('holder', 'x', 'completed')")
    owner.execute(REFUSALS[kind].encode())
    with pytest.raises(psycopg.Error):
        owner.execute(
            "with t as (update agent_tasks set status = 'running', turbo_rev = turbo_rev + 1 where task_id = 'bad' returning *)"
            " insert into agent_actions (task_id, action_type) select task_id, 'x' from t"
        )
    async with Rig(dsn, slots_size=4) as rig:
        assert (await rig.claimed())[0].task_id == "good"
        (problem,) = rig.problems.current
        assert problem.kind is ProblemKind.REFUSED_ROW
        assert problem.what.startswith("task bad cannot be claimed: the database refuses its row: ")
        assert problem.do
        assert "Failing row contains" not in problem.what, "the row's content is nobody else's to read"
        if "trigger" in kind:
            assert "(PL/pgSQL function owner_rule() line 1 at " in problem.what, "where to look"
        assert rig.metrics.refused_rows.labels("claim")._value.get() == 1
        owner.execute(INSERT, ["later"])
        assert (await rig.claimed())[0].task_id == "later"


async def test_refused_task_fails_as_poison(
    dsn: str, owner: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    bypassing(owner, INSERT, LONG_ID)
    owner.execute(INSERT, ["good"])
    async with Rig(dsn, slots_size=4, timings=QUICK) as rig:
        assert (await rig.claimed())[0].task_id == "good"
        await becomes(owner, LONG_ID, "failed")
        assert rig.started.empty()
        await until_async(lambda: not rig.problems.current)
    query = "select failure_kind, error_message, fencing_token from agent_tasks where task_id = %s"
    row = owner.execute(query, [LONG_ID]).fetchone()
    assert row is not None
    assert row[0] == "poison"
    assert "index row size" in row[1]
    assert row[1].endswith("then run turbo retry")
    assert owner.execute("select count(*) from agent_actions where task_id = %s", [LONG_ID]).fetchone() == (0,)
    refused = [r for r in caplog.records if "the database refuses this row" in r.message]
    assert len(refused) == 1, "said once, with a short id"
    assert len(refused[0].task) < 100  # type: ignore[attr-defined]


async def test_poisoned_task_is_listed_and_in_the_trail(dsn: str, owner: psycopg.Connection, tmp_path: Path) -> None:
    owner.execute(INSERT, ["bad"])
    owner.execute(REFUSALS["check on the change"].encode())
    async with Rig(dsn, slots_size=4, timings=QUICK) as rig:
        owner.execute(INSERT, ["good"])
        assert (await rig.claimed())[0].task_id == "good"
        await becomes(owner, "bad", "failed")
        trail = owner.execute("select action_type, from_status, to_status from agent_actions where task_id = 'bad'")
        assert trail.fetchall() == [("refused", "pending", "failed")]
        listed = await asyncio.to_thread(Shell(dsn, tmp_path), "tasks", "--status", "failed", "--json")
        (task,) = [line for line in listed.json if line["task_id"] == "bad"]
        assert task["failure_kind"] == "poison"
        owner.execute("alter table agent_tasks drop constraint agent_tasks_check")
        owner.execute("update agent_tasks set status = 'pending' where task_id = 'bad'")
        assert (await rig.claimed())[0].task_id == "bad", "a person retried it"


async def test_refusal_of_every_row_fails_none(dsn: str, owner: psycopg.Connection) -> None:
    for number in range(60):
        owner.execute(INSERT, [f"bad{number}"])
    owner.execute(REFUSALS["check on the change"].encode())
    async with Rig(dsn, slots_size=4, timings=QUICK) as rig:
        refused = rig.metrics.refused_rows.labels("claim")._value
        await until_async(lambda: refused.get() >= 60)
        await asyncio.sleep(5 * QUICK.patience)
        assert owner.execute("select distinct status from agent_tasks").fetchall() == [("pending",)]
        assert rig.problems.count()[ProblemKind.REFUSED_ROW] == 60
        owner.execute("alter table agent_tasks drop constraint agent_tasks_check")
        await rig.claimed()
    assert rig.problems.count()[ProblemKind.REFUSED_ROW] < 60


async def test_many_refused_rows_hold_up_nothing_for_long(dsn: str, owner: psycopg.Connection) -> None:
    """They stand before the good one of their queue; another queue is served meanwhile."""
    owner.execute(
        "insert into agent_tasks (task_id, task_description, task_priority) select 'bad' || n, 'x', 9 from generate_series(1, 300) n"
    )
    owner.execute(INSERT, ["good"])
    owner.execute(REFUSALS["check on the change"].encode())
    async with Rig(dsn, slots_size=4, queues=("default", "other"), timings=QUICK) as rig:
        refused = rig.metrics.refused_rows.labels("claim")._value
        await until_async(lambda: refused.get() >= 100, pause=0.005)
        begun = time.monotonic()
        owner.execute("insert into agent_tasks (task_id, task_description, queue) values ('elsewhere', 'x', 'other')")
        names = [(await rig.claimed(30))[0].task_id]
        took = time.monotonic() - begun
        names.append((await rig.claimed(30))[0].task_id)
        assert sorted(names) == ["elsewhere", "good"]
        assert names[0] == "elsewhere"
        assert took < 10
        poison = "select count(*) from agent_tasks where failure_kind = 'poison'"
        await until_async(lambda: owner.execute(poison).fetchone() == (300,), 30, "all are poison", pause=0.1)


async def test_crowd_of_refused_rows_stops_no_queue(dsn: str, owner: psycopg.Connection) -> None:
    """More rows are refused than a worker sets aside, and nothing else of their queue can be claimed."""
    owner.execute(CROWD, {"status": "pending", "priority": 7})
    owner.execute(CROWD, {"status": "pending", "priority": None})
    owner.execute(INSERT, ["behind"])
    owner.execute(REFUSALS["check"].encode())
    timings = RefusalTimings(first=0.05, longest=0.2, patience=1, most_aside=25)
    async with Rig(dsn, slots_size=4, timings=timings) as rig:
        assert (await rig.claimed(20))[0].task_id == "behind", "older rows are gone over"
        assert rig.problems.count()[ProblemKind.REFUSED_ROW] == 26
        what = rig.problems.current[0].what
        assert what.startswith(
            "more than 25 tasks of queue default cannot be claimed: the database refuses their rows: "
        )
        assert '"owner_check"' in what
        owner.execute(INSERT, ["low"])
        assert (await rig.claimed(5))[0].task_id == "low", "a new row is found at once"
        owner.execute("alter table agent_tasks drop constraint owner_check")
        rest = [(await rig.claimed(20))[0].task_id for _ in range(2)]
        assert all(name.startswith("bad") for name in rest)


async def test_crowd_that_the_owner_leaves_fails_as_poison(dsn: str, owner: psycopg.Connection) -> None:
    owner.execute(CROWD, {"status": "pending", "priority": 7})
    owner.execute(REFUSALS["check on the change"].encode())
    timings = RefusalTimings(first=0.05, longest=0.2, patience=0.1, most_aside=10)
    async with Rig(dsn, slots_size=4, timings=timings) as rig:
        await until_async(lambda: rig.problems.count()[ProblemKind.REFUSED_ROW] == 11)
        poison = "select count(*) from agent_tasks where failure_kind = 'poison'"
        assert owner.execute(poison).fetchone() == (0,), "nothing else was claimed"
        numbers = itertools.count()

        async def failed_as_another_is_claimed() -> bool:
            """A row that is claimed is the evidence that those set aside before it are at fault, ten of them at a time."""
            owner.execute(INSERT, [f"good{next(numbers)}"])
            await rig.finish((await rig.claimed(20))[0])
            return bool(owner.execute(poison).fetchone() == (60,))

        await until_async(failed_as_another_is_claimed, 60)
        await until_async(lambda: not rig.problems.current, 30)


async def test_policy_of_the_owner_fails_no_task(dsn: str, owner: psycopg.Connection) -> None:
    """Row level security lets this worker read a row, and not write it: another worker may."""
    owner.execute("create role limited login; grant all on all tables in schema public to limited")
    owner.execute("grant usage on all sequences in schema public to limited")
    owner.execute("grant execute on all functions in schema public to limited")
    try:
        owner.execute("alter table agent_tasks enable row level security")
        owner.execute("create policy everything on agent_tasks using (true) with check (task_id not like 'bad%')")
        for name in ("bad", "good"):
            owner.execute(INSERT, [name])
        async with Rig(f"{dsn} user=limited", slots_size=4, timings=QUICK) as rig:
            assert (await rig.claimed())[0].task_id == "good"
            await asyncio.sleep(5 * QUICK.patience)
            assert "row-level security policy" in rig.problems.current[0].what
        assert status(owner, "bad") == "pending"
    finally:
        owner.execute("drop owned by limited")
        owner.execute("drop role limited")


async def test_claim_names_an_exhausted_sequence(dsn: str, owner: psycopg.Connection) -> None:
    """As an adopted trail's serial at its end: no task is failed for it, and the work goes on once it is widened."""
    owner.execute("alter table agent_actions alter action_id drop identity")
    owner.execute("create sequence old_serial as int owned by agent_actions.action_id")
    owner.execute("alter table agent_actions alter action_id set default nextval('old_serial')")
    owner.execute("select setval('old_serial', 2147483647)")
    owner.execute(INSERT, ["t"])
    bypassing(owner, SCHEDULED, "due", 1)
    async with Rig(dsn, slots_size=4, timings=QUICK) as rig:
        await until_async(lambda: rig.problems.current)
        (problem,) = rig.problems.current
        assert problem.what.startswith("no task can ")
        assert 'reached maximum value of sequence "old_serial"' in problem.what
        assert "bigint" in problem.do
        assert (await rig.poller.poll()).runnable == ("default",), "the look goes on"
        waiting = "select count(*) from agent_tasks where status in ('pending', 'scheduled')"
        assert owner.execute(waiting).fetchone() == (2,)
        owner.execute("alter sequence old_serial as bigint")
        rig.wakeups.retry()
        assert {(await rig.claimed())[0].task_id for _ in range(2)} == {"t", "due"}
        assert rig.problems.current == ()


# ── promotion, and the poll ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["check", "trigger", "foreign key of the trail"])
async def test_refused_promotion_stops_no_other(dsn: str, owner: psycopg.Connection, kind: str) -> None:
    for number, name in enumerate(("bad1", "good", "bad2", "later")):
        bypassing(owner, SCHEDULED, name, 10 - number)
    owner.execute(REFUSALS[kind].encode())
    async with Rig(dsn, slots_size=4, timings=RefusalTimings(first=0.05, patience=60)) as rig:
        assert {(await rig.claimed())[0].task_id for _ in range(2)} == {"good", "later"}
        assert (await rig.poller.poll()).again_in is not None
        whats = sorted(problem.what for problem in rig.problems.current)
        assert [what[: len("task bad1 cannot become pending")] for what in whats] == [
            "task bad1 cannot become pending",
            "task bad2 cannot become pending",
        ]
        assert status(owner, "bad1") == "scheduled"


async def test_refused_promotion_fails_as_poison(dsn: str, owner: psycopg.Connection) -> None:
    for name in ("bad", "good"):
        bypassing(owner, SCHEDULED, name, 1)
    owner.execute("alter table agent_tasks add check (task_id <> 'bad' or status <> 'pending') not valid")
    async with Rig(dsn, slots_size=4, timings=QUICK) as rig:
        assert (await rig.claimed())[0].task_id == "good"
        await becomes(owner, "bad", "failed")
        await until_async(lambda: not rig.problems.current)


async def test_crowd_of_refused_promotions_stops_no_other(dsn: str, owner: psycopg.Connection) -> None:
    bypassing(owner, CROWD, status="scheduled", priority=None)
    owner.execute(REFUSALS["check"].encode())
    timings = RefusalTimings(first=0.05, patience=60, most_aside=10)
    async with Rig(dsn, slots_size=4, timings=timings) as rig:
        await until_async(lambda: rig.problems.count()[ProblemKind.REFUSED_ROW] == 11)
        assert rig.problems.current[0].what.startswith("more than 10 tasks cannot become pending: ")
        bypassing(owner, SCHEDULED, "later", -0.5)
        assert (await rig.claimed(10))[0].task_id == "later"


async def test_poll_looks_although_no_row_can_be_promoted(dsn: str, owner: psycopg.Connection) -> None:
    owner.execute(INSERT, ["running"])
    async with Rig(dsn, slots_size=4) as rig:
        task, _ = await rig.claimed()
        owner.execute("update agent_tasks set status = 'cancelled' where task_id = 'running'")
        owner.execute(
            "insert into agent_tasks (task_id, task_description, run_after) values ('soon', 'x', now() + interval '1 h')"
        )
        owner.execute(REFUSALS["trigger"].encode())
        for number in range(3):
            bypassing(owner, SCHEDULED, f"bad{number}", 1)
        result = await rig.poller.poll()
        assert result.due == 0
        assert result.stop == (task.task_id,)
        assert result.next_in == pytest.approx(3600, abs=60)
        assert result.again_in is not None
        assert result.again_in < 10


async def test_pause_without_end_does_not_stop_the_poll(dsn: str, owner: psycopg.Connection) -> None:
    paused = "insert into agent_accounts (account, host, state, reason, until) values ('a', '*', 'paused', 'manual', 'infinity')"
    owner.execute(paused)
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"), accounts=["a"])
    (account,) = (await stores.claims.poll(["default"])).accounts
    assert account.seconds is None
    assert (await stores.accounts.rows("a"))[0].seconds is None


# ── rescue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["check", "trigger", "foreign key of the trail"])
async def test_refused_rescue_stops_no_other(dsn: str, owner: psycopg.Connection, kind: str) -> None:
    dead_worker(owner)
    for name in ("bad1", "good", "bad2", "later"):
        bypassing(owner, RUNNING, name, "dead")
    owner.execute(REFUSALS[kind].encode())
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"))
    rescued = await stores.registry.rescue(RescueReason.WORKER_SILENT)
    assert sorted(task.task_id for task in rescued) == ["good", "later"]
    assert await stores.registry.rescue(RescueReason.WORKER_SILENT) == []
    assert status(owner, "bad1") == "running"


async def test_refused_rescue_fails_as_poison(dsn: str, owner: psycopg.Connection) -> None:
    dead_worker(owner)
    for name in ("bad", "good"):
        bypassing(owner, RUNNING, name, "dead")
    owner.execute("alter table agent_tasks add check (task_id <> 'bad' or status <> 'scheduled') not valid")
    async with Rig(dsn, timings=QUICK) as rig:

        async def rescued() -> bool:
            await rig.stores.registry.rescue(RescueReason.WORKER_SILENT)
            return status(owner, "bad") == "failed"

        await until_async(rescued, 10)
        assert status(owner, "good") != "failed"
        assert rig.metrics.poisoned._value.get() == 1
        row = owner.execute("select failure_kind, fencing_token from agent_tasks where task_id = 'bad'").fetchone()
        assert row == ("poison", 5), "a late success is still welcome"


# ── reconcile, reassert, release ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["check", "trigger", "foreign key of the trail"])
async def test_refused_orphan_stops_no_other(dsn: str, owner: psycopg.Connection, kind: str) -> None:
    for name in ("bad", "good"):
        bypassing(owner, RUNNING, name, "w")
    owner.execute(REFUSALS[kind].encode())
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"))
    found = await stores.claims.reconcile([ClaimRef("lost", 7)])
    assert found.orphans == (ClaimRef("good", 5),)
    assert found.lost == (ClaimRef("lost", 7),), "the comparison goes on"
    assert found.again_in is not None
    assert (await stores.claims.reconcile([])).orphans == ()


async def test_comparison_does_not_wait_for_an_edited_row(dsn: str, owner: psycopg.Connection) -> None:
    for name in ("edited", "good"):
        bypassing(owner, RUNNING, name, "w")
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"))
    with owner.transaction():
        owner.execute("select from agent_tasks where task_id = 'edited' for update")
        found = await asyncio.wait_for(stores.claims.reconcile([]), 5)
        assert found.orphans == (ClaimRef("good", 5),)
        assert found.again_in is not None
    found = await stores.claims.reconcile([])
    assert found.orphans == (ClaimRef("edited", 5),)
    assert found.again_in is None


async def test_refused_reassert_loses_no_run(dsn: str, owner: psycopg.Connection) -> None:
    for name in ("bad", "good"):
        bypassing(owner, SCHEDULED, name, 1)
        bypassing(owner, "update agent_tasks set status = 'pending', fencing_token = 5 where task_id = %s", name)
    owner.execute("insert into agent_tasks (task_id, task_description, status) values ('holder', 'x', 'completed')")
    owner.execute(REFUSALS["unique index"].encode())
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"))
    answer = await stores.claims.reassert({ClaimRef("bad", 5): None, ClaimRef("good", 5): None})
    assert answer.taken == (ClaimRef("good", 5),)
    assert answer.refused == (ClaimRef("bad", 5),), "no other worker has it: its program goes on"


async def test_refused_release_stops_no_other(dsn: str, owner: psycopg.Connection) -> None:
    for name in ("bad1", "bad2", "good"):
        bypassing(owner, RUNNING, name, "w")
    owner.execute(REFUSALS["trigger"].encode())
    stores = Stores("w", Lane(dsn, "w"), Lane(dsn, "w"))
    claims = [(ClaimRef(name, 5), None) for name in ("bad1", "good", "bad2")]
    assert (await stores.results.release(claims, "drain")).claims == (ClaimRef("good", 5),)
    assert status(owner, "bad1") == "running"
