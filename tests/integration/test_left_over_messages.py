"""Messages that no run will take, behind many that rightly wait; and those of tasks that are gone."""

import psycopg
import pytest

from tests.support.open_messages import left_over, message, open_bodies
from tests.support.work_rows import insert, past_the_triggers


def looked(db: psycopg.Connection) -> bool:
    """What a poll sees."""
    ((found,),) = db.execute("select turbo_unsettled()").fetchall()
    return bool(found)


def crowd(db: psycopg.Connection) -> None:
    """A thousand tasks that wait, each with a message."""
    db.execute(
        "insert into agent_tasks (task_id, task_description) select 'a' || n, 'x' from generate_series(1, 1000) n"
    )
    db.execute("insert into agent_messages (task_id, body) select 'a' || n, 'wait' from generate_series(1, 1000) n")


def test_end_of_a_task_is_found_behind_a_thousand(db) -> None:
    crowd(db)
    insert(db, "z")
    message(db, "z", "hello")
    assert not looked(db)
    db.execute("update agent_tasks set status = 'cancelled' where task_id = 'z'")
    assert looked(db)
    assert left_over(db) == (1, 0)
    assert not looked(db)


@pytest.mark.parametrize("told", [True, False], ids=["message", "control"])
@pytest.mark.parametrize("held", [False, True], ids=["scheduled", "held"])
def test_cancel_of_a_task_that_was_told_wakes_the_settler(db, told: bool, held: bool) -> None:
    """Its message is closed at once, not by the next poll."""
    insert(db, "t", **({"status": "waiting"} if held else {"run_after": "2999-01-01"}))
    if told:
        message(db, "t", "hello")
    db.execute("listen turbo_ctl")
    db.execute(f"update agent_tasks set {'answer' if held else 'status'} = %s", ["no" if held else "cancelled"])
    assert [note.payload for note in db.notifies(timeout=0) if note.payload == "settle"] == (["settle"] if told else [])
    assert left_over(db) == (int(told), 0)


def test_older_end_is_found_by_one_of_the_next_looks(db) -> None:
    """More tasks ended after it than one look sees."""
    crowd(db)
    insert(db, "z")
    message(db, "z", "hello")
    db.execute(
        "insert into agent_tasks (task_id, task_description) select 'b' || n, 'x' from generate_series(1, 200) n"
    )
    db.execute("update agent_tasks set status = 'cancelled' where task_id like 'b%'")
    past_the_triggers(
        db, "update agent_tasks set status = 'cancelled', completed_at = now() - interval '1 day' where task_id = 'z'"
    )
    assert [looked(db) for _ in range(7)] == [False] * 5 + [True, True]
    assert left_over(db) == (1, 0)
    assert [looked(db) for _ in range(12)] == [False] * 12


@pytest.mark.parametrize("again", [False, True])
def test_message_of_a_task_that_is_gone_goes_too(dsn: str, db, again: bool) -> None:
    """It is committed after the deletion. Another task of that id waits."""
    insert(db, "t")
    with psycopg.connect(dsn) as slow:
        message(slow, "t", "for the first")
        db.execute("delete from agent_tasks where task_id = 't'")
        if again:
            insert(db, "t")
        slow.commit()
    if again:
        message(db, "t", "for the second")
    assert looked(db)
    assert left_over(db) == (1, 0)
    assert (open_bodies(db), looked(db)) == (["for the second"] if again else [], False)
