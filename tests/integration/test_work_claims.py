"""What a claimed task brings of the tasks it needs, its conversation and its messages; and what must not run yet is given back."""

import json
from unittest.mock import patch

import psycopg
import pytest

from tests.support.rig import finished
from tests.support.work_rows import claim_of, insert, past_the_triggers, placed
from turbo.db.settle_store import SettleStore
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import RescueReason
from turbo.domain.task import Task
from turbo.domain.work import NEED_OUTPUT_BYTES, NEEDS_OUTPUT_BYTES, Continued, Earlier, Message, Need
from turbo.migrate import SCHEMA_VERSION


async def claim_one(stores) -> Task:
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    return task


async def done(db, stores, task_id: str, output: object = None, **more: object) -> Task:
    """A task that has run."""
    insert(db, task_id)
    task = await claim_one(stores)
    document = {"output": output, **more}
    await stores.results.finish([finished(task, stores.worker_id, output=document)])
    return task


def status(db, task_id: str) -> str:
    return db.execute("select status from agent_tasks where task_id = %s", [task_id]).fetchone()[0]


def let_go(db, task_id: str, *needs: str) -> None:
    """As the settler does: its edges are settled, and it is pending."""
    for need in needs:
        past_the_triggers(
            db, "insert into agent_dependencies (task_id, needs, settled) values (%s, %s, true)", task_id, need
        )
    past_the_triggers(
        db, "update agent_tasks set status = 'pending', turbo_rev = turbo_rev + 1 where task_id = %s", task_id
    )


async def test_claim_brings_its_needs_in_their_order(db, stores):
    names = ["plan", "a", "gone", "long", "wide", "odd"]
    await done(db, stores, "plan", {"steps": [1, 2]}, workspace={"branch": "turbo/plan"})
    await done(db, stores, "a", "text")
    await done(db, stores, "gone")
    await done(db, stores, "long", "x" * NEED_OUTPUT_BYTES + "y")
    await done(db, stores, "wide", ["x" * NEED_OUTPUT_BYTES])
    await done(db, stores, "odd", workspace="no object")
    insert(db, "open")
    insert(db, "t", needs=["odd", "wide", "long", "gone", "open", "a", "plan"])
    db.execute("update agent_tasks set status = 'waiting' where task_id = 'open'")
    let_go(db, "t", *names)
    db.execute("delete from agent_tasks where task_id = 'gone'")
    wanted = db.execute("select needs from agent_tasks where task_id = 't'").fetchone()[0]
    task = await claim_one(stores)
    assert list(task.needs) == wanted
    assert task.needs == {
        "plan": Need("completed", {"steps": [1, 2]}, workspace={"branch": "turbo/plan"}),
        "a": Need("completed", "text"),
        "gone": Need("deleted"),
        "long": Need("completed", "x" * NEED_OUTPUT_BYTES, cut=True),
        "wide": Need("completed", cut=True),
        "odd": Need("completed"),
        "open": Need("waiting"),
    }


async def test_largest_outputs_are_cut_where_all_are_too_long(db, stores):
    each = NEED_OUTPUT_BYTES - 100
    fit = NEEDS_OUTPUT_BYTES // each
    ids = [f"n{number:02}" for number in range(fit + 3)]
    for task_id in ids:
        insert(db, task_id)
    past_the_triggers(
        db,
        "update agent_tasks set status = 'completed', output_data = jsonb_build_object('output', repeat('x', %s))",
        each - 10,
    )
    insert(db, "small")
    past_the_triggers(
        db, "update agent_tasks set status = 'completed', output_data = '{\"output\": 1}' where task_id = 'small'"
    )
    insert(db, "t", needs=[*ids, "small"])
    let_go(db, "t", *ids, "small")
    needs = (await claim_one(stores)).needs
    kept = sorted(task_id for task_id, need in needs.items() if not need.cut)
    assert kept == [*ids[:fit], "small"]
    assert sum(len(json.dumps(needs[task_id].output)) for task_id in kept) <= NEEDS_OUTPUT_BYTES


@pytest.mark.parametrize("output", ["[" * 3000 + "]" * 3000, "1" * 5000])
async def test_unreadable_output_of_a_need_fails_no_claim(db, stores, output):
    await done(db, stores, "plan")
    past_the_triggers(db, "update agent_tasks set output_data = jsonb_build_object('output', %s::jsonb)", output)
    insert(db, "t", needs=["plan"])
    let_go(db, "t", "plan")
    task = await claim_one(stores)
    assert task.task_id == "t"
    assert task.needs["plan"].status == "completed"
    assert task.needs["plan"].cut == (len(output) == 5000 or task.needs["plan"].output is None)


