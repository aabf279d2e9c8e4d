"""Subscriptions: what is delivered, in which order, and that nothing is lost. A courier with a target that the test decides over."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
import pytest

from tests.support.notices import FakeTarget, act, courier, subscribe
from tests.support.size import sized
from turbo import Client
from turbo.domain.event import Notice
from turbo.events import delivery
from turbo.events.courier import EventCourier


async def until(courier: EventCourier, condition: Callable[[], object]) -> None:
    """Look until it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await courier.once()
            await asyncio.sleep(0.01)


async def looked(courier: EventCourier, times: int = 3) -> None:
    """Some looks: whatever there is has been seen then."""
    for _ in range(times):
        await courier.once()
        await asyncio.sleep(0.05)


async def test_task_is_told_of_in_the_order_of_its_trail(dsn: str, db: psycopg.Connection) -> None:
    act(db, "before")
    subscribe(db, events="{asked,completed,failed,cancelled,reminded}")
    with Client(dsn) as client:
        client.submit("Say hello\x1b[31m to <@here>", task_id="t 1/2", queue="q")
    for action, to, detail in (
        ("claimed", "running", "{}"),
        ("asked", "waiting", '{"question": {"text": "Which database?"}}'),
        ("reminded", "waiting", "{}"),
        ("answered", "pending", "{}"),
        ("finished", "scheduled", "{}"),
        ("late", "completed", "{}"),
        ("finished", "failed", '{"error": "it broke"}'),
        ("edited", "completed", "{}"),
    ):
        act(db, "t 1/2", action, to, detail)
    target = FakeTarget()
    async with courier(dsn, target) as one:
        await until(one, lambda: len(target.events) == 4)
    assert [event["event"] for event in target.events] == ["asked", "reminded", "failed", "completed"]
    first, _, broke, done = target.events
    assert (first["text"], broke["text"], first["queue"], first["task_type"]) == (
        "Which database?", "it broke", "q", "default",
    )  # fmt: skip
    assert first["link"] == "https://turbo.example.com/tasks/t%201%2F2"
    assert done["text"] == "Say hello\\x1b[31m to <@here>"
    assert target.taken[0]["summary"] == "task t 1/2 asks: Which database?"
    assert not any("output" in event for event in target.events)
    row = db.execute("select delivered, failures, error, waiting_since, holder from agent_subscriptions").fetchone()
    assert row == (4, 0, None, None, None)


