"""To delete a conversation is work in proportion to its length: rows read are counted, not time."""

import psycopg
import pytest


@pytest.fixture
def db(dsn: str):
    with psycopg.connect(dsn, autocommit=True) as found:
        yield found


def conversation(db: "psycopg.Connection[tuple[object, ...]]", name: str, turns: int) -> None:
    db.execute(
        "insert into agent_tasks (task_id, task_description, run_after) values (%s || 0, 'x', '2999-01-01')", [name]
    )
    db.execute(
        "insert into agent_tasks (task_id, task_description, continues) select %s || n, 'x', %s || n - 1 from generate_series(1, %s) n",
        [name, name, turns],
    )
    db.execute("select turbo_place_follow_ups(0, 10000)")
    db.execute("delete from agent_unsettled")


def rows_read(db: "psycopg.Connection[tuple[object, ...]]") -> int:
    (many,) = db.execute(
        "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
        " where relname in ('agent_conversations', 'agent_dependencies', 'agent_blocked', 'agent_unsettled')"
    ).fetchone() or (0,)
    return int(str(many or 0))


def cost(db: "psycopg.Connection[tuple[object, ...]]", name: str) -> int:
    """Rows read by a DELETE of all its turns."""
    with db.transaction(force_rollback=True):
        before = rows_read(db)
        db.execute("delete from agent_tasks where task_id like %s || '%%'", [name])
        return rows_read(db) - before


def test_deletion_of_a_long_conversation_is_linear(db):
    for name, turns in (("a", 100), ("b", 400)):
        conversation(db, name, turns)
    assert cost(db, "b") < 6 * cost(db, "a")


def test_deletion_of_one_turn_reads_no_other_one(db):
    conversation(db, "a", 400)
    db.execute("analyze agent_conversations")
    assert cost(db, "a399") < 60
    before = "select after from agent_conversations where task_id = 'a400'"
    assert db.execute(before).fetchone() == ("a399",)
    db.execute("delete from agent_tasks where task_id = 'a399'")
    assert db.execute(before).fetchone() == (None,), "the id may be a stranger's next time"


def test_deletion_of_many_closed_turns_is_linear(db):
    """A person closed them before their turn: who came after them goes on from the one before."""
    spent = {}
    for name, turns in (("a", 100), ("b", 400)):
        conversation(db, name, turns)
        db.execute(
            "update agent_tasks set status = 'completed', turbo_rev = turbo_rev + 1, completed_at = now()"
            " where task_id like %s || '%%' and task_id not in (%s || 0, %s || %s)",
            [name, name, name, turns],
        )
        with db.transaction(force_rollback=True):
            db.execute("delete from agent_tasks where task_id like %s || '%%' and status = 'completed'", [name])
            assert db.execute(
                "select after from agent_conversations where task_id = %s || %s", [name, turns]
            ).fetchone() == (f"{name}0",)
        spent[name] = cost(db, name)
    assert spent["b"] < 6 * spent["a"]
