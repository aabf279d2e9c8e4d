"""What keeps a conversation together: a run that a failover took from it, an older worker beside it, and who is told of its ends."""

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from tests.support.settling import Hand, at_rest, claimed, result, settling, states
from tests.support.standby import Standby
from tests.support.steps import ME
from tests.support.waiting_rows import insert, row
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason, WorkerState
from turbo.domain.task import Task
from turbo.sql import statement

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


# ── a failover ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def running_follow_up(dsn, db, hand, stores):
    """A failover loses the place, the release and the claim of `f`, whose run goes on."""
    insert(db, "r")
    await stores.results.finish([result(await claimed(stores, "r"))])
    insert(db, "f", continues="r")
    standby = Standby(dsn)
    standby.caught_up()
    await hand.one_pass()
    held = await claimed(stores, "f")
    standby.takes_over()
    assert (states(db)["f"], row(db, "f")["conversation"]) == ("blocked", None), "the fault bit"
    return held


async def test_run_taken_back_has_its_place_again(dsn, db, hand, stores):
    held = await running_follow_up(dsn, db, hand, stores)
    await stores.claims.reassert({held: None})
    await hand.one_pass()
    insert(db, "g", continues="r")
    await hand.one_pass()
    assert (states(db), await taken(stores)) == ({"r": "completed", "f": "running", "g": "blocked"}, [])
    await stores.results.finish([result(held)])
    await hand.one_pass()
    assert await taken(stores) == ["g"]
    at_rest(db)


async def test_result_of_a_lost_run_has_its_place_again(dsn, db, hand, stores):
    held = await running_follow_up(dsn, db, hand, stores)
    await stores.results.finish([result(held, agent_session_id="later")])
    insert(db, "g", continues="r")
    await hand.one_pass()
    assert row(db, "f")["conversation"] == row(db, "g")["conversation"]
    assert (states(db)["g"], row(db, "g")["agent_session_id"]) == ("pending", "later")
    at_rest(db)


async def taken(stores) -> list[str]:
    """What a claim takes now."""
    return [task.task_id for task in (await stores.claims.claim("default", 9, may_idle=True)).tasks]


# ── an older worker ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_older_worker_meets_no_task_of_a_conversation(db, hand, stores):
    """It knows neither conversations nor their guard: it would run a task beside its own, or fail it as poison."""
    insert(db, "r")
    await stores.results.finish([result(await claimed(stores, "r"))])
    insert(db, "f", continues="r")
    insert(db, "g", continues="r")
    await hand.one_pass()
    held = await claimed(stores, "f")
    await stores.registry.register(replace(ME, schema=15), WorkerState.UP)
    for task_id in ("r", "g"):
        db.execute("update agent_tasks set status = 'pending' where task_id = %s", [task_id])
        assert states(db)[task_id] == "blocked"
    await stores.results.finish([result(held)])
    await hand.one_pass()
    assert states(db) == {"r": "blocked", "f": "completed", "g": "blocked"}
    await stores.registry.register(ME, WorkerState.UP)  # the worker is restarted with this version
    await hand.one_pass()
    assert await taken(stores) in (["r"], ["g"])