async def test_ids_that_commit_out_of_order_are_all_delivered(
    dsn: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: whoever reads on from the highest id misses the late ones."""
    monkeypatch.setattr(delivery, "STEADY_SECONDS", 0.0)
    subscribe(db)
    target, naive, highest = FakeTarget(), set[str](), 0

    def read_naively() -> None:
        nonlocal highest
        for number, task in db.execute(
            "select action_id, task_id from agent_actions where action_id > %s order by 1", [highest]
        ).fetchall():
            highest = number
            naive.add(task)

    with psycopg.connect(dsn) as early, psycopg.connect(dsn) as saved, psycopg.connect(dsn) as undone:
        act(early, "early")
        saved.execute("savepoint a")
        act(saved, "in-savepoint")
        saved.execute("release a")
        act(undone, "undone")
        act(db, "late")
        async with courier(dsn, target) as one:
            await until(one, lambda: target.told == [("completed", "late")])
            read_naively()
            undone.rollback()
            await looked(one)
            early.commit()
            await until(one, lambda: ("completed", "early") in target.told)
            saved.commit()
            await until(one, lambda: len(target.told) == 3)
            act(db, "last")
            await until(one, lambda: len(target.told) == 4)
            await until(one, lambda: _gaps(db) == "{}")
            read_naively()
    assert sorted(task for _, task in target.told) == ["early", "in-savepoint", "last", "late"]
    assert naive == {"late", "last"}, "the control found what was committed late: this test shows nothing"


def _gaps(db: psycopg.Connection) -> str:
    row = db.execute("select position -> 'actions' ->> 'gaps' from agent_subscriptions").fetchone()
    return "" if row is None else row[0]


def register(db: psycopg.Connection, name: str) -> None:
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues) values (%s, %s, 'h', 1, '', 1, '{}')",
        [name, name],
    )


async def test_storm_reaches_a_target_that_fails_half_the_time(dsn: str, db: psycopg.Connection) -> None:
    """Couriers are killed on the way: they neither finish what they do, nor give up what they hold."""
    number, tasks = sized(1_000, 10_000), sized(20, 200)
    subscribe(db)
    chance = random.Random(7)
    taken: list[dict[str, Any]] = []
    refused = killed = 0

    def judge(notice: Notice) -> str | None:
        nonlocal refused
        if chance.random() < 0.5:
            refused += 1
            return "no"
        taken.extend(notice.body["events"])
        return None

    db.execute(
        "insert into agent_actions (task_id, action_type, success, actor, from_status, to_status)"
        " select 't' || n %% %s, 'finished', true, 'w', 'running', 'completed' from generate_series(1, %s) n",
        [tasks, number],
    )
    wanted = {f"a{row[0]}" for row in db.execute("select action_id from agent_actions").fetchall()}

    def found() -> set[str]:
        return {event["id"] for event in taken}

    async with asyncio.timeout(sized(60, 600)):
        while found() != wanted:
            name, before = f"courier-{killed}", len(taken)
            register(db, name)
            async with courier(dsn, FakeTarget(judge), name, killed=True) as one:
                while len(taken) - before < number / 3 and found() != wanted:
                    await one.once()
                    await asyncio.sleep(0.01)
            assert db.execute("select holder from agent_subscriptions").fetchone() in [(name,), (None,)]
            db.execute("update agent_workers set state = 'dead' where worker_id = %s", [name])
            killed += 1
    assert killed > 1
    assert refused > 2
    order: dict[str, list[int]] = {}
    for event in {
        event["id"]: event for event in reversed(taken)
    }.values():  # by their first delivery, the last one first
        order.setdefault(event["task_id"], []).append(int(event["id"][1:]))
    assert len(order) == tasks
    assert all(ids == sorted(ids, reverse=True) for ids in order.values())
    died = db.execute("select count(*) from agent_events where event = 'worker_died'").fetchone()
    assert died == (killed,)


async def test_dead_target_holds_up_itself_alone(dsn: str, db: psycopg.Connection) -> None:
    subscribe(db)
    subscribe(db, "other", "{failed}")
    act(db, "t")
    act(db, "u", to="failed")
    target = FakeTarget(lambda notice: "it is\x1b away" if notice.body["subscription"] == "s" else None)
    register(db, "courier-1")
    with Client(dsn) as client:
        async with courier(dsn, target) as one:
            await until(one, lambda: client.subscriptions.get("s").failures >= 3)
            await until(one, lambda: target.told == [("failed", "u")])
            assert client.subscriptions.get("other").state == "on"
            dead = client.subscriptions.get("s")
            assert (dead.state, dead.delivered, dead.error) == ("failing", 0, "it is\x1b away")
            assert dead.waiting_since is not None
            (problem,) = [p.what for p in client.fleet().problems if "subscription" in p.what]
            assert "target desk failed" in problem
            assert client.subscriptions.pause("s")
            await looked(one)
            target.judge = lambda _notice: None
            act(db, "while-paused")
            await looked(one)
            assert len(target.events) == 1
            assert client.subscriptions.resume("s")
            await until(one, lambda: len(target.events) == 4)
            assert target.told[1:] == [("completed", "t"), ("failed", "u"), ("completed", "while-paused")]
            client.subscriptions.remove("s")
            act(db, "after")
            await looked(one)
            assert len(target.events) == 4
        db.execute(
            "update agent_subscriptions set updated_at = now() - interval '2 min', looked_at = now() - interval '2 min'"
        )
        (problem,) = [p.what for p in client.fleet().problems if "subscription" in p.what] or ["none"]
        assert client.subscriptions.get("other").state == "no worker"
        assert "no live worker has a target desk" in problem or "none" in problem


async def test_another_server_has_the_last_hour_delivered_again(dsn: str, db: psycopg.Connection) -> None:
    """The control: the same server does not."""
    subscribe(db, events="{completed,account_paused,account_resumed}")
    act(db, "old")
    db.execute("update agent_actions set executed_at = now() - interval '61 min'")
    act(db, "young")
    db.execute("insert into agent_accounts (account, host, state, reason) values ('a', 'h', 'paused', 'usage_limit')")
    target = FakeTarget()
    async with courier(dsn, target) as one:
        await until(one, lambda: len(target.events) == 3)
    async with courier(dsn, target) as one:
        await looked(one)
        assert len(target.events) == 3
    db.execute("update agent_accounts set state = 'half_open'; update agent_accounts set state = 'paused'")
    db.execute("update agent_accounts set state = 'open', reason = null")
    elsewhere = 'update agent_subscriptions set position = position || \'{"server": "7000000000000000000/00000001"}\''
    db.execute(elsewhere)
    async with courier(dsn, target) as one:
        await until(one, lambda: len(target.events) == 6)
        await looked(one)
    assert target.told[3:] == [("completed", "young"), ("account_paused", "a"), ("account_resumed", "a")]
    assert target.events[4]["detail"] == {"host": "h", "reason": "usage_limit"}


async def test_event_of_a_deleted_task_is_told_without_its_text(dsn: str, db: psycopg.Connection) -> None:
    subscribe(db)
    subscribe(db, "of-q", "{completed}", queue="q")
    with Client(dsn) as client:
        client.submit("A secret plan", task_id="t", queue="q")
    act(db, "t")
    db.execute("delete from agent_tasks")
    with Client(dsn) as client:
        client.submit("Another task of this id", task_id="t", queue="q")
    target = FakeTarget()
    async with courier(dsn, target) as one:
        await until(one, lambda: target.events)
        await looked(one)
    (event,) = target.events
    assert (event["task_id"], "text" in event, "queue" in event) == ("t", False, False)


async def test_worker_without_targets_asks_nothing(dsn: str, db: psycopg.Connection) -> None:
    """The control: one with a target asks, and finds the subscription."""
    subscribe(db)
    target = FakeTarget()
    async with courier(dsn, target, targets={}) as one:
        with one.listed.watch() as lists:
            await one.run()
            one.heard()
            assert lists.empty()
    async with courier(dsn, target) as one:
        with one.listed.watch() as lists:
            one.start(lambda _name, error: pytest.fail(str(error)))
            async with asyncio.timeout(20):
                assert [listed.name for listed in await lists.get()] == ["s"]


def test_restored_subscription_goes_on_from_its_position(db: psycopg.Connection) -> None:
    subscribe(db)
    act(db, "t")
    before = db.execute("select * from agent_subscriptions").fetchall()
    with db.cursor().copy("copy agent_subscriptions to stdout") as out:
        data = b"".join(out)
    db.execute("delete from agent_subscriptions")
    with db.cursor().copy("copy agent_subscriptions from stdin") as into:
        into.write(data)
    assert db.execute("select * from agent_subscriptions").fetchall() == before


def test_what_is_owed_is_kept_for_a_week(db: psycopg.Connection) -> None:
    def kept() -> int | None:
        row = db.execute("select extract(day from now() - public.turbo_undelivered())::int").fetchone()
        assert row is not None
        return None if row[0] is None else int(row[0])

    assert kept() is None
    subscribe(db)
    assert kept() == 0
    db.execute("update agent_subscriptions set waiting_since = now() - interval '3 days'")
    assert kept() == 3
    db.execute("update agent_subscriptions set waiting_since = now() - interval '30 days'")
    assert kept() == 7


REFUSED = {
    "unknown event": ("events = '{done}'", "unknown event, 'done'"),
    "null event": ("events = '{NULL}'", "unknown event"),
    "no event": ("events = '{}'", "names no event"),
    "no target": ("target = ' '", "target of subscription"),
    "another name": ("name = 'x'", "cannot change"),
    "empty queue": ("queue = ''", "is empty"),
    "queue of nothing": ("events = '{worker_died}', queue = 'q'", "none of its events"),
    "null": ("enabled = null", "enabled"),
}


@pytest.mark.parametrize(("change", "why"), REFUSED.values(), ids=REFUSED)
def test_subscription_that_could_not_work_is_refused(db: psycopg.Connection, change: LiteralString, why: str) -> None:
    subscribe(db)
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)) as refused:
        db.execute(f"update agent_subscriptions set {change}")
    assert why in str(refused.value)


def test_trail_without_an_order_has_no_events_of_tasks(db: psycopg.Connection) -> None:
    db.execute("alter sequence agent_actions_action_id_seq cache 20")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="CACHE 1"):
        subscribe(db)
    subscribe(db, events="{worker_died}")
