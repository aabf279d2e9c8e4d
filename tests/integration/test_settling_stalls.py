"""What must not stand before all others: rows past the triggers, ids and messages that are refused, rows in a person's hands."""

import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.open_messages import left_over, message, open_bodies
from tests.support.settling import Hand, at_rest, end, settling, states
from tests.support.waiting_rows import insert
from tests.support.work_rows import edges, notes, past_the_judges
from turbo.migrate import migrate

Connection = psycopg.Connection[tuple[object, ...]]

PAST = "insert into agent_tasks (task_id, task_description, status, needs, continues) values ('{}', 'x', '{}', {}, {})"
ADOPTED = """
create table agent_tasks (
  task_id {kind} primary key, task_type text not null default 'mine', task_description text not null, task_priority integer default 5,
  input_data jsonb, status text default 'pending', output_data jsonb, error_message text, execution_time_ms integer,
  assigned_worker_id text, timeout_seconds integer default 300, max_retries integer default 3, retry_count integer default 0,
  created_at timestamp default current_timestamp, started_at timestamp, completed_at timestamp)"""


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        yield one


async def test_needs_past_the_triggers_stall_no_others(db: Connection, hand: Hand) -> None:
    """Names that are none: such a row stays blocked. The audit leaves no notes for it, and one that is left is dropped."""
    insert(db, "need")
    past_the_judges(
        db,
        PAST.format("null", "blocked", "'{NULL}'", "null"),
        PAST.format("nulls", "blocked", "'{need,NULL,gone}'", "null"),
        PAST.format(
            "long", "blocked", "array[(select string_agg(md5(n::text), '') from generate_series(1, 200) n)]", "null"
        ),
    )
    insert(db, "good", needs=["need"])
    assert await hand.store.audit() == 0
    for task_id in ("null", "nulls", "long"):
        db.execute("insert into agent_unsettled (task_id) values (%s)", [task_id])
    end(db, "need")
    await hand.one_pass()
    assert states(db) == {
        "good": "pending",
        "long": "blocked",
        "need": "completed",
        "null": "blocked",
        "nulls": "blocked",
    }
    assert notes(db) == []


@pytest.mark.parametrize("kind", ["varchar(20)", "bigint", "uuid"])
async def test_ids_of_an_adopted_table_are_settled(empty_dsn: str, kind: str) -> None:
    a, b, c = {
        "bigint": ("1", "2", "3"), "uuid": tuple(f"00000000-0000-4000-8000-00000000000{n}" for n in "123"),
    }.get(kind, ("a", "b", "c"))  # fmt: skip
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute(ADOPTED.format(kind=kind).encode())
        migrate(empty_dsn)
        insert(db, a)
        insert(db, b, needs=[a])
        insert(db, c, continues=a)
        past_the_judges(
            db, PAST.format(a[:-1] + "9", "blocked", "'{no id of that type, NULL}'", "null"),
        )  # fmt: skip
        db.execute("insert into agent_unsettled (task_id) values (%s)", [a[:-1] + "9"])
        async with settling(empty_dsn) as hand:
            await hand.one_pass()
            end(db, a)
            await hand.one_pass()
            assert [states(db)[one] for one in (b, c)] == ["pending", "pending"]
            end(db, b, status="pending")


FORBIDS = """
create function forbids() returns trigger language plpgsql as $$ begin
  if new.task_description like '%%forbidden%%' then raise exception 'no such words' using errcode = '{}'; end if;
  return new;
end $$;
create trigger forbids before insert on agent_tasks for each row execute function forbids()"""
NO_LINE = """
create function no_line() returns trigger language plpgsql as $$ begin
  if new.action_type = 'undelivered' and new.task_id = 't1' then raise exception 'no line'; end if;
  return new;
end $$;
create trigger no_line before insert on agent_actions for each row execute function no_line()"""


@pytest.mark.parametrize("code", ["P0001", "42501", "22001", "54000", "P0004", "0A000"])
def test_refused_follow_up_keeps_no_other_message(db: Connection, code: str) -> None:
    """Of an owner's trigger, whatever it raises: that message is closed, with a line in the trail."""
    for n in range(3):
        insert(db, f"t{n}")
        message(db, f"t{n}", "forbidden words" if n == 1 else "fine words")
    past_the_judges(db, "update agent_tasks set status = 'completed', fencing_token = - 7, turbo_rev = turbo_rev + 1")
    db.execute(FORBIDS.format(code).encode())
    assert left_over(db) == (3, 2)
    (why,) = db.execute("select detail ->> 'why' from agent_actions where action_type = 'undelivered'").fetchone() or (
        "",
    )
    assert why == "its follow-up was refused: no such words"
    assert open_bodies(db) == []