async def test_claim_brings_the_conversation_it_goes_on_with(db, stores):
    await done(db, stores, "first", "begun")
    db.execute(
        "update agent_tasks set input_data = %s", [json.dumps({"cwd": "/srv/a", "ref": "x" * 20_000, "depth": 1})]
    )
    insert(db, "next", continues="first")
    insert(db, "last", continues="next")
    placed(db, "first", "next", "last")
    task = await claim_one(stores)
    first = Earlier("first", "x", "begun", status="completed")
    assert task.continued == Continued(
        "first", "begun", "first", first_run=True, earlier=(first,), directory={"cwd": "/srv/a"}
    )
    assert task.directory_id == "first"
    await stores.results.finish([finished(task, stores.worker_id, output={"output": "gone on"})])
    task = await claim_one(stores)
    assert task.task_id == "last"
    earlier = (first, Earlier("next", "x", "gone on", status="completed"))
    assert task.continued == Continued("next", "gone on", "first", earlier=earlier, directory={"cwd": "/srv/a"})


async def test_session_may_know_of_a_follow_up_after_a_run(db, stores):
    """Whatever became of that run."""
    await done(db, stores, "first")
    insert(db, "next", continues="first")
    placed(db, "first", "next")
    task = await claim_one(stores)
    assert task.continued is not None
    assert task.continued.first_run
    await stores.results.release([(claim_of(task), None)], "drain")
    task = await claim_one(stores)
    assert task.continued is not None
    assert not task.continued.first_run


async def test_claim_brings_open_messages(db, stores):
    insert(db, "t")
    db.execute("insert into agent_messages (task_id, body) values ('t', 'one'), ('t', 'two')")
    task = await claim_one(stores)
    assert [(m.body, m.sender) for m in task.messages] == [("one", "postgres"), ("two", "postgres")]
    assert all(isinstance(m, Message) for m in task.messages)
    past_the_triggers(db, "update agent_messages set delivered_at = now() where body = 'one'")
    await stores.results.release([(claim_of(task), None)], "drain")
    assert [m.body for m in (await claim_one(stores)).messages] == ["two"]


async def test_plain_claim_asks_for_nothing_more(db, stores, monkeypatch):
    sent: list[str] = []
    rows = type(stores.claims)._rows

    async def seen(self, name, *arguments, **named):
        sent.append(name)
        return await rows(self, name, *arguments, **named)

    await stores.claims.poll(["default"])
    monkeypatch.setattr(type(stores.claims), "_rows", seen)
    insert(db, "t")
    await claim_one(stores)
    assert sent == ["tasks/claim"]
    insert(db, "u")
    db.execute("insert into agent_messages (task_id, body) values ('t', 'to another')")
    stores.claims.message_told()
    assert (await claim_one(stores)).messages == ()
    assert sent == ["tasks/claim", "tasks/claim", "tasks/more"]


async def test_message_is_open_until_a_later_poll_says_none_is(db, stores):
    """A notification that comes while a poll is under way is newer than what the poll saw."""
    insert(db, "t")
    db.execute("insert into agent_messages (task_id, body) values ('t', 'one')")
    await stores.claims.poll(["default"])
    assert [m.body for m in (await claim_one(stores)).messages] == ["one"], "the poll finds it, too"
    past_the_triggers(db, "delete from agent_messages")
    polls, real = type(stores.claims._polls), type(stores.claims._polls).poll

    async def slow(self, *arguments):
        result = await real(self, *arguments)
        insert(db, "u")
        db.execute("insert into agent_messages (task_id, body) values ('u', 'two')")
        stores.claims.message_told()
        return result

    with patch.object(polls, "poll", slow):
        await stores.claims.poll(["default"])
    assert [m.body for m in (await claim_one(stores)).messages] == ["two"]


# ── what must not run yet ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_past_the_triggers_is_given_back_as_blocked(db, stores):
    await done(db, stores, "plan")
    past_the_triggers(
        db, "insert into agent_tasks (task_id, task_description, status, needs) values ('t', 'x', 'pending', '{plan}')"
    )
    insert(db, "plain")
    with psycopg.connect(db.info.dsn, password=db.info.password, autocommit=True) as listening:
        listening.execute("listen turbo_ctl")
        claimed = await stores.claims.claim("default", 9, may_idle=False)
        assert [task.task_id for task in claimed.tasks] == ["plain"]
        assert [n.payload for n in listening.notifies(timeout=5, stop_after=1)] == ["settle"]
    row = db.execute(
        "select status, fencing_token < 0, assigned_worker_id, completed_at from agent_tasks where task_id = 't'"
    ).fetchone()
    assert row == ("blocked", True, None, None)
    assert db.execute("select task_id from agent_unsettled").fetchall() == [("t",)]
    trail = db.execute(
        "select action_type, from_status, to_status from agent_actions where task_id = 't' order by action_id"
    )
    assert trail.fetchall() == [("claimed", "pending", "running"), ("released", "running", "blocked")]