@pytest.mark.parametrize("older", [True, False], ids=["older", "control"])
@pytest.mark.parametrize("how", ["answer", "retry", "rescue", "moved", "expired"])
async def test_older_worker_gets_no_depending_task_back(db, hand, stores, how, older):
    """However it becomes pending: an older worker would run it without what it needs, or beside its conversation."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    await stores.results.finish([result(await claimed(stores, "need"))])
    await hand.one_pass()
    held = await claimed(stores, "t")
    if older:
        db.execute(
            "insert into agent_workers select (jsonb_populate_record(w, jsonb_build_object('worker_id', 'old-1', 'schema', 15,"
            " 'queues', array[%s]))).* from agent_workers w",
            ["b" if how == "moved" else "default"],
        )
    if how == "retry":
        await stores.results.finish([result(held, OutcomeKind.USAGE_LIMITED)])
    elif how == "rescue":
        db.execute("update agent_workers set state = 'dead' where worker_id = 'w-1-abc'")
        await stores.registry.rescue(RescueReason.WORKER_SILENT)
        db.execute(  # its time has come: as a poll promotes it
            "update agent_tasks set status = 'pending', run_after = now(), turbo_rev = turbo_rev + 1 where task_id = 't'"
        )
    elif how == "moved":
        await stores.results.finish([result(held, OutcomeKind.USAGE_LIMITED)])
        assert states(db)["t"] == "pending"
        db.execute("update agent_tasks set queue = 'b' where task_id = 't'")
    else:
        asked(db, "t")
        if how == "answer":
            db.execute("update agent_tasks set answer = 'yes' where task_id = 't'")
        else:
            db.execute("update agent_tasks set status = 'pending' where task_id = 't'")
    await hand.one_pass()
    assert states(db)["t"] == ("blocked" if older else "pending")
    at_rest_or_held(db)
    if how == "rescue":
        (answer,) = await stores.results.finish([result(held)])
        assert (answer.verdict, states(db)["t"]) == ("recorded", "completed"), "a late success"
        await hand.one_pass()
        at_rest(db)
        return
    db.execute("update agent_workers set state = 'dead'")
    await hand.one_pass()
    assert states(db)["t"] == "pending"
    at_rest(db)


def asked(db, task_id: str) -> None:
    """As its run that asks a person leaves it."""
    question = '{"kind": "question", "text": "?", "asked_at": "2026-01-01T00:00:00Z", "questions": [{"question": "?", "options": []}]}'
    db.execute(
        "update agent_tasks set status = 'waiting', fencing_token = - fencing_token, question = %s, run_after = '9000-01-01',"
        " assigned_worker_id = null, turbo_rev = turbo_rev + 1 where task_id = %s",
        [question, task_id],
    )


def at_rest_or_held(db) -> None:
    assert db.execute("select public.turbo_unsettled()").fetchone() == (False,), "nothing spins"


async def test_rows_of_an_older_worker_are_not_even_locked(db, hand, stores):
    """They are looked at again and again while it lives."""
    insert(db, "need")
    insert(db, "t", needs=["need"])
    insert(db, "u", needs=["need"], queue="c")
    await hand.one_pass()
    await stores.registry.register(replace(ME, schema=15), WorkerState.UP)
    await stores.results.finish([result(await claimed(stores, "need"))])
    await hand.one_pass()
    assert (states(db)["t"], states(db)["u"]) == ("blocked", "pending")
    lies = "select ctid::text, xmin::text, xmax::text from agent_blocked"
    before = db.execute(lies).fetchall()
    found = await hand.one_pass()
    assert (found.moved, found.unsettled, db.execute(lies).fetchall()) == (0, False, before)
    insert(db, "v", needs=["need"], queue="c")
    await hand.one_pass()
    assert states(db)["v"] == "pending", "other queues go on"


# ── the end of a run ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["result", "cancel"])
async def test_end_of_a_run_wakes_for_its_conversation(dsn, db, hand, stores, ending):
    """An idle worker has passed what waits for it: nothing else tells it before the next poll."""
    insert(db, "r")
    insert(db, "f", continues="r")
    insert(db, "g", continues="r", needs=["r"])
    await hand.one_pass()
    held = await claimed(stores, "r")
    db.execute("update agent_tasks set status = 'pending' where task_id = 'f'")
    assert await taken(stores) == []
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen turbo_q_default")
        if ending == "result":
            await stores.results.finish([result(held)])
        else:
            db.execute("update agent_tasks set status = 'failed' where task_id = 'r'")
            await stores.results.finish([result(held, OutcomeKind.CANCELLED)])
        heard = [note.channel for note in listener.notifies(timeout=5, stop_after=1)]
    assert (heard, await taken(stores)) == (["turbo_q_default"], ["f"])


# ── its directory ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_deleted_first_task_leaves_its_directory(db, hand, stores):
    """Also to those that come later, when the others that knew it are gone."""
    insert(db, "r", input_data='{"cwd": "/srv/repo", "ref": "main"}')
    await stores.results.finish([result(await claimed(stores, "r"))])
    for task_id, before in (("f", "r"), ("g", "f")):
        insert(db, task_id, continues=before)
        await hand.one_pass()
        db.execute("delete from agent_tasks where task_id = %s", [before])
        insert(db, before, status="cancelled")  # a stranger of that id
        (task,) = (await stores.claims.claim("default", 9, may_idle=True)).tasks
        assert (task.task_id, task.directory_id) == (task_id, "r")
        assert task.continued
        assert task.continued.directory == {"cwd": "/srv/repo", "ref": "main"}
        await stores.results.finish([result(ClaimRef(task.task_id, task.fencing_token))])


async def test_stranger_has_a_directory_of_its_own(dsn, db, hand, stores):
    """It has the id of the first task, which is deleted. So have its retries and its follow-ups, also when the others are gone."""
    known = {"r"}
    stores.claims._has_files = known.__contains__

    async def taken() -> Task:
        (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
        known.add(task.directory_id)
        return task

    def place(task: Task) -> tuple[str, str]:
        return task.task_id, task.directory_id

    insert(db, "r")
    first = await taken()
    await stores.results.finish([result(ClaimRef("r", first.fencing_token))])
    insert(db, "f", continues="r")
    await hand.one_pass()
    db.execute("delete from agent_tasks where task_id = 'r'")
    insert(db, "r", task_priority=9)
    stranger = await taken()
    assert (stranger.task_id, stranger.directory_id.startswith("r~")) == ("r", True)
    own = stranger.directory_id
    assert place(await taken()) == ("f", "r"), "the conversation stays where it was"
    await stores.results.finish([result(ClaimRef("r", stranger.fencing_token), OutcomeKind.USAGE_LIMITED)])
    again = await taken()
    assert place(again) == ("r", own), "in each of its runs"
    await stores.results.finish([result(ClaimRef("r", again.fencing_token))])
    insert(db, "g", continues="r", task_priority=9)
    await hand.one_pass()
    assert place(await taken()) == ("g", own)
    (directory,) = db.execute(statement("client/directory").encode(), {"task_id": "r"}).fetchone()
    unfinished = {row[0] for row in db.execute(statement("tasks/unfinished").encode())}
    assert (directory, {"r", own} <= unfinished) == (own, True), "both are kept"


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "control"])
async def test_retried_first_task_keeps_its_directory(db, hand, stores, deleted):
    """Nothing changes for a task that is retried, nor where no conversation goes on in the directory of one that is gone."""
    stores.claims._has_files = lambda task_id: True
    insert(db, "r")
    await stores.results.finish([result(await claimed(stores, "r"))])
    if deleted:
        db.execute("delete from agent_tasks where task_id = 'r'")
        insert(db, "r")
    else:
        insert(db, "f", continues="r")
        await hand.one_pass()
        db.execute("update agent_tasks set status = 'cancelled' where task_id = 'f'")
        db.execute("update agent_tasks set status = 'pending' where task_id = 'r'")
        await hand.one_pass()
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert (task.task_id, task.directory_id) == ("r", "r")
