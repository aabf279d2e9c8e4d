"""What a task may need, from any SQL client, and what else of depending work an insert may say: each refusal names what is wrong."""

import psycopg
import pytest
from psycopg import errors

from tests.support.logins import login, user
from tests.support.waiting_rows import answer, insert, row
from tests.support.work_rows import notes
from turbo.domain.work import MOST_NEEDS
from turbo.migrate import grant_roles

FOREVER = "9000-01-01 00:00:00+00:00"


def refused(db, kind, match, **columns) -> str:
    with pytest.raises(kind, match=match) as found:
        insert(db, **columns)
    return str(found.value.diag.message_hint)


def test_task_with_needs_is_blocked_and_noted(db):
    db.execute("listen turbo_ctl")
    insert(db, "plan")
    insert(db, "over", status="completed")
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs) values"
        " ('do', 'x', '{plan}'), ('review', 'x', '{do,plan,do}'), ('late', 'x', '{over}')"
    )
    insert(db, "moment", needs=["plan"], run_after="2999-01-01", status="pending")
    insert(db, "said", needs=["plan"], status="blocked")
    assert [row(db, name)["status"] for name in ("do", "review", "late", "moment", "said")] == ["blocked"] * 5
    assert row(db, "review")["needs"] == ["do", "plan"], "in their order, each once"
    assert row(db, "moment")["run_after"].year == 2999
    assert notes(db) == ["do", "review", "late", "moment", "said"]
    assert {n.payload for n in db.notifies(timeout=0)} == {"settle"}
    assert (row(db, "plan")["needed"], row(db, "plan")["turbo_rev"]) == (None, 0), "no inserter touches another task"


def test_empty_needs_are_none(db):
    insert(db, needs=[])
    assert (row(db)["status"], row(db)["needs"], notes(db)) == ("pending", None, [])


def test_bad_needs_are_refused_by_name(db):
    insert(db, "plan")
    assert "first" in refused(db, errors.ForeignKeyViolation, "needs names 'nope'", needs=["plan", "nope"])
    refused(db, errors.ForeignKeyViolation, r"needs names 'a\\u001b\[31m'", needs=["a\x1b[31m"])
    refused(db, errors.ForeignKeyViolation, "needs names ''", needs=[""])
    refused(db, errors.CheckViolation, "task t needs itself", needs=["plan", "t"])
    refused(db, errors.CheckViolation, "needs holds a null", needs=["plan", None])
    many = [f"n{n}" for n in range(MOST_NEEDS + 1)]
    hint = refused(db, errors.CheckViolation, f"needs has {MOST_NEEDS + 1} ids, more than {MOST_NEEDS}", needs=many)
    assert "a task between" in hint
    refused(db, errors.CheckViolation, "on_needs_failed is 'stop'", needs=["plan"], on_needs_failed="stop")
    refused(db, errors.CheckViolation, "waits for no other", status="blocked")
    refused(db, errors.CheckViolation, "waits for no other", status="blocked", needs=[])
    # the later of two rows is not there yet when the earlier one is judged: no cycle can arise
    with pytest.raises(errors.ForeignKeyViolation, match="needs names 'b'"):
        db.execute("insert into agent_tasks (task_id, task_description, needs) values ('a','x','{b}'), ('b','x','{a}')")
    assert (notes(db), db.execute("select count(*) from agent_tasks").fetchone()) == ([], (1,))


def test_as_many_needs_as_allowed_are_taken(db):
    db.execute(
        "insert into agent_tasks (task_id, task_description) select 'n' || n, 'x' from generate_series(1, %s) n",
        [MOST_NEEDS],
    )
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs)"
        " select 't', 'x', array_agg(task_id) || array['n1'] from agent_tasks"
    )
    assert len(row(db)["needs"]) == MOST_NEEDS


@pytest.mark.parametrize("mode", ["cancel", "run", "wait", None])
def test_on_needs_failed_takes_its_three_values(db, mode):
    insert(db, "plan")
    insert(db, needs=["plan"], on_needs_failed=mode, parent_task_id="anything")
    assert (row(db)["status"], row(db)["on_needs_failed"], row(db)["parent_task_id"]) == ("blocked", mode, "anything")
    insert(db, "plain", on_needs_failed=mode)
    assert row(db, "plain")["status"] == "pending"