async def test_task_run_by_hand_without_waiting_is_not_given_back(db, stores):
    insert(db, "plan")
    db.execute("update agent_tasks set status = 'waiting'")
    insert(db, "t", needs=["plan"])
    db.execute("update agent_tasks set status = 'pending' where task_id = 't'")
    task = await claim_one(stores)
    assert (task.task_id, task.needs) == ("t", {"plan": Need("waiting")})


@pytest.mark.parametrize("needs", ["{7a,x}", "{99999999999999999999}"])
async def test_needs_that_name_no_id_fail_no_claim(db, stores, needs):
    past_the_triggers(
        db, "insert into agent_tasks (task_id, task_description, status, needs) values ('t', 'x', 'pending', %s)", needs
    )
    assert (await stores.claims.claim("default", 9, may_idle=False)).tasks == ()
    assert status(db, "t") == "blocked"


# ── the end of a task that others wait for ──────────────────────────────────────────────────────────────────────────────


def need_it(db, task_id: str, needed: bool | None = True) -> None:
    past_the_triggers(db, "update agent_tasks set needed = %s where task_id = %s", needed, task_id)


async def test_end_of_a_needed_task_says_so(db, stores):
    for task_id, outcome, needed, told in (
        ("completed", OutcomeKind.SUCCEEDED, True, True),
        ("failed", OutcomeKind.FAILED, True, True),
        ("alone", OutcomeKind.SUCCEEDED, None, False),
        ("given back", OutcomeKind.UNAVAILABLE, True, False),
    ):
        insert(db, task_id, max_retries=0)
        task = await claim_one(stores)
        need_it(db, task_id, needed)
        (answer,) = await stores.results.finish([finished(task, stores.worker_id, outcome)])
        assert answer.needed == told, task_id
        (again,) = await stores.results.finish([finished(task, stores.worker_id, outcome)])
        assert (again.verdict, again.needed) == ("already", False)
        past_the_triggers(db, "delete from agent_tasks")


async def test_stopped_task_that_others_need_says_so(db, stores):
    for how in ("release", "ask"):
        insert(db, how)
        task = await claim_one(stores)
        need_it(db, how)
        db.execute("update agent_tasks set status = 'cancelled' where task_id = %s", [how])
        if how == "release":
            assert (await stores.results.release([(claim_of(task), None)], "drain")).needed
        else:
            asked = finished(task, stores.worker_id, OutcomeKind.ASKED, question={"kind": "question", "text": "?"})
            assert [a.needed for a in await stores.results.finish([asked])] == [True]
        assert status(db, how) == "cancelled"


async def test_late_success_of_a_failed_run_is_told_to_those_who_wait(db, stores):
    insert(db, "t")
    task = await claim_one(stores)
    db.execute("update agent_workers set state = 'dead'")
    past_the_triggers(db, "update agent_tasks set infra_count = 9")
    await stores.registry.rescue(RescueReason.WORKER_SILENT)
    assert status(db, "t") == "failed"
    need_it(db, "t", False)
    (answer,) = await stores.results.finish([finished(task, stores.worker_id)])
    assert (answer.becomes, answer.needed) == ("completed", True)
    assert db.execute("select needed from agent_tasks").fetchone() == (True,)


async def test_task_that_is_over_keeps_its_host_until_a_retry(db, stores):
    await done(db, stores, "t")
    assert db.execute("select prefer_host from agent_tasks").fetchone() == ("h",)
    db.execute("update agent_tasks set status = 'pending'")
    assert db.execute("select prefer_host from agent_tasks").fetchone() == (None,)


async def test_late_success_brings_back_who_was_cancelled(db, stores):
    insert(db, "t")
    task = await claim_one(stores)
    insert(db, "dependent", needs=["t"])
    settle = SettleStore(stores.results._lane, stores.worker_id, stores.refusals)

    async def settled() -> str:
        for _ in range(3):
            await settle.tie()
            await settle.settle()
        return str(status(db, "dependent"))

    past_the_triggers(db, "update agent_workers set schema = %s", SCHEMA_VERSION)
    assert await settled() == "blocked"
    db.execute("update agent_workers set state = 'dead'")
    past_the_triggers(db, "update agent_tasks set infra_count = 9 where task_id = 't'")
    await stores.registry.rescue(RescueReason.WORKER_SILENT)
    assert await settled() == "cancelled", "the fault bit"
    await stores.results.finish([finished(task, stores.worker_id)])
    assert await settled() == "pending"
