"""A run that asks a person: its question, the answer and the next run, and whatever comes between. Each race is stepped, and
each guard has a control that shows what happens without it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.model.mutations import Mutation, applied
from tests.support.asking import asks
from tests.support.rig import Rig, finished
from tests.support.steps import ME, claim_one, ended, registered
from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals, RefusalTimings
from turbo.db.worker_registry import WorkerRow
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.question import MOST_QUESTIONS, Then
from turbo.domain.states import RescueReason, WorkerState
from turbo.host.spool import Spool
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems

Connection = psycopg.AsyncConnection[dict[str, Any]]
INSERT = "insert into agent_tasks (task_id, task_description, max_retries) values ('t', 'x', 0)"
CANCEL = "update agent_tasks set status = 'cancelled'"
_FENCE = """and (c.current_token = i.token and c.was in ('running', 'pending', 'scheduled')
 or c.was in ('pending', 'scheduled', 'waiting', 'blocked')
 and (c.current_token is null or abs(greatest(c.current_token, -9223372036854775807)) < i.token)
 and not coalesce((select true from public.agent_actions a
 where a.task_id = c.task_id and a.fencing_token = i.token limit 1), false))"""
NO_FENCE = Mutation("a question must carry the row's token", "tasks/ask", ((_FENCE, "and c.task_id is not null"),))
CANCEL_IGNORED = Mutation(
    "a cancel is stronger than a question",
    "tasks/ask",
    (
        (
            "when c.stopping then public.turbo_stopped_status(c.requested::text, c.run_after::timestamptz) when",
            "when",
        ),
    ),
)
NO_PIN = Mutation(
    "a pinned task is for its host",
    "tasks/claim",
    (("t.requires::jsonb, t.prefer_host::text", "t.requires::jsonb, null::text"),),
)
NO_SKIP = Mutation(
    "the expiry leaves what somebody is answering",
    "tasks/expire",
    (("for update skip locked) d", "for update) d"),),
)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def stores(dsn: str) -> AsyncIterator[Stores]:
    async with registered(dsn) as found:
        yield found


@contextlib.contextmanager
def without(guard: Mutation | None) -> Iterator[None]:
    if guard is None:
        yield
    else:
        with applied(guard, None):  # type: ignore[arg-type]
            yield


async def row_of(db: Connection, task_id: str = "t") -> dict[str, Any]:
    found = await (await db.execute("select * from agent_tasks where task_id = %s", [task_id])).fetchone()
    assert found is not None
    return found


async def trail_of(db: Connection, task_id: str = "t") -> list[str]:
    query = "select action_type from agent_actions where task_id = %s order by action_id"
    return [str(row["action_type"]) for row in await (await db.execute(query, [task_id])).fetchall()]


async def asked(db: Connection, stores: Stores, **more: object) -> ClaimRef:
    """Task `t` has asked, and waits. The claim that asked."""
    await db.execute(INSERT)
    held = await claim_one(stores)
    (answer,) = await stores.results.finish([asks(held, **more)])  # type: ignore[arg-type]
    assert (answer.verdict, answer.becomes) == ("recorded", "waiting")
    return held


async def answer(db: Connection, text: str = "PostgreSQL") -> None:
    await db.execute("update agent_tasks set answer = %s where task_id = 't'", [text])


@contextlib.asynccontextmanager
async def held_open(dsn: str) -> AsyncIterator[Connection]:
    """A person's session whose transaction is open until the block ends."""
    async with (
        await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as person,
        person.transaction(),
    ):
        yield person


async def somebody_waits(db: Connection) -> object:
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return await (await db.execute(query)).fetchone()