def test_upsert_that_inserts_nothing_may_need_what_is_gone(db):
    insert(db, "plan")
    insert(db, needs=["plan"], idempotency_key="k")
    db.execute("delete from agent_tasks where task_id = 'plan'")
    before = row(db)
    for columns, values in (("task_id", "'t'"), ("idempotency_key", "'k'")):
        done = db.execute(
            f"insert into agent_tasks (task_description, needs, {columns}) values ('x', '{{plan}}', {values})"
            " on conflict do nothing".encode()
        )
        assert done.rowcount == 0
    assert row(db) == before
    with pytest.raises(errors.ForeignKeyViolation):
        insert(db, "other", needs=["plan"])


def test_upsert_may_write_the_same_needs_again(db):
    insert(db, "plan")
    insert(db, needs=["plan"])
    db.execute(
        "insert into agent_tasks (task_id, task_description, needs) values ('t', 'new', '{plan,plan}') on conflict (task_id)"
        " do update set task_description = excluded.task_description, needs = excluded.needs, status = excluded.status"
    )
    assert (row(db)["status"], row(db)["task_description"]) == ("blocked", "new")
    with pytest.raises(errors.CheckViolation, match="waits for no other task"):
        db.execute(
            "insert into agent_tasks (task_id, task_description, needs) values ('plan', 'x', '{t}')"
            " on conflict (task_id) do update set status = excluded.status"
        )


def test_copy_merge_and_old_snapshots_are_judged_alike(db, dsn):
    insert(db, "plan")
    with db.cursor().copy("copy agent_tasks (task_id, task_description, needs) from stdin") as into:
        into.write("copied\tx\t{plan}\nagain\tx\t{copied}\n")
    with (
        pytest.raises(errors.ForeignKeyViolation),
        db.cursor().copy("copy agent_tasks (task_description, needs) from stdin") as into,
    ):
        into.write("x\t{nope}\n")
    db.execute(
        "merge into agent_tasks t using (values ('merged')) v(id) on t.task_id = v.id"
        " when not matched then insert (task_id, task_description, needs) values (v.id, 'x', '{plan}')"
    )
    for level in ("repeatable read", "serializable"):
        with db.transaction():
            db.execute(f"set transaction isolation level {level}".encode())
            insert(db, level, needs=["plan", "copied"])
    with db.transaction():
        db.execute("set local turbo.notify = off")  # PREPARE refuses a transaction that has notified
        insert(db, "prepared", needs=["plan"])
        db.execute("prepare transaction 'work'")
    with psycopg.connect(dsn, autocommit=True) as other:
        assert other.execute("select count(*) from agent_unsettled where task_id = 'prepared'").fetchone() == (0,)
        other.execute("commit prepared 'work'")
    blocked = ["copied", "again", "merged", "repeatable read", "serializable", "prepared"]
    assert [row(db, name)["status"] for name in blocked] == ["blocked"] * len(blocked)
    assert notes(db) == blocked


def test_open_inserter_keeps_nobody_from_the_need(db, dsn):
    """The control: a foreign key would."""
    insert(db, "plan")
    with psycopg.connect(dsn) as inserter:
        insert(inserter, needs=["plan"])
        db.execute("set lock_timeout = '5s'")
        db.execute("update agent_tasks set status = 'completed' where task_id = 'plan'")
        db.execute("delete from agent_tasks where task_id = 'plan'")
        inserter.commit()
        assert row(db)["status"] == "blocked"
    db.execute("create table with_a_key (needs text references agent_tasks)")
    insert(db, "plan")
    with psycopg.connect(dsn) as inserter:
        inserter.execute("insert into with_a_key values ('plan')")
        db.execute("set lock_timeout = '100ms'")
        with pytest.raises(errors.LockNotAvailable):
            db.execute("delete from agent_tasks where task_id = 'plan'")


def test_bulk_of_needs_looks_each_up_by_key(db):
    """In a session whose table was empty when it was planned."""
    insert(db, "first")
    insert(db, needs=["first"])
    db.execute(
        "insert into agent_tasks (task_id, task_description) select 'n' || n, 'x' from generate_series(1, 3000) n"
    )
    before = db.execute(
        "select pg_stat_force_next_flush(), seq_tup_read from pg_stat_user_tables where relname = 'agent_tasks'"
    )
    (_, read) = before.fetchone()
    db.execute(
        "insert into agent_tasks (task_description, needs) select 'x', array['n' || n, 'n' || n + 1] from generate_series(1, 300) n"
    )
    db.execute("select pg_stat_force_next_flush()")
    (after,) = db.execute("select seq_tup_read from pg_stat_user_tables where relname = 'agent_tasks'").fetchone()
    assert after - read < 3000


