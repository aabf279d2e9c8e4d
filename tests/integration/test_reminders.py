"""Reminders of questions that nobody has answered: each once, by the leader. Time is stepped by writing old moments."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.waiting import until_async
from turbo.db.lane import Lane
from turbo.db.question_store import QuestionStore
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.reminders import Reminders
from turbo.sql import statement


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """A session past the triggers: it can write what waits for long."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        yield connection


@asynccontextmanager
async def leader(dsn: str, name: str = "w-1-abcdef", **settings: float) -> AsyncIterator[Reminders]:
    lane, leadership = Lane(dsn, f"reminders {name}"), Leadership()
    leadership.update(True)
    yield Reminders(QuestionStore(lane, name), leadership, **settings)  # type: ignore[arg-type]
    await lane.close()


def waits(db: psycopg.Connection, task_id: str, age: float, remind: object = 3600, **question: object) -> None:
    """A task whose question was asked `age` seconds ago."""
    document = {"kind": "question", "text": "Which?", "number": 1} | question
    if remind is not None:
        document["remind_seconds"] = remind
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, fencing_token, run_after, question)"
        " values (%s, 'x', 'waiting', -7, '9000-01-01', %s || jsonb_build_object('asked_at', now() - make_interval(secs => %s)))",
        [task_id, Jsonb(document), age],
    )


def older(db: psycopg.Connection, task_id: str, seconds: float) -> None:
    """The question, and its reminders, are that much older now."""
    db.execute(
        "update agent_tasks set question = question || jsonb_build_object('asked_at',"
        " (question ->> 'asked_at')::timestamptz - make_interval(secs => %s)) where task_id = %s",
        [seconds, task_id],
    )
    db.execute(
        "update agent_actions set executed_at = executed_at - make_interval(secs => %s) where task_id = %s",
        [seconds, task_id],
    )


def reminders(db: psycopg.Connection) -> list[tuple[str, int]]:
    found = db.execute(
        "select task_id, (detail ->> 'number')::int from agent_actions where action_type = 'reminded' order by action_id"
    )
    return [(task_id, number) for task_id, number in found]


async def test_each_reminder_is_written_once_when_it_is_due(db: psycopg.Connection, dsn: str) -> None:
    waits(db, "due", 3601)
    waits(db, "early", 3500)
    waits(db, "quiet", 10**6, None)
    waits(db, "broken", 10**6, "soon")
    waits(db, "never", 10**6, 0)
    waits(db, "held", 10**6, None, kind="hold")
    async with leader(dsn) as one:
        assert await one.once() == 1
        assert await one.once() == 0
        assert reminders(db) == [("due", 1)]
        older(db, "due", 3500)
        assert await one.once() == 0
        older(db, "due", 150)
        assert await one.once() == 1
        older(db, "due", 10 * 3600)  # nobody led for ten hours: the last of ten is written
        assert (await one.once(), await one.once()) == (1, 0)
    assert reminders(db) == [("due", 1), ("due", 2), ("due", 12)]
    row = db.execute(
        "select actor, success, from_status, to_status, detail from agent_actions order by action_id desc limit 1"
    ).fetchone()
    assert row is not None
    assert row[:4] == ("w-1-abcdef", True, None, None)
    assert set(row[4]) == {"number", "age_seconds"}
    assert 12 * 3600 <= row[4]["age_seconds"] < 13 * 3600


async def test_next_question_of_a_task_is_reminded_of_anew(db: psycopg.Connection, dsn: str) -> None:
    waits(db, "t", 7300)
    async with leader(dsn) as one:
        assert await one.once() == 1
        older(db, "t", 86_400)
        document = {"kind": "question", "text": "And now?", "number": 2, "remind_seconds": 3600}
        db.execute(
            "update agent_tasks set question = %s || jsonb_build_object('asked_at', now() - interval '1 hour')",
            [Jsonb(document)],
        )
        assert (await one.once(), await one.once()) == (1, 0)
    assert reminders(db) == [("t", 2), ("t", 1)]


async def test_what_no_longer_waits_is_not_reminded_of(db: psycopg.Connection, dsn: str) -> None:
    for status in ("pending", "running", "completed", "cancelled"):
        waits(db, status, 4000)
        db.execute("update agent_tasks set status = %s::text where task_id = %s", [status, status])
    async with leader(dsn) as one:
        assert await one.once() == 0
    assert reminders(db) == []


async def test_many_reminders_are_written_in_batches(db: psycopg.Connection, dsn: str) -> None:
    for number in range(5):
        waits(db, f"t{number}", 4000 + number)
    async with leader(dsn, batch=2) as one:
        assert await one.once() == 5
    assert reminders(db) == [(f"t{number}", 1) for number in (4, 3, 2, 1, 0)]


async def test_row_that_is_being_answered_is_left(db: psycopg.Connection, dsn: str) -> None:
    waits(db, "t", 4000)
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set answer = 'yes' where task_id = 't'")
        async with leader(dsn) as one:
            assert await one.once() == 0
    async with leader(dsn) as one:
        assert await one.once() == 0
    assert reminders(db) == []


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
async def test_two_leaders_write_a_reminder_once(guarded: bool, db: psycopg.Connection, dsn: str) -> None:
    """The second has looked before the first commits, and gets the row's lock after that."""
    waits(db, "t", 4000)
    async with (
        await psycopg.AsyncConnection.connect(dsn) as first,
        await psycopg.AsyncConnection.connect(dsn) as second,
    ):
        (found,) = await (await first.execute(statement("questions/due"), {"most": 9})).fetchall()
        parameters = {"worker": "w", "task_id": [found[0]], "asked_at": [found[1]], "number": [found[2]]}
        await first.execute(statement("questions/remind"), parameters)
        # Without the lock, as a snapshot from before the commit would leave it.
        unlocked = statement("questions/due").replace("for update of t skip locked", "")
        seen = await (await second.execute(unlocked, {"most": 9})).fetchall()
        assert [row[0] for row in seen] == ["t"]
        assert await (await second.execute(statement("questions/due"), {"most": 9})).fetchall() == []
        await first.commit()
        remind = statement("questions/remind")
        if not guarded:
            remind = remind[: remind.index(" where not exists")]  # type: ignore[assignment]
        await second.execute(remind, parameters)
        await second.commit()
    assert reminders(db) == [("t", 1)] * (1 if guarded else 2)


async def test_only_a_leader_reminds(db: psycopg.Connection, dsn: str) -> None:
    waits(db, "t", 4000)
    lane, leadership = Lane(dsn, "reminders"), Leadership()
    one = Reminders(QuestionStore(lane, "w"), leadership, every=0.05)
    one.start(lambda name, error: pytest.fail(f"{name}: {error!r}"))
    await one.started.wait()
    assert await one.once() == 0
    leadership.update(True)
    await until_async(lambda: reminders(db) == [("t", 1)])
    leadership.update(False)
    await asyncio.sleep(0)
    older(db, "t", 3600)
    assert await one.once() == 0
    await one.stop()
    await lane.close()


async def test_pass_reads_nothing_when_nothing_waits(db: psycopg.Connection, dsn: str) -> None:
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, run_after, completed_at)"
        " select 't' || i, 'x', case when i % 2 = 0 then 'completed' else 'pending' end, now(), now()"
        " from generate_series(1, 20000) i"
    )
    db.execute("analyze agent_tasks")
    plan = "\n".join(
        row[0]
        for row in db.execute("explain (analyze, buffers, costs off) " + statement("questions/due"), {"most": 200})
    )
    assert "agent_tasks_at_rest" in plan
    assert "Seq Scan on agent_tasks" not in plan
