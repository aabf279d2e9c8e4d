"""The scheduler as a service of a worker: what wakes it, what lets it rest, the clocks, and an outage."""

import asyncio
import time
from collections.abc import AsyncIterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
import pytest

from tests.support.schedules import Hand, add, row, scheduling, slots
from tests.support.waiting import until_async
from turbo.domain import schedule


def crashed(name: str, error: BaseException) -> None:
    raise AssertionError(name) from error


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    """At work, and its first look is over."""
    async with scheduling(dsn) as one:
        with one.scheduler.looked.watch() as looks:
            one.scheduler.start(crashed)
            await looks.get()
        yield one


def without_berlin(name: str) -> ZoneInfo:
    """As an older time zone database answers."""
    if name == "Europe/Berlin":
        raise ZoneInfoNotFoundError(name)
    return ZoneInfo(name)


def database_clock(db: psycopg.Connection) -> float:
    return float((db.execute("select extract(epoch from clock_timestamp())").fetchone() or (0,))[0])


async def first_look_is_at(db, hand, looks, clock: float, seconds: float) -> None:
    """No look comes before the next slot, which is to come `seconds` after `clock`."""
    hand.scheduler.polled(seconds, clock, time.monotonic())
    await looks.get()
    assert database_clock(db) > clock + seconds - 0.01


async def test_change_starts_a_look(db, hand):
    with hand.scheduler.looked.watch() as looks:
        add(db, "a")
        hand.scheduler.heard("")
        (done,) = await looks.get()
        assert (done.moved, done.fired) == (1, ())
        assert row(db, "a")["next_at"] is not None
        hand.scheduler.heard("")
        assert await looks.get() == (), "another worker was quicker"


async def test_hundred_schedules_are_silent_between_slots(db, hand):
    for n in range(100):
        add(db, f"s{n}", f"{n % 60} 3 29 2 *")
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard("")
        done = await looks.get()
        assert sum(one.moved for one in done) == 100
        clock = database_clock(db)
        for _ in range(5):
            hand.scheduler.polled(86_400.0, clock, time.monotonic())
        await first_look_is_at(db, hand, looks, clock, 0.3)


async def test_slot_fires_by_the_clock_of_the_database(db, hand):
    """The timer is set from what the database says; a poll moves it, when that clock is set, or another host's runs on."""
    add(db, "a", "* * * * * *", overlap="queue")
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard("")
        while not any(done.fired for done in await looks.get()):
            pass
        (late,) = db.execute(
            "select min(extract(epoch from executed_at - (detail ->> 'slot')::timestamptz)) from agent_actions"
        ).fetchone()
        assert 0 <= late < 1
        db.execute("update agent_schedules set cron = '0 3 29 2 *'")
        hand.scheduler.heard("")
        await looks.get()
        while not looks.empty():
            await looks.get()
        clock = database_clock(db)
        hand.scheduler.polled(0.05, clock + 7200, time.monotonic())
        assert await looks.get() == (), "the database's clock jumped: what it said was 50 ms away, is looked at then"
        clock = database_clock(db)
        hand.scheduler.polled(None, clock, time.monotonic())
        await asyncio.sleep(0)
        await first_look_is_at(db, hand, looks, clock, 0.2)


async def test_slot_that_another_fired_is_not_looked_at(db, hand):
    with hand.scheduler.looked.watch() as looks:
        clock = database_clock(db)
        hand.scheduler.polled(0.2, clock, time.monotonic())
        hand.scheduler.heard(f"{clock + 0.3} {clock + 0.5}")
        await looks.get()
        assert database_clock(db) > clock + 0.49, "not at the first slot"
        hand.scheduler.polled(7200, clock, time.monotonic())
        hand.scheduler.heard(f"{clock} {clock + 0.5}")
        assert await looks.get() == (), "an earlier slot than any that is known"


@pytest.mark.parametrize("words", ["x", "1", "1 2 3", "nan nan", "inf -", "1e999 1", "- -", "\x00", "🙂 🙂"])
async def test_notification_that_says_nothing_starts_a_look(hand, words):
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard(words)
        assert await looks.get() == ()


async def test_poll_that_is_older_than_a_look_is_no_news(db, hand):
    asked_at = time.monotonic()
    add(db, "a")
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard("")
        await looks.get()
        clock = database_clock(db)
        hand.scheduler.polled(0.0, clock, asked_at)
        await asyncio.sleep(0)
        await first_look_is_at(db, hand, looks, clock, 0.2)


