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
from turbo.domain.states import WorkerState

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
