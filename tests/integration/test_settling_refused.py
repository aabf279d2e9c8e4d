"""Rows that the database refuses to let the settler write, by a CHECK of the owner's: one of them stops no other graph."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.settling import Hand, at_rest, end, settling, states
from tests.support.waiting import until_async
from tests.support.waiting_rows import insert, row
from tests.support.work_rows import notes

CHECK = "alter table agent_tasks add constraint theirs check ({}) not valid"


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


async def test_refused_release_stops_no_other(db, hand):
    """Until the owner mends it; a row that stays refused is failed, as anywhere else."""
    insert(db, "need")
    for n in range(5):
        insert(db, f"t{n}", needs=["need"])
        insert(db, f"u{n}", needs=[f"t{n}"])
    await hand.one_pass()
    db.execute(CHECK.format("task_id <> 't2' or status not in ('pending', 'cancelled')"))
    end(db, "need")
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute("update agent_tasks set status = 'pending' where task_id = 't2'")
    await hand.one_pass()
    assert [states(db)[f"t{n}"] for n in (0, 1, 3, 4)] == ["pending"] * 4
    assert states(db)["t2"] in ("blocked", "failed"), "failed soon, on a slow machine within this pass"

    async def fails() -> bool:
        await hand.one_pass()
        insert(db, None, needs=["need"])  # others are taken meanwhile: it is the row
        return bool(states(db)["t2"] == "failed")

    await until_async(fails, 60, "it stays refused")
    assert (row(db, "t2")["failure_kind"], states(db)["u2"]) == ("poison", "cancelled")


async def test_refused_cancel_in_the_midst_stops_there(db, hand):
    insert(db, "c0")
    for n in range(1, 8):
        insert(db, f"c{n}", needs=[f"c{n - 1}"])
    await hand.one_pass()
    db.execute(CHECK.format("task_id <> 'c4' or status <> 'cancelled'"))
    end(db, "c0", status="cancelled")
    await hand.one_pass()
    assert [states(db)[f"c{n}"] for n in range(8)] == ["cancelled"] * 4 + ["blocked"] * 4
    db.execute("alter table agent_tasks drop constraint theirs")

    async def cancelled() -> bool:
        await hand.one_pass()
        return set(states(db).values()) == {"cancelled"}

    await until_async(cancelled, 60, "it is looked at again")
    at_rest(db)


async def test_refused_mark_stops_no_other_tie(db, hand):
    """A need whose row takes no change: who needs it stays noted."""
    insert(db, "sealed")
    insert(db, "need")
    db.execute(CHECK.format("task_id <> 'sealed' or needed is null"))
    for n in range(3):
        insert(db, f"s{n}", needs=["sealed"])
        insert(db, f"t{n}", needs=["need"])
    await hand.one_pass()
    assert notes(db) == ["s0", "s1", "s2"]
    end(db, "need")
    await hand.one_pass()
    assert [states(db)[f"t{n}"] for n in range(3)] == ["pending"] * 3
    db.execute("alter table agent_tasks drop constraint theirs")
    end(db, "sealed")

    async def let_go() -> bool:
        await hand.one_pass()
        return [states(db)[f"s{n}"] for n in range(3)] == ["pending"] * 3

    await until_async(let_go, 60, "they are tied, once it is looked at again")
    at_rest(db)


async def test_refused_place_stops_no_other_conversation(db, hand):
    for name in ("first", "other"):
        insert(db, name)
        for n in range(2):
            insert(db, f"{name}{n}", continues=name)
    db.execute(CHECK.format("task_id <> 'first0' or conversation is null"))
    await hand.one_pass()
    assert notes(db) == ["first0", "first1"]
    db.execute("alter table agent_tasks drop constraint theirs")
    await hand.one_pass()
    end(db, "first", "other")
    await hand.one_pass()
    assert (states(db)["first0"], states(db)["first1"], states(db)["other0"]) == ("pending", "blocked", "pending")
    at_rest(db)