async def test_locked_schedule_is_looked_at_again(db, dsn, hand):
    add(db, "a")
    with hand.scheduler.looked.watch() as looks:
        with psycopg.connect(dsn) as person:
            person.execute("select from agent_schedules for update")
            hand.scheduler.heard("")
            assert (await looks.get())[0].left == ("a",)
            assert (await looks.get())[0].left == ("a",), "again, though nobody calls"
        while not (await looks.get())[-1].moved:
            pass
    assert row(db, "a")["next_at"] is not None


async def test_sixty_locked_schedules_make_no_busy_loop(db, dsn, hand):
    """A look takes 25 of them. The pause after the looks grows, as with one."""
    for n in range(60):
        add(db, f"s{n}")
    db.execute("update agent_schedules set next_at = date_trunc('second', now()) - interval '10 s', rev = rev + 1")
    with hand.scheduler.looked.watch() as looks, psycopg.connect(dsn) as person:
        person.execute("select from agent_schedules for update")
        hand.scheduler.heard("")
        begun = time.monotonic()
        for _ in range(7):
            assert sum(len(done.left) for done in await looks.get()) == 60
        assert time.monotonic() - begun > 0.3, "the least that seven looks take with it"
        person.rollback()
        while not any(done.fired for done in await looks.get()):
            pass


async def test_zone_that_a_host_lacks_is_left_to_others(db, dsn, hand, caplog, monkeypatch):
    """The host looks again at its pace, fires what it knows, and writes no error to the row."""
    with monkeypatch.context() as older, hand.scheduler.looked.watch() as looks:
        older.setattr(schedule, "ZoneInfo", without_berlin)
        add(db, "far", timezone="Europe/Berlin")
        add(db, "near")
        hand.scheduler.heard("")
        begun = time.monotonic()
        for _ in range(7):
            await looks.get()
        assert time.monotonic() - begun > 0.3, "the least that seven looks take with it"
        assert row(db, "near")["next_at"] is not None
        assert (row(db, "far")["next_at"], row(db, "far")["error"]) == (None, None)
    assert caplog.text.count("schedule far is left to other workers: timezone 'Europe/Berlin' is unknown") == 1
    async with scheduling(dsn, "w-2-abc") as newer:
        await newer.at()
    assert row(db, "far")["next_at"] is not None


async def test_refused_right_is_waited_for(db, hand, caplog):
    """And no slot of the others' is lost by it."""
    with hand.scheduler.looked.watch() as looks:
        db.execute("alter function turbo_fire rename to turbo_fire_away")
        add(db, "a", "* * * * * *", overlap="queue")
        hand.scheduler.heard("")
        await until_async(lambda: "cannot fire schedules" in caplog.text)
        assert looks.empty()
        assert slots(db, "a") == []
        db.execute("alter function turbo_fire_away rename to turbo_fire")
        while not any(done.fired for done in await looks.get()):
            pass
    assert slots(db, "a")


async def test_many_failures_are_judged_at_once(db, hand):
    add(db, "a", max_failures=1)
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard("")
        await looks.get()
    db.execute("update agent_schedules set next_at = date_trunc('second', now()) where name = 'a'")
    with hand.scheduler.looked.watch() as looks:
        hand.scheduler.heard("")
        while not any(done.fired for done in await looks.get()):
            pass
    db.execute("update agent_tasks set status = 'failed'")
    before = row(db, "a")["rev"]
    for _ in range(1000):
        hand.scheduler.task_failed()
    await until_async(lambda: not row(db, "a")["enabled"])
    assert row(db, "a")["rev"] == before + 1


@pytest.mark.parametrize(("slot_in", "looks_again"), [(-1.0, True), (-0.05, False), (3600.0, False)])
async def test_poll_beats_what_anybody_may_tell(hand, db, slot_in, looks_again):
    """A flood of forged notifications makes every poll older than what was told last."""
    with hand.scheduler.looked.watch() as looks:
        for n in range(3):
            clock, asked_at = database_clock(db), time.monotonic()
            hand.scheduler.heard(f"{9e9 + 2 * n} {9e9 + 2 * n + 1}")
            hand.scheduler.polled(slot_in, clock, asked_at)
            hand.scheduler.heard(f"{9.1e9 + 2 * n} {9.1e9 + 2 * n + 1}")
            if looks_again:
                async with asyncio.timeout(30):
                    await looks.get()
            else:
                await asyncio.sleep(0.1)
                assert looks.empty()