def test_refused_line_keeps_no_other_message(db: Connection) -> None:
    """What belongs to one task is undone; the others are seen to."""
    for n in range(3):
        insert(db, f"t{n}")
        message(db, f"t{n}", f"to t{n}")
    db.execute("update agent_tasks set status = 'cancelled'")
    db.execute(NO_LINE.encode())
    assert left_over(db) == (2, 0)
    assert open_bodies(db) == ["to t1"]


@pytest.mark.parametrize("backwards", [False, True])
async def test_held_head_of_a_long_chain_holds_up_no_others(
    dsn: str, db: Connection, hand: Hand, backwards: bool
) -> None:
    """2,000 follow-ups, each of the one before: looked at once each, whatever the order of their notes."""
    insert(db, "c0")
    db.execute(
        "insert into agent_tasks (task_id, task_description, continues)"
        " select 'c' || n, 'x', 'c' || (n - 1) from generate_series(1, 2000) n"
    )
    if backwards:
        db.execute("delete from agent_unsettled")
        db.execute("insert into agent_unsettled (task_id) select 'c' || n from generate_series(2000, 1, -1) n")
    insert(db, "need")
    insert(db, "t", needs=["need"])
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_tasks where task_id = 'c0' for update")
        began = time.monotonic()
        await placed_all(hand)
        held = time.monotonic() - began
        assert db.execute("select count(*) from agent_conversations").fetchone() == (0,)
    began = time.monotonic()
    await placed_all(hand)
    placed = time.monotonic() - began
    assert db.execute(
        "select bool_and(task_id = 'c' || place and after is not distinct from 'c' || nullif(place, 0) - 1) from agent_conversations"
    ).fetchone() == (True,)
    assert db.execute("select count(*) from agent_conversations").fetchone() == (2001,)
    assert max(held, placed) < 40, (
        "a second or two on a machine that is not loaded; minutes where each looks at all before it"
    )


async def placed_all(hand: Hand) -> None:
    """Two calls: there are more notes than one takes."""
    after = (await hand.store.place()).after
    assert isinstance(after, int)
    await hand.store.place(after)


@pytest.mark.parametrize("needs", [4, 1])
async def test_open_transaction_of_a_person_stops_no_others(
    dsn: str, db: Connection, hand: Hand, needs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More needs are over, or more edges of one are open, than one statement takes, and a person has locked those who wait."""
    monkeypatch.setattr("turbo.db.settle_store.NEEDS", 2)
    monkeypatch.setattr("turbo.db.settle_store.EDGES", 3)
    for n in range(needs):
        insert(db, f"a{n}")
    for n in range(7):
        insert(db, f"h{n}", needs=[f"a{n % needs}"])
    for n in range(3):
        insert(db, f"z{n}")
        insert(db, f"t{n}", needs=[f"z{n}"])
    await hand.one_pass()
    with psycopg.connect(dsn) as person:
        person.execute("update agent_tasks set status = 'cancelled' where task_id like 'h%'")
        end(db, *(f"a{n}" for n in range(needs)), "z0", "z1", "z2")
        await hand.one_pass()
        assert [states(db)[f"t{n}"] for n in range(3)] == ["pending"] * 3
    await hand.one_pass()
    assert [states(db)[f"h{n}"] for n in range(7)] == ["cancelled"] * 7
    at_rest(db)


async def test_rows_with_many_needs_stand_before_no_others(db: Connection, hand: Hand) -> None:
    db.execute(
        "insert into agent_tasks (task_id, task_description, status) select 'n' || n, 'x', 'completed' from generate_series(1, 1100) n"
    )
    insert(db, "need", status="completed")
    for n in range(6):
        insert(db, f"big{n}", needs=[f"n{m}" for m in range(1, 1101)])
    insert(db, "t", needs=["need"])
    assert (await hand.store.tie()).remaining == 6
    assert edges(db, "t") != []
    (tied,) = db.execute(
        "select count(distinct task_id) from agent_dependencies where task_id like 'big%'"
    ).fetchone() or (0,)
    assert tied < 6, "not all at once"
