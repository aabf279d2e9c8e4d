"""What the end of a need does to those who wait: the three modes, to any depth, after a retry, a correction, a late success, and a
deletion before it was tied."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.model.mutations import Mutation
from tests.support.settling import Hand, at_rest, changed, claimed, end, fail, result, settling, states
from tests.support.steps import claim_one
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import count, edges, notes
from turbo.db.worker_registry import WorkerRow
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason, WorkerState
from turbo.sql import statement

ONE_LEVEL = Mutation(
    "a cancel goes on to those below in the same statement",
    "settle/settle",
    (
        (
            "and not d.settled and d.mode = 'cancel' and (select t.status is not distinct",
            "and false and (select t.status is not distinct",
        ),
    ),
)
PAST_THE_LOCK = Mutation(
    "a cancel stops at a row that somebody has locked",
    "settle/settle",
    (("from deep_edge e where e.task_id in (select p.task_id from deep_task p)", "from deep_edge e"),),
)
NO_TRAIL = Mutation(
    "the trail tells what a need that is gone had become",
    "settle/tie",
    (
        (
            "case when public.turbo_last_status(x.need::public.turbo_task_id) = 'completed' then 'completed'",
            "case when false then 'completed'",
        ),
    ),
)
NO_LATE_NOTE = Mutation(
    "a success after the failure was told leaves a note",
    "settle/settle",
    (("where t.completed and (select true from", "where false and (select true from"),),
)


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


def chain(db, length: int, **columns: object) -> None:
    """c0 ◀── c1 ◀── … : each needs the one before it."""
    insert(db, "c0")
    for n in range(1, length):
        insert(db, f"c{n}", needs=[f"c{n - 1}"], **columns)


async def test_each_mode_by_each_end(db, hand):
    for need in ("completed", "failed", "cancelled"):
        insert(db, need)
        insert(db, f"{need}-later", run_after="2999-01-01", needs=[need])
        for mode in ("cancel", "run", "wait"):
            insert(db, f"{need}-{mode}", needs=[need], on_needs_failed=mode)
    await hand.one_pass()
    assert (await hand.one_pass()).moved == 0
    end(db, "completed", status="completed")
    fail(db, "failed")
    end(db, "cancelled", status="cancelled")
    found = await hand.one_pass()
    assert (found.released, found.cancelled) == (6, 4)
    assert states(db) == {
        "completed": "completed", "completed-cancel": "pending", "completed-run": "pending", "completed-wait": "pending",
        "failed": "failed", "failed-cancel": "cancelled", "failed-run": "pending", "failed-wait": "blocked",
        "cancelled": "cancelled", "cancelled-cancel": "cancelled", "cancelled-run": "pending", "cancelled-wait": "blocked",
        "completed-later": "scheduled", "failed-later": "cancelled", "cancelled-later": "cancelled",
    }  # fmt: skip
    gone = row(db, "failed-cancel")
    assert (gone["failure_kind"], gone["error_message"]) == ("needs", "it needs failed, which did not complete")
    assert gone["completed_at"] is not None
    assert row(db, "completed-cancel")["due"], "its wait is measured from now"
    trail = "select action_type, from_status, to_status, detail from agent_actions where task_id = %s"
    assert db.execute(trail, ["failed-cancel"]).fetchall() == [
        ("needs_failed", "blocked", "cancelled", {"need": "failed"})
    ]
    assert db.execute(trail, ["completed-run"]).fetchall() == [("unblocked", "blocked", "pending", None)]
    assert [row(db, n)["needed"] for n in ("completed", "failed", "cancelled")] == [None, False, False]
    at_rest(db)


async def test_retry_is_waited_for_again(db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"], on_needs_failed="wait")
    await hand.one_pass()
    for _ in range(3):
        fail(db, "need")
        await hand.one_pass()
        assert (row(db)["status"], row(db, "need")["needed"]) == ("blocked", False)
        end(db, "need", status="pending")
        await hand.one_pass()
        assert row(db, "need")["needed"] is True
    end(db, "need")
    await hand.one_pass()
    assert row(db)["status"] == "pending"
    at_rest(db)


async def test_wait_ends_after_thirty_days(db, hand):
    """Counted from the failure, or from when it began to wait, whichever was later."""
    insert(db, "need")
    insert(db, "old", needs=["need"], on_needs_failed="wait")
    insert(db, "young", needs=["need"], on_needs_failed="wait")
    await hand.one_pass()
    db.execute("update agent_blocked set since = since - interval '40 days' where task_id = 'old'")
    fail(db, "need")
    await hand.one_pass()
    assert await hand.store.audit() == 0, "the failure is young"
    db.execute(
        "update agent_tasks set completed_at = now() - interval '31 days', turbo_rev = turbo_rev + 1 where task_id = 'need'"
    )
    assert await hand.store.audit() == 1
    await hand.one_pass()
    assert states(db) == {"need": "failed", "old": "cancelled", "young": "blocked"}
    end(db, "need", status="pending")
    await hand.one_pass()
    assert states(db) == {"need": "pending", "old": "blocked", "young": "blocked"}, (
        "its retry brings it back all the same"
    )
    end(db, "need")
    await hand.one_pass()
    assert states(db) == {"need": "completed", "old": "pending", "young": "pending"}
    at_rest(db)


# ── depth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, ONE_LEVEL])
async def test_cancel_and_retry_walk_many_levels_at_once(db, hand, guard):
    chain(db, 40)
    await hand.one_pass()
    end(db, "c0", status="cancelled")
    with changed(guard):
        first = await hand.store.settle()
    assert first.cancelled == (1 if guard else 39)
    if guard:
        return
    assert row(db, "c39")["error_message"] == "it needs c38, which did not complete"
    await hand.one_pass()
    at_rest(db)
    end(db, "c0", status="pending")
    await hand.store.tie()
    assert set(states(db).values()) == {"pending", "blocked"}, "all of them are back by one statement"
    await hand.one_pass()
    assert count(db, "c39") == (1, None)
    at_rest(db)


@pytest.mark.parametrize("guard", [None, PAST_THE_LOCK])
async def test_cancel_stops_at_what_somebody_holds(dsn, db, hand, guard):
    """Nobody below a row that a person is editing is cancelled: the person may let it run."""
    chain(db, 10)
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set status = 'pending' where task_id = 'c5'")
        end(db, "c0", status="cancelled")
        if guard:
            with changed(guard), pytest.raises(psycopg.errors.LockNotAvailable):
                await hand.one_pass()
            return
        await hand.one_pass()
        assert [n for n, status in states(db).items() if status == "blocked"] == ["c5", "c6", "c7", "c8", "c9"]
    await hand.one_pass()
    assert [n for n, status in states(db).items() if status == "blocked"] == ["c6", "c7", "c8", "c9"]
    at_rest(db)


async def test_retry_stops_at_what_somebody_holds(dsn, db, hand):
    chain(db, 10)
    await hand.one_pass()
    end(db, "c0", status="cancelled")
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 3 where task_id = 'c5'")
        end(db, "c0", status="pending")
        for _ in range(3):
            await hand.one_pass()
        back = "select count(*) from agent_actions where task_id = 'c6' and action_type = 'blocked'"
        assert db.execute(back).fetchone() == (0,), "nothing goes back and forth meanwhile"
        assert [n for n, status in states(db).items() if status == "cancelled"] == ["c5", "c6", "c7", "c8", "c9"]
    await hand.one_pass()
    assert set(states(db).values()) == {"pending", "blocked"}
    at_rest(db)


async def test_retry_of_one_of_two_failed_needs_moves_nothing(dsn, db, hand):
    """Nothing goes back and forth, also while somebody holds another of its dependents, and beyond what one statement takes."""
    insert(db, "a")
    insert(db, "b")
    insert(db, "both", needs=["a", "b"])
    insert(db, "below", needs=["both"])
    insert(db, "only", needs=["a"])
    insert(db, "mixed", needs=["only", "both"])
    await hand.one_pass()
    fail(db, "a")
    fail(db, "b")
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set task_priority = 1 where task_id = 'only'")
        end(db, "a", status="pending")
        async with asyncio.timeout(20):
            assert (await hand.one_pass()).unsettled
    await hand.one_pass()
    found = states(db)
    assert [found[n] for n in ("both", "below", "only", "mixed")] == ["cancelled", "cancelled", "blocked", "cancelled"]
    back = "select task_id from agent_actions where action_type = 'blocked'"
    assert db.execute(back).fetchall() == [("only",)]
    at_rest(db)
    end(db, "b", status="pending")
    await hand.one_pass()
    assert [states(db)[n] for n in ("both", "below", "only", "mixed")] == ["blocked"] * 4
    at_rest(db)


async def test_diamonds_and_mixed_modes_to_any_depth(db, hand):
    insert(db, "a")
    insert(db, "b", needs=["a"])
    insert(db, "c", needs=["a"], on_needs_failed="run")
    insert(db, "d", needs=["b", "c"])
    insert(db, "e", needs=["d", "a"], on_needs_failed="wait")
    insert(db, "f", needs=["d", "e"], on_needs_failed="run")
    await hand.one_pass()
    fail(db, "a")
    await hand.one_pass()
    assert states(db) == {
        "a": "failed",
        "b": "cancelled",
        "c": "pending",
        "d": "cancelled",
        "e": "blocked",
        "f": "blocked",
    }
    at_rest(db)
    end(db, "a", status="pending")
    await hand.one_pass()
    assert states(db) == {
        "a": "pending",
        "b": "blocked",
        "c": "pending",
        "d": "blocked",
        "e": "blocked",
        "f": "blocked",
    }
    end(db, "a", "c")
    await hand.one_pass()
    end(db, "b")
    await hand.one_pass()
    assert (states(db)["d"], states(db)["e"]) == ("pending", "blocked")
    end(db, "d")
    await hand.one_pass()
    end(db, "e")
    await hand.one_pass()
    assert states(db)["f"] == "pending"
    at_rest(db)


async def test_retry_of_all_at_once_runs_in_order(db, hand):
    chain(db, 6)
    await hand.one_pass()
    end(db, "c0", status="cancelled")
    await hand.one_pass()
    db.execute("update agent_tasks set status = 'pending'")
    await hand.one_pass()
    for n in range(6):
        assert [states(db)[f"c{m}"] for m in range(n, 6)] == ["pending"] + ["blocked"] * (5 - n)
        end(db, f"c{n}")
        await hand.one_pass()
    at_rest(db)


async def test_retry_of_one_dependent_waits_for_its_failed_need(db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await hand.one_pass()
    fail(db, "need")
    await hand.one_pass()
    end(db, "t", status="pending")
    await hand.one_pass()
    assert (row(db)["status"], row(db)["failure_kind"]) == ("cancelled", "needs"), "the need is failed still"
    end(db, "need", status="completed")
    await hand.one_pass()
    assert row(db)["status"] == "pending", "corrected to completed"
    at_rest(db)


# ── late ends ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, NO_LATE_NOTE])
async def test_late_success_of_poison_brings_dependents_back(db, hand, stores, guard):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "u", needs=["t"])
    insert(db, "w", needs=["need"], on_needs_failed="wait")
    await hand.one_pass()
    held = await claim_one(stores)
    db.execute("update agent_tasks set infra_count = 4, turbo_rev = turbo_rev + 1 where task_id = 'need'")
    db.execute("update agent_workers set state = 'dead'")
    assert [found.status for found in await stores.registry.rescue(RescueReason.WORKER_SILENT)] == ["failed"]
    await hand.one_pass()
    assert states(db) == {"need": "failed", "t": "cancelled", "u": "cancelled", "w": "blocked"}, "failed as poison"
    (answer,) = await stores.results.finish([result(held)])
    assert (answer.verdict, answer.needed) == ("recorded", True)
    with changed(guard):
        await hand.one_pass()
    wanted = ("cancelled", "cancelled") if guard else ("pending", "blocked")
    assert (states(db)["t"], states(db)["u"], states(db)["w"]) == (*wanted, "pending")
    if guard is None:
        at_rest(db)


@pytest.mark.parametrize("guard", [None, NO_TRAIL])
@pytest.mark.parametrize("became", ["completed", "failed", "cancelled"])
async def test_need_that_is_gone_before_it_is_tied(dsn, db, hand, stores, became, guard):
    """Retention deleted it, or a person did, while the transaction that inserts its dependents was open."""
    insert(db, "need")
    held = await claimed(stores, "need")
    submitter = psycopg.connect(dsn)
    for mode in ("cancel", "run", "wait"):
        insert(submitter, mode, needs=["need"], on_needs_failed=mode)
    insert(submitter, "next", continues="need")
    outcome = OutcomeKind.SUCCEEDED if became == "completed" else OutcomeKind.FAILED
    if became == "cancelled":
        db.execute("update agent_tasks set status = 'cancelled' where task_id = 'need'")
        outcome = OutcomeKind.CANCELLED
    await stores.results.finish([result(held, outcome, final=True)])
    assert row(db, "need")["status"] == became
    db.execute("delete from agent_tasks where task_id = 'need'")
    submitter.commit()
    submitter.close()
    with changed(guard):
        await hand.one_pass()
    met = became == "completed" and guard is None
    wanted = {"cancel": "pending" if met else "cancelled", "run": "pending", "wait": "pending" if met else "cancelled"}
    assert states(db) == {**wanted, "next": "pending"}
    at_rest(db)


async def test_need_of_which_nobody_knows_counts_as_cancelled(dsn, db, hand):
    insert(db, "need", status="completed")
    with psycopg.connect(dsn) as submitter:
        insert(submitter, "t", needs=["need"])
        db.execute("delete from agent_tasks where task_id = 'need'")
    await hand.one_pass()
    assert (row(db)["status"], row(db)["failure_kind"]) == ("cancelled", "needs")


async def test_same_ids_again_inherit_nothing(db, hand):
    for forget in ("delete from agent_tasks", "truncate agent_tasks"):
        for turn in range(2):
            insert(db, "need")
            insert(db, "t", needs=["need"])
            insert(db, "next", continues="need")
            await hand.one_pass()
            assert states(db) == {"need": "pending", "t": "blocked", "next": "blocked"}, (forget, turn)
            assert edges(db, "t") == [("need", False)]
            end(db, "need")
            await hand.one_pass()
            assert states(db) == {"need": "completed", "t": "pending", "next": "pending"}, (forget, turn)
            db.execute(forget)
            await hand.one_pass()
            assert notes(db) == []
            at_rest(db)


# ── older workers ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_older_worker_keeps_its_queues_as_they_are(db, hand, stores):
    """It would run a task without what it needs. Other queues go on, and nothing spins."""
    older = WorkerRow("old", "h", 1, "0", 1, ("default", "b"), {}, (), None, 10, 60, 30, 15)
    await stores.registry.register(older, WorkerState.PAUSED)
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "failing", status="cancelled")
    insert(db, "u", needs=["failing"])
    insert(db, "elsewhere", needs=["need"], queue="c")
    await hand.one_pass()
    end(db, "need")
    found = await hand.one_pass()
    assert (found.unsettled, states(db)["t"], states(db)["elsewhere"], states(db)["u"]) == (
        False,
        "blocked",
        "pending",
        "blocked",
    )
    assert (await hand.one_pass()).moved == 0
    db.execute("update agent_workers set state = 'dead' where name = 'old'")
    await hand.one_pass()
    assert (states(db)["t"], states(db)["u"]) == ("pending", "cancelled")
    at_rest(db)


@pytest.mark.parametrize("half", [False, True], ids=["untied", "counted"])
@pytest.mark.parametrize(
    ("status", "mode", "becomes"),
    [
        ("completed", "cancel", "blocked"),
        ("failed", "cancel", "cancelled"),
        ("failed", "wait", "cancelled"),
        ("failed", "run", "blocked"),
    ],
)
async def test_another_task_of_a_deleted_needs_id_is_no_need(dsn, db, hand, half, status, mode, becomes):
    """A nightly job deletes its row and inserts it again, between the insert of a dependent and its tie."""
    insert(db, "nightly")
    end(db, "nightly", status=status)
    insert(db, "other")
    with psycopg.connect(dsn) as person:
        if half:  # the settler counts both, and cannot tie it to the one that is locked
            person.execute("update agent_tasks set task_priority = 2 where task_id = 'nightly'")
        insert(db, "t", needs=["nightly", "other"], on_needs_failed=mode)
        if half:
            await hand.one_pass()
            assert db.execute("select needs_left from agent_blocked").fetchone()[0] == 2, "counted, and tied to one"
        person.execute("delete from agent_tasks where task_id = 'nightly'")
    insert(db, "nightly")
    await hand.one_pass()
    assert states(db) == {"nightly": "pending", "other": "pending", "t": becomes}
    end(db, "other")
    await hand.one_pass()
    assert states(db) == {"nightly": "pending", "other": "completed", "t": becomes.replace("blocked", "pending")}
    end(db, "nightly")
    at_rest(db)


@pytest.mark.parametrize("first", ["a", "a b"])
async def test_ids_with_spaces_keep_their_ends_apart(db, hand, first):
    """`b c` needs `a`, and `c` needs `a b`: put together, both are `a b c`."""
    insert(db, "a")
    insert(db, "a b")
    end(db, "a")
    fail(db, "a b")
    for need in (first, *{"a", "a b"} - {first}):
        insert(db, {"a": "b c", "a b": "c"}[need], needs=[need])
    await hand.one_pass()
    assert states(db) == {"a": "completed", "a b": "failed", "b c": "pending", "c": "cancelled"}


async def test_edges_that_a_deletion_cannot_see_are_made_anew(dsn, db, hand):
    """Tied after the snapshot of the transaction that deletes the need."""
    insert(db, "need")
    insert(db, "early", needs=["need"])
    await hand.one_pass()
    with psycopg.connect(dsn) as deleter:
        deleter.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        deleter.execute("select from agent_tasks")
        insert(db, "late", needs=["need"])
        await hand.one_pass()
        deleter.execute("delete from agent_tasks where task_id = 'need'")
    await hand.one_pass()
    assert states(db) == {"early": "cancelled", "late": "cancelled"}
    at_rest(db)


@pytest.mark.parametrize(
    "leaves", ["update agent_tasks set status = 'cancelled' where", "delete from agent_tasks where", ""]
)
async def test_retention_takes_a_failed_need_nobody_waits_for(db, hand, leaves):
    """Its dependent waited for a retry, and was cancelled or deleted. The control: one that still waits."""
    insert(db, "need")
    insert(db, "t", needs=["need"], on_needs_failed="wait")
    await hand.one_pass()
    db.execute(
        "update agent_tasks set status = 'failed', fencing_token = -9, turbo_rev = turbo_rev + 1, run_after = '2020-01-01',"
        " completed_at = '2020-01-01' where task_id = 'need'"
    )
    await hand.one_pass()
    if leaves:
        db.execute(f"{leaves} task_id = 't'".encode())
    await hand.one_pass()
    assert row(db, "need")["needed"] is False
    ages = {"completed": 9, "failed": 9, "cancelled": None}
    due = {**ages, "after": "-infinity", "after_id": None, "limit": 9}
    (ids, *_) = db.execute(statement("retention/due").encode(), due).fetchone() or ((),)
    assert ids == ["need"]
    gone = db.execute(statement("retention/tasks").encode(), {**ages, "task_id": ids}).fetchone()
    assert gone is not None
    assert gone[1] == (1 if leaves else 0)
