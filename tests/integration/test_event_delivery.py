"""Subscriptions: what is delivered, in which order, and that nothing is lost. A courier with a target that the test decides over."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from tests.support.notices import FakeTarget, act, courier, subscribe
from turbo import Client
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
