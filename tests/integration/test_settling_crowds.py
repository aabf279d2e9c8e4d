"""What one login leaves in thousands costs the tasks of others little: work is counted, not timed."""

from typing import Any

import psycopg
import pytest

from tests.model.mutations import Mutation
from tests.support.settling import Hand, changed, end, settling, states
from tests.support.waiting_rows import insert
from turbo import sql

HELD = (
    "insert into agent_tasks (task_id, task_description, continues, status)"
    " select %s || n, 'x', %s, 'waiting' from generate_series(1, %s) n"
)


@pytest.fixture
def db(dsn: str):
    with psycopg.connect(dsn, autocommit=True) as found:
        yield found


def rows_read(db: psycopg.Connection[Any]) -> int:
    """By the transaction so far, in the tables that a place depends on."""
    (many,) = db.execute(
        "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
        " where relname in ('agent_tasks', 'agent_conversations')"
    ).fetchone() or (0,)
    return int(many)


def test_place_in_a_long_line_of_holds_costs_no_more(db):
    """A hold is waited for by nobody, and who comes after thousands of them does not walk past them."""
    db.execute("insert into agent_tasks (task_id, task_description, run_after) values ('root', 'x', '2999-01-01')")
    cost = []
    for part in ("a", "b", "c", "d"):
        db.execute(HELD, [part, "root", 100])
        with db.transaction():
            before = rows_read(db)
            assert db.execute("select placed from turbo_place_follow_ups(0, 1000)").fetchone() == (100,)
            cost.append(rows_read(db) - before)
        db.execute("delete from agent_unsettled")
    assert cost[3] < cost[1] * 1.2, f"rows read for each hundred: {cost}"
    db.execute("insert into agent_tasks (task_id, task_description, continues) values ('last', 'x', 'root')")
    db.execute("select turbo_place_follow_ups(0, 1000)")
    after = db.execute("select distinct after from agent_conversations where place > 0").fetchall()
    assert after == [("root",)], "all of them wait for the one that is in the line"


def test_hold_that_was_released_is_waited_for(db):
    """The control: one of the last that is in the line again."""
    db.execute("insert into agent_tasks (task_id, task_description, run_after) values ('root', 'x', '2999-01-01')")
    db.execute(HELD, ["h", "root", 5])
    db.execute("select turbo_place_follow_ups(0, 1000)")
    db.execute("update agent_tasks set answer = 'yes' where task_id = 'h3'")
    db.execute("insert into agent_tasks (task_id, task_description, continues) values ('last', 'x', 'root')")
    db.execute("select turbo_place_follow_ups(0, 1000)")
    assert db.execute("select after from agent_conversations where task_id = 'last'").fetchone() == ("h3",)


async def test_places_of_thousands_hold_up_nobody(dsn, db):
    """While they are given, in portions, others are tied and let go."""
    db.execute("insert into agent_tasks (task_id, task_description, run_after) values ('root', 'x', '2999-01-01')")
    db.execute(HELD, ["h", "root", 2500])
    db.execute("insert into agent_tasks (task_id, task_description) values ('a', 'x')")
    db.execute("insert into agent_tasks (task_id, task_description, needs) values ('b', 'x', '{a}')")
    db.execute("update agent_tasks set status = 'completed' where task_id = 'a'")
    async with settling(dsn) as hand:
        placed = watch_places(hand, db)
        await hand.one_pass()
    assert len(placed) >= 3
    assert placed[0] == "blocked"
    assert set(placed[2:]) == {"pending"}, "two portions at most were given before"
    assert db.execute("select count(*) from agent_conversations").fetchone() == (2501,)
    assert db.execute("select turbo_unsettled()").fetchone() == (False,)


def watch_places(hand: Hand, db: psycopg.Connection[Any]) -> list[str]:
    """The status of b whenever places are given."""
    seen: list[str] = []
    place = hand.store.place

    async def watched(after: int = 0):
        seen.append(states(db)["b"])
        return await place(after)

    hand.settler._store = type(
        "Watched", (), {"__getattr__": lambda _, name: getattr(hand.store, name), "place": staticmethod(watched)}
    )()  # type: ignore[assignment]
    return seen


def test_rows_with_many_needs_are_read_a_few_at_a_time(db):
    """In each call of settle/tie.sql all others come first."""
    db.execute(
        "insert into agent_tasks (task_id, task_description, run_after)"
        " select 'n' || n, 'x', '2999-01-01' from generate_series(1, 3000) n"
    )
    needs = "(select array_agg('n' || n) from generate_series(1, 3000) n)"
    db.execute(
        f"insert into agent_tasks (task_id, task_description, needs) select 'big' || n, 'x', {needs} from generate_series(1, 12) n"  # type: ignore[arg-type]
    )
    db.execute("insert into agent_tasks (task_id, task_description, needs) values ('small', 'x', '{n1}')")
    db.execute("set track_functions = 'all'")
    with db.transaction():
        db.execute(sql.statement("settle/tie").encode(), {"after": 0, "notes": 200, "edges": 1000, "worker": "w"})
        (judged,) = db.execute(
            "select calls from pg_stat_xact_user_functions where funcname = 'turbo_can_be_tied'"
        ).fetchone() or (0,)
    tied = dict(db.execute("select task_id::text, count(*) from agent_dependencies group by 1").fetchall())
    assert tied["small"] == 1
    assert (judged <= 5, sum(tied.values())) == (True, 1000), f"{judged} rows were read"


ONCE = Mutation(
    "the settler wakes the queues in which it lets tasks go",
    "settle/settle",
    (("public.turbo_wake(q.queue::text)", "null as woken"),),
)


@pytest.mark.parametrize("guard", [None, ONCE], ids=["guarded", "control"])
async def test_queues_of_what_is_let_go_are_woken(dsn, db, guard):
    """Each once, and by the statement: its rows say nothing. What the session does next wakes as ever."""
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, idle, schema)"
        " values ('w-9-abc', 'w', 'h', 9, '0', 1, '{default,other}', true, 16)"
    )
    insert(db, "need")
    for queue in ("default", "other"):
        for n in range(3):
            insert(db, f"{queue} {n}", needs=["need"], queue=queue)
    async with settling(dsn) as hand:
        await hand.one_pass()
        end(db, "need")
        with psycopg.connect(dsn, autocommit=True) as ear, changed(guard):
            ear.execute("listen turbo_q_default; listen turbo_q_other")
            assert (await hand.store.settle()).released == 6
            heard = sorted(n.channel for n in ear.notifies(timeout=0.3))
            assert heard == (["turbo_q_default", "turbo_q_other"] if guard is None else [])
            async with hand.lane.use() as connection:
                await connection.execute("update public.agent_tasks set status = 'pending' where task_id = 'need'")
            assert [n.channel for n in ear.notifies(timeout=0.3)] == ["turbo_q_default"]