def test_hold_with_needs_becomes_blocked_once_released(db):
    insert(db, "plan")
    insert(db, status="waiting", needs=["plan"])
    held = row(db)
    assert (held["status"], held["needs"], str(held["run_after"]), notes(db)) == ("waiting", ["plan"], FOREVER, ["t"])
    answer(db, "yes")
    assert (row(db)["status"], row(db)["due"], row(db)["question"], notes(db)) == ("blocked", True, None, ["t"])
    insert(db, "moment", status="waiting", needs=["plan"], run_after="2999-01-01")
    answer(db, "yes", "moment")
    assert (row(db, "moment")["status"], row(db, "moment")["run_after"].year) == ("blocked", 2999)
    insert(db, "denied", status="waiting", needs=["plan"])
    answer(db, "no", "denied")
    assert (row(db, "denied")["status"], notes(db)) == ("cancelled", ["t", "moment", "denied"])


def test_reserved_keys_are_refused_from_people(db):
    for key in ("schedule nightly@1", "message 7"):
        hint = refused(
            db, errors.CheckViolation, "keys that begin with '(schedule|message) ' are turbo's own", idempotency_key=key
        )
        assert hint == "Write another key."
    for key in ("schedule", "message", "scheduled work", "messages", "my schedule "):
        insert(db, key, idempotency_key=key)
    with pytest.raises(errors.CheckViolation, match="are turbo's own"):
        db.execute("update agent_tasks set idempotency_key = 'message 7' where task_id = 'message'")
    # turbo's own functions say so with a column that nobody else may insert
    insert(db, idempotency_key="schedule nightly@1", turbo_rev=-1)
    assert (row(db)["turbo_rev"], row(db)["status"]) == (1, "pending")


@pytest.mark.parametrize(
    ("column", "value"), [("needed", True), ("needed", False), ("conversation", 7), ("turbo_rev", -2)]
)
def test_columns_of_the_settler_are_refused(db, column, value):
    hint = refused(db, errors.CheckViolation, "needed, conversation or key_slot", **{column: value})
    assert "turbo's own" in hint
    insert(db)
    if column != "turbo_rev":
        with pytest.raises(errors.CheckViolation, match="needed and conversation are turbo's own"):
            db.execute(f"update agent_tasks set {column} = %s".encode(), [value])


def test_submitted_by_is_the_login_and_no_role_writes_it(dsn):
    grant_roles(dsn)
    with login(dsn, "turbo_submitter") as member, psycopg.connect(member, autocommit=True) as db:
        insert(db)
        insert(db, "next", needs=["t"], on_needs_failed="run", parent_task_id="t", continues="t")
        assert {row(db)["submitted_by"], row(db, "next")["submitted_by"]} == {user(member)}
        for column in ("submitted_by", "needed", "conversation", "turbo_rev", "question"):
            with pytest.raises(errors.InsufficientPrivilege):
                insert(db, "u", **{column: None})
        assert db.execute("select count(*) from agent_dependencies").fetchone() == (0,)
    with psycopg.connect(dsn, autocommit=True) as owner:
        insert(owner, "null", submitted_by=None)  # as a mapping writes it for none
        assert row(owner, "null")["submitted_by"] == owner.info.user


def test_ids_too_long_for_a_pair_are_refused(db):
    """At the insert, on either side: an index of edges could not hold them."""
    long, short, most = "a" * 1301, "b" * 10, "é" * 650
    for name in (long, short, most):
        insert(db, name)
    for columns in ({"needs": [long]}, {"needs": [short, long]}, {"continues": long}):
        assert "md5" in refused(db, errors.CheckViolation, "has an id of 1301 bytes, more than 1300", **columns)
    for named in ({"needs": [short]}, {"continues": short}):
        refused(db, errors.CheckViolation, "has an id of 1301 bytes", task_id="c" * 1301, **named)
    insert(db, "d" * 1300, needs=[most])
    insert(db, "e" * 1300, continues=most)