# ── asking and answering ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_clock_that_stepped_back_brings_no_old_answer(db, stores):
    """After a retry by hand, the answers of before it are no answers any more, whatever the times in the trail say."""
    await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    for turn in ("OLD", "NEW"):
        for number in ("1", "2"):
            (run,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
            await stores.results.finish([asks(ClaimRef("t", run.fencing_token), f"Which {number}?")])
            await answer(db, turn + number)
        (run,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
        assert [a.answer for a in run.answers] == [f"{turn}1", f"{turn}2"]
        if turn == "OLD":
            await stores.results.finish([ended(ClaimRef("t", run.fencing_token))])
            await db.execute("update agent_actions set executed_at = executed_at + interval '1 hour'")
            await db.execute("update agent_tasks set status = 'pending'")


async def test_question_waits_and_its_answer_reaches_the_next_run(db, stores):
    await db.execute(
        "insert into agent_tasks (task_id, task_description, max_retries, concurrency_key) values ('t', 'x', 0, 'k')"
    )
    first = await claim_one(stores)
    await db.execute("insert into agent_tasks (task_id, task_description, concurrency_key) values ('next', 'x', 'k')")
    await stores.results.finish([asks(first)])
    row = await row_of(db)
    assert (row["status"], row["assigned_worker_id"], row["retry_count"], row["infra_count"]) == ("waiting", None, 0, 0)
    assert (row["fencing_token"], row["prefer_host"], row["agent_session_id"]) == (-first.token, "h", "s1")
    assert row["run_after"].year == 9000
    assert row["question"]["number"] == 1
    assert row["output_data"] == {"run": first.token}
    sibling = await claim_one(stores)
    assert sibling.task_id == "next", "the key is free while a person is asked"
    await stores.results.finish([ended(sibling)])
    await answer(db)
    (again,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert again.fencing_token > first.token
    assert [(a.question.text, a.answer) for a in again.answers] == [("Which database?", "PostgreSQL")]
    second = ClaimRef("t", again.fencing_token)
    await stores.results.finish([asks(second, "Which version?")])
    assert (await row_of(db))["answer"] is None
    await answer(db, "18")
    (last,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert [(a.question.number, a.answer) for a in last.answers] == [(1, "PostgreSQL"), (2, "18")]
    await stores.results.finish([ended(ClaimRef("t", last.fencing_token))])
    row = await row_of(db)
    assert (row["status"], row["answer"], row["question"]["text"]) == ("completed", "18", "Which version?")
    assert await trail_of(db) == ["claimed", "asked", "answered", "claimed", "asked", "answered", "claimed", "finished"]


async def test_answers_of_before_a_retry_by_hand_count_no_more(db, stores):
    """Also where the clock stood later then than now; and within a series the clock's order means nothing."""
    await db.execute(INSERT)
    for text in ("old 1", "old 2", "old 3"):
        await stores.results.finish([asks(await claim_one(stores), text)])
        await answer(db, "always")
    await stores.results.finish([ended(await claim_one(stores))])
    await db.execute("update agent_actions set executed_at = executed_at + interval '1 day'")
    await db.execute("update agent_tasks set status = 'pending'")
    for text in ("new 1", "new 2", "new 3"):
        await stores.results.finish([asks(await claim_one(stores), text)])
        await answer(db, f"to {text}")
        await db.execute(
            "update agent_actions set executed_at = now() - executed_at + now() where detail->>'answer' like 'to%'"
        )
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    given = [(a.question.text, a.answer) for a in task.answers]
    assert given == [(text, f"to {text}") for text in ("new 1", "new 2", "new 3")]


async def test_every_result_of_a_mixed_batch_gets_its_answer(db, stores):
    await db.execute(
        "insert into agent_tasks (task_id, task_description, max_retries) select 't' || n, 'x', 0 from generate_series(1, 4) n"
    )
    tasks = (await stores.claims.claim("default", 4, may_idle=True)).tasks
    held = {task.task_id: ClaimRef(task.task_id, task.fencing_token) for task in tasks}
    batch = [
        ended(held["t1"]),
        asks(held["t2"]),
        ended(held["t3"], OutcomeKind.FAILED, error="no"),
        asks(ClaimRef("gone", 7)),
        asks(held["t4"]),
    ]
    answers = {a.task_id: (a.verdict, a.becomes) for a in await stores.results.finish(batch)}
    assert answers == {
        "t1": ("recorded", "completed"),
        "t2": ("recorded", "waiting"),
        "t3": ("recorded", "failed"),
        "t4": ("recorded", "waiting"),
        "gone": ("gone", None),
    }
    assert {a.verdict for a in await stores.results.finish(batch)} == {"already"}


async def test_of_two_questions_in_a_batch_the_newer_counts(db, stores):
    """A failover has lost the second claim, and both results are in spools that one worker has."""
    await db.execute(INSERT)
    old = await claim_one(stores)
    await stores.registry.mark_dead(["w-1-abc"], "h")
    await stores.registry.rescue(RescueReason.WORKER_RESTARTED)
    new = ClaimRef("t", old.token + (1 << 20))
    for batch in ([asks(old, "Old?"), asks(new, "New?")], [asks(new, "New?"), asks(old, "Old?")]):
        answers = {a.token: a.verdict for a in await stores.results.finish(batch)}
        assert answers in (
            {old.token: "late", new.token: "recorded"},
            {old.token: "already", new.token: "already"},
        )
    row = await row_of(db)
    assert (row["question"]["text"], row["fencing_token"]) == ("New?", -new.token)


async def test_question_after_the_twentieth_fails_the_task(dsn, db, stores):
    await asked(db, stores)
    await answer(db)
    async with held_open(dsn) as owner:
        await owner.execute("set local session_replication_role = replica")
        await owner.execute(
            "update agent_tasks set question = jsonb_set(question, '{number}', %s)", [json.dumps(MOST_QUESTIONS)]
        )
    held = await claim_one(stores)
    (found,) = await stores.results.finish([asks(held, "One more?")])
    assert (found.verdict, found.becomes) == ("recorded", "failed")
    row = await row_of(db)
    assert (row["failure_kind"], row["answer"]) == ("unanswered", "PostgreSQL")
    assert "20 questions" in row["error_message"]
    last = await (await db.execute("select detail from agent_actions order by action_id desc limit 1")).fetchone()
    assert last["detail"]["question"]["text"] == "One more?"
    await db.execute("update agent_tasks set status = 'pending'")
    assert (await stores.results.finish([asks(await claim_one(stores))]))[0].becomes == "waiting"
    assert (await row_of(db))["question"]["number"] == 1


# ── while it asks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("guard", "becomes"), [(None, "cancelled"), (CANCEL_IGNORED, "waiting")])
async def test_cancel_before_the_question_is_recorded_wins(db, stores, guard, becomes):
    await db.execute(INSERT)
    held = await claim_one(stores)
    await db.execute(CANCEL)
    with without(guard):
        (found,) = await stores.results.finish([asks(held)])
    assert (found.verdict, found.becomes) == ("recorded", becomes)
    row = await row_of(db)
    assert row["cancel_to"] is None
    assert await trail_of(db) == ["claimed", "edited", "asked"]
    if guard is None:
        assert (row["question"], row["prefer_host"]) == (None, "h"), "a follow-up goes on where it ran"
        assert row["completed_at"] is not None


@pytest.mark.parametrize(("status", "output"), [("completed", {"mine": 1}), ("failed", None)])
async def test_words_of_a_person_who_closes_it_survive_a_question(db, stores, status, output):
    await db.execute(INSERT)
    held = await claim_one(stores)
    close = "update agent_tasks set status = %s::text, output_data = %s, error_message = 'my reason'"
    await db.execute(close, [status, None if output is None else json.dumps(output)])
    (found,) = await stores.results.finish([asks(held)])
    row = await row_of(db)
    assert (found.becomes, row["status"]) == (status, status)
    assert row["output_data"] == (output or {"run": held.token})
    assert row["error_message"] == (None if output else "my reason")


async def test_cancel_that_waits_for_the_question_ends_the_wait(dsn, db, stores):
    await db.execute(INSERT)
    held = await claim_one(stores)
    lane = Lane(dsn, "asking")
    async with lane.use() as connection:
        await connection.execute("begin")
        asking = Stores("w-1-abc", lane, lane, host="h").results
    await asking.finish([asks(held)])
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as person:
        cancel = asyncio.create_task(person.execute(CANCEL))
        await until_async(lambda: somebody_waits(db))
        async with lane.use() as connection:
            await connection.execute("commit")
        await cancel
    await lane.close()
    row = await row_of(db)
    assert (row["status"], row["fencing_token"]) == ("cancelled", -held.token)
    assert row["run_after"].year < 9000, "retention counts from it"
    assert [a.verdict for a in await stores.results.finish([asks(held)])] == ["already"]


@pytest.mark.parametrize(("guard", "verdict"), [(None, "late"), (NO_FENCE, "recorded")])
async def test_question_of_a_rescued_run_counts_until_a_claim(db, stores, guard, verdict):
    await db.execute(INSERT)
    first = await claim_one(stores)
    await stores.registry.mark_dead(["w-1-abc"], "h")
    await stores.registry.rescue(RescueReason.WORKER_RESTARTED)
    assert (await row_of(db))["status"] == "scheduled"
    assert (await stores.results.finish([asks(first)]))[0].becomes == "waiting"
    await answer(db)
    await stores.registry.register(ME, WorkerState.UP)
    second = await claim_one(stores)
    await stores.registry.mark_dead(["w-1-abc"], "h")
    await stores.registry.rescue(RescueReason.WORKER_RESTARTED)
    await stores.registry.register(ME, WorkerState.UP)
    await db.execute("update agent_tasks set status = 'pending', run_after = now()")
    await claim_one(stores)
    with without(guard):
        (found,) = await stores.results.finish([asks(second, "And this?")])
    assert found.verdict == verdict
    if guard is None:
        assert (await row_of(db))["status"] == "running"
        late = await (
            await db.execute("select detail -> 'question' as q from agent_actions where action_type = 'late'")
        ).fetchone()
        assert late["q"]["text"] == "And this?"


@pytest.mark.parametrize("guard", [None, NO_FENCE])
async def test_replayed_question_never_overwrites_what_came_since(db, stores, guard):
    """A crash, or a lost connection, took the answer to the statement; the result is sent again later."""
    first = await asked(db, stores)
    replay = [asks(first)]
    seen = []
    with without(guard):
        seen.append((await stores.results.finish(replay))[0].verdict)
        if guard is None:
            await answer(db)
            seen.append((await stores.results.finish(replay))[0].verdict)
            assert ((await row_of(db))["status"], (await row_of(db))["answer"]) == ("pending", "PostgreSQL")
            second = await claim_one(stores)
            seen.append((await stores.results.finish(replay))[0].verdict)
            assert (await row_of(db))["fencing_token"] == second.token
            await stores.results.finish([asks(second, "Which version?")])
        seen.append((await stores.results.finish(replay))[0].verdict)
    text = (await row_of(db))["question"]["text"]
    if guard is None:
        assert (seen, text) == (["already"] * 4, "Which version?")
    else:
        assert "recorded" in seen, "without the fence the person is asked the same again"


async def test_question_of_a_run_that_a_hold_stopped_is_late(db, stores):
    """It was rescued, and a person held it: its run's question comes after that."""
    await db.execute(INSERT)
    held = await claim_one(stores)
    await stores.registry.mark_dead(["w-1-abc"], "h")
    await stores.registry.rescue(RescueReason.WORKER_RESTARTED)
    await db.execute("update agent_tasks set status = 'waiting'")
    assert (await stores.results.finish([asks(held)]))[0].verdict == "late"
    row = await row_of(db)
    assert (row["status"], row["question"]["kind"]) == ("waiting", "hold")
    await answer(db, "yes")
    assert (await row_of(db))["status"] in ("pending", "scheduled")


async def test_answered_task_keeps_its_answer_however_its_run_ends(db, stores):
    await asked(db, stores)
    await answer(db)

    async def kept() -> None:
        row = await row_of(db)
        assert (row["answer"], row["prefer_host"], row["question"]["number"]) == ("PostgreSQL", "h", 1)
        await db.execute("update agent_tasks set status = 'pending', run_after = now() where status = 'scheduled'")

    held = await claim_one(stores)
    await stores.results.release([(held, None)], "drain")
    await kept()
    await claim_one(stores)
    await stores.claims.reconcile([])
    await kept()
    await claim_one(stores)
    await stores.registry.mark_dead(["w-1-abc"], "h")
    await stores.registry.rescue(RescueReason.WORKER_RESTARTED)
    await stores.registry.register(ME, WorkerState.UP)
    await kept()
    held = await claim_one(stores)
    await stores.results.finish([ended(held, OutcomeKind.UNAVAILABLE)])
    await kept()
    (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
    assert task.answer == "PostgreSQL"


async def test_crashed_server_keeps_a_recorded_question_only(own_server):
    """Before the commit nothing was said to anybody, and the result is sent again; after it the question is safe."""
    async with registered(own_server.dsn) as stores:
        async with await psycopg.AsyncConnection.connect(own_server.dsn, autocommit=True) as db:
            await db.execute(
                "insert into agent_tasks (task_id, task_description, max_retries) values ('a', 'x', 0), ('b', 'x', 0)"
            )
        tasks = sorted((await stores.claims.claim("default", 2, may_idle=True)).tasks, key=lambda task: task.task_id)
        a, b = (ClaimRef(task.task_id, task.fencing_token) for task in tasks)
        await stores.results.finish([asks(a)])
        lane = Lane(own_server.dsn, "asking")
        async with lane.use() as connection:
            await connection.execute("begin")
        await Stores("w-1-abc", lane, lane, host="h").results.finish([asks(b)])
        await asyncio.to_thread(own_server.stop, "immediate")
        await lane.close()
        await asyncio.to_thread(own_server.start_again)

    async with (
        registered(own_server.dsn) as stores,
        await psycopg.AsyncConnection.connect(own_server.dsn, autocommit=True, row_factory=dict_row) as db,
    ):
        assert (await row_of(db, "a"))["status"] == "waiting"
        assert (await row_of(db, "b"))["status"] == "running"
        answers = {x.task_id: x.verdict for x in await stores.results.finish([asks(a), asks(b)])}
        assert answers == {"a": "already", "b": "recorded"}


# ── when the time is over ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("queues", [["default"], ["default", "other"]])
@pytest.mark.parametrize(
    ("then", "becomes"), [(Then.PROCEED, "pending"), (Then.DENY, "pending"), (Then.FAIL, "failed")]
)
async def test_question_expires_as_its_then_says(db, stores, then, becomes, queues):
    await asked(db, stores, within=60.0, then=then)
    await db.execute("insert into agent_tasks (task_id, task_description, status) values ('hold', 'x', 'waiting')")
    found = await stores.claims.poll(queues)
    assert found.due == 0
    assert 50 < found.next_in <= 60, "the timer of a worker"
    assert found.runnable == ()
    await db.execute("update agent_tasks set run_after = now() where task_id = 't'")
    found = await stores.claims.poll(queues)
    assert (found.due, found.next_in) == (1, None)
    row = await row_of(db)
    assert (row["status"], row["question"]["expired"], row["answer"]) == (becomes, True, None)
    assert (await trail_of(db))[-1] == "unanswered"
    assert (await row_of(db, "hold"))["status"] == "waiting", "a hold has no deadline"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await answer(db)
    if becomes == "failed":
        assert (row["failure_kind"], found.runnable) == ("unanswered", ())
        assert row["completed_at"] is not None
        assert row["error_message"] == "nobody answered in time"
    else:
        assert found.runnable == ("default",)
        (task,) = (await stores.claims.claim("default", 1, may_idle=True)).tasks
        assert [(a.answer, a.question.expired) for a in task.answers] == [(None, True)]


async def test_question_of_a_queue_that_nobody_serves_stays(db, stores):
    await asked(db, stores, within=0.0)
    assert (await stores.claims.poll(["other"])).due == 0
    assert (await stores.claims.poll(["other", "third"])).due == 0
    assert (await row_of(db))["status"] == "waiting"
    assert (await stores.claims.poll(["default"])).due == 1


@pytest.mark.parametrize("guard", [None, NO_SKIP])
async def test_answer_under_way_is_not_overtaken_by_the_expiry(dsn, db, stores, guard):
    await asked(db, stores, within=0.0)
    with without(guard):
        async with held_open(dsn) as person:
            await person.execute("update agent_tasks set answer = 'SQLite'")
            poll = asyncio.create_task(stores.claims.poll(["default"]))
            if guard is None:
                assert (await asyncio.wait_for(poll, 10)).due == 0
            else:
                await until_async(lambda: somebody_waits(db), what="the expiry waits for a person")
        await poll
    row = await row_of(db)
    assert (row["status"], row["answer"]) == ("pending", "SQLite")
    assert "expired" not in row["question"]


async def test_answer_that_waits_for_the_expiry_is_told(dsn, db, stores):
    await asked(db, stores, within=0.0)
    lane = Lane(dsn, "polling")
    async with lane.use() as connection:
        await connection.execute("begin")
    await Stores("w-1-abc", lane, lane, host="h").claims.poll(["default"])
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as person:
        late = asyncio.create_task(person.execute("update agent_tasks set answer = 'SQLite'"))
        await until_async(lambda: somebody_waits(db))
        async with lane.use() as connection:
            await connection.execute("commit")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="does not wait for an answer"):
            await late
    await lane.close()
    assert (await row_of(db))["answer"] is None


async def test_refused_expiry_holds_up_no_other(dsn, db):
    timings = RefusalTimings(first=0.02, longest=0.05, patience=0.1)
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    refusals = Refusals(Problems(), Metrics(), timings)
    stores = Stores("w-1-abc", *lanes, refusals, host="h")
    await stores.registry.register(ME, WorkerState.UP)
    await db.execute(
        "insert into agent_tasks (task_id, task_description) select id, 'x' from unnest('{bad,good,later}'::text[]) id"
    )
    tasks = (await stores.claims.claim("default", 3, may_idle=True)).tasks
    await stores.results.finish([asks(ClaimRef(t.task_id, t.fencing_token), within=0.0) for t in tasks])
    await db.execute("update agent_tasks set run_after = now() + interval '1 day' where task_id = 'later'")
    await db.execute(
        "alter table agent_tasks add check (task_id <> 'bad' or status in ('waiting', 'failed')) not valid"
    )
    assert (await stores.claims.poll(["default"])).due == 1
    assert (await row_of(db, "good"))["status"] == "pending"
    assert (await row_of(db, "bad"))["status"] == "waiting"
    await db.execute("update agent_tasks set run_after = now() where task_id = 'later'")

    async def failed() -> bool:
        await stores.claims.poll(["default"])
        return (await row_of(db, "bad"))["status"] == "failed"

    await until_async(failed)
    assert (await row_of(db, "bad"))["failure_kind"] == "poison"
    for lane in lanes:
        await lane.close()


# ── the host ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guard", [None, NO_PIN])
async def test_pinned_task_waits_for_its_host(dsn, db, stores, guard):
    await asked(db, stores)
    await answer(db)
    lanes = Lane(dsn, "claims"), Lane(dsn, "results")
    other = Stores("v-1-abc", *lanes, host="elsewhere")
    await other.registry.register(
        WorkerRow("v", "elsewhere", 1, "0", 10, ("default",), {}, (), None, 10, 60, 30), WorkerState.UP
    )
    with without(guard):
        taken = (await other.claims.claim("default", 1, may_idle=True)).tasks
    assert bool(taken) == (guard is not None)
    if guard is None:
        await db.execute("update agent_tasks set prefer_host = null")
        assert (await other.claims.claim("default", 1, may_idle=True)).tasks[0].answer == "PostgreSQL"
    for lane in lanes:
        await lane.close()


async def test_question_that_cannot_be_stored_fails_its_task(dsn, db, tmp_path):
    """Whoever made it has left in what PostgreSQL has no place for. The whole of it is kept, and nobody waits for it."""
    await db.execute(INSERT)
    async with Rig(dsn) as rig:
        task, _ = await rig.claimed()
        completer = rig.completer(Spool(tmp_path))
        completer.start(rig._crashed)
        with completer.recorded.watch() as recorded:
            bad = {"kind": "question", "text": "\x00?", "then": "proceed"}
            result = finished(task, rig.worker_id, OutcomeKind.ASKED, question=bad, uncounted=True)
            await completer.submit(result, durable=True)
            _, found = await asyncio.wait_for(recorded.get(), 20)
        await completer.stop()
        assert (found.verdict, found.becomes) == ("recorded", "failed")
        row = await row_of(db)
        assert (row["failure_kind"], row["question"]) == ("error", None)
        assert [str(path) for path in tmp_path.glob("quarantine/*.json")] == [row["output_data"]["quarantined"]]
