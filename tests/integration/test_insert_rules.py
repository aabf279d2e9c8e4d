"""What the database takes and refuses, from any SQL client: the message says what is wrong, the hint what to write."""

import psycopg
import pytest


@pytest.fixture
def db(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def one(db, sql, *parameters):
    return db.execute(sql, parameters).fetchone()


def test_documented_insert_works(db):
    db.execute(
        "INSERT INTO agent_tasks (task_id, task_type, task_description, task_priority, status, timeout_seconds, max_retries)"
        " VALUES ('my_task_1', 'analysis', 'Analyze security of auth.py module', 8, 'pending', 300, 3)"
    )
    assert one(db, "select status, queue, retry_count from agent_tasks where task_id = 'my_task_1'") == (
        "pending",
        "default",
        0,
    )


def test_minimal_insert_works(db):
    row = one(
        db,
        "INSERT INTO agent_tasks (task_description) VALUES ('x') RETURNING task_id, task_type, timeout_seconds, max_retries",
    )
    assert row[0].startswith("t_")
    assert row[1:] == ("default", 300, 3)


@pytest.mark.parametrize(
    ("columns", "values", "message", "hint"),
    [
        ("task_description", "''", "task_description is empty", "Write what the agent is to do"),
        ("task_description", "E' \\n\\t '", "task_description is empty", "Write what the agent is to do"),
        ("task_description", "null", "task_description is empty", "Write what the agent is to do"),
        ("task_description, task_id", "'x', ''", "task_id is empty", "Leave task_id out"),
        ("task_description, task_id", "'x', E' \\n\\t'", "task_id is empty", "Leave task_id out"),
        ("task_description, task_id", "'x', repeat('i', 2049)", "task_id has 2049 bytes", "a hash of it"),
        ("task_description, task_id", "'x', repeat('→', 683)", "task_id has 2049 bytes", "a hash of it"),
        ("task_description, timeout_seconds", "'x', -1", "timeout_seconds is -1", "at least 1"),
        ("task_description, timeout_seconds", "'x', 0", "timeout_seconds is 0", "at least 1"),
        ("task_description, max_retries", "'x', -1", "max_retries is -1", "0 for no retry"),
        ("task_description, retry_count", "'x', -1", "retry_count is -1", "Leave retry_count out"),
        ("task_description, queue", "'x', repeat('q', 41)", "is not a queue name", "1 to 40 of a-z 0-9 _ -"),
        ("task_description, queue", "'x', 'Häuser'", "is not a queue name", "1 to 40 of a-z 0-9 _ -"),
        ("task_description, queue", "'x', ''", "is not a queue name", "1 to 40 of a-z 0-9 _ -"),
        ("task_description, status", "'x', 'running'", "cannot be inserted as running", "a worker sets 'running'"),
        ("task_description, status", "'x', 'assigned'", "unknown status 'assigned'", "Leave status out"),
        ("task_description, status", "'x', ''", "unknown status ''", "Leave status out"),
        ("task_description, fencing_token", "'x', 7", "may not set fencing_token", "Leave both out"),
        (
            "task_description, agent_session_id",
            "'x', 'abc'",
            "may not set fencing_token or agent_session_id",
            "name its task in continues",
        ),
        ("task_description, turbo_rev", "'x', 9223372036854775807", "may not set turbo_rev", "turbo's own"),
        ("task_description, infra_count", "'x', 5", "may not set turbo_rev", "turbo's own"),
        ("task_description, cancel_to", "'x', 'completed'", "may not set turbo_rev", "turbo's own"),
        ("task_description, run_after", "'x', 'infinity'", "run_after is infinity", "Write a moment"),
        ("task_description, concurrency_key", "'x', repeat('k', 501)", "longer than 500", "a hash of it"),
    ],
)
def test_bad_row_is_refused_with_a_hint(db, columns, values, message, hint):
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        db.execute(f"insert into agent_tasks ({columns}) values ({values})")
    assert message in refused.value.diag.message_primary
    assert hint in refused.value.diag.message_hint
    assert one(db, "select count(*) from agent_tasks") == (0,)


def test_queue_name_of_40_characters_is_accepted(db):
    db.execute("insert into agent_tasks (task_description, queue) values ('x', repeat('q', 40))")


def test_future_row_is_scheduled_and_never_pending(db):
    row = one(
        db,
        "insert into agent_tasks (task_description, run_after) values ('x', now() + interval '1 hour') returning status",
    )
    assert row == ("scheduled",)
    row = one(db, "insert into agent_tasks (task_description, status) values ('x', 'scheduled') returning status")
    assert row == ("pending",), "scheduled for a moment that is past means now"


def test_null_for_a_default_becomes_the_default(db):
    row = one(
        db,
        "insert into agent_tasks (task_description, queue, status, task_type, run_after, retry_count)"
        " values ('x', null, null, null, null, null) returning queue, status, task_type, run_after <= now(), retry_count",
    )
    assert row == ("default", "pending", "default", True, 0)


def test_longest_id_fits_every_index_of_turbo(db):
    """2,688 random bytes, which the primary key takes, stopped every claim: the trail's index does not take them."""
    random_text = "(select string_agg(md5(n::text), '') from generate_series(1, 64) n)"
    db.execute(f"insert into agent_tasks (task_id, task_description) values ({random_text}, 'x')".encode())
    (task_id,) = one(db, "select task_id from agent_tasks where octet_length(task_id) = 2048")
    db.execute("insert into agent_actions (task_id, action_type) values (%s, 'claimed')", [task_id])
    db.execute("insert into agent_progress (task_id, fencing_token, worker_id) values (%s, 1, 'w')", [task_id])


def test_renamed_task_needs_a_valid_id_too(db):
    db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    for task_id in ("''", "' '", "null", "repeat('i', 2049)"):
        with pytest.raises(psycopg.errors.CheckViolation, match="task_id is empty, or longer than 2048 bytes"):
            db.execute(f"update agent_tasks set task_id = {task_id}".encode())
    db.execute("update agent_tasks set task_id = 'u'")
    db.execute("update agent_tasks set status = 'running', fencing_token = 7, turbo_rev = turbo_rev + 1")
    with pytest.raises(psycopg.errors.ObjectInUse, match="its task_id cannot change"):
        db.execute("update agent_tasks set task_id = 't'")


ODD_SESSIONS = [
    "standard_conforming_strings = off",
    "datestyle = 'German, DMY'",
    "intervalstyle = 'sql_standard'",
    "timezone = 'Pacific/Kiritimati'",
    "client_encoding = 'LATIN1'",
    "search_path = ''",
    "default_transaction_isolation = 'serializable'",
    "row_security = off",
    "array_nulls = off",
    "transform_null_equals = on",
    "plpgsql.extra_errors = 'all'",
    "plpgsql.variable_conflict = 'use_variable'",
]


@pytest.mark.parametrize("setting", ODD_SESSIONS)
def test_triggers_do_not_depend_on_the_session(dsn, setting):
    """What the inserting session has set decides nothing: an ordinary row is taken, an edit is judged."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"set {setting}".encode())
        db.execute("insert into public.agent_workers (worker_id, name, host, pid, version, slots, queues, idle)"
                   " values ('w', 'w', 'h', 1, '0', 1, '{default}', true)")  # fmt: skip
        row = "insert into public.agent_tasks (task_id, task_description{}) values ('{}', 'hello'{}) returning status"
        assert one(db, row.format("", "a", "")) == ("pending",)
        assert one(db, row.format(", run_after", "b", ", now() + interval '1 hour'")) == ("scheduled",)
        with pytest.raises(psycopg.errors.CheckViolation, match="task_description is empty"):
            db.execute("insert into public.agent_tasks (task_description) values (' ')")
        db.execute("update public.agent_tasks set status = 'pending' where task_id = 'b'")
        db.execute("update public.agent_tasks set status = 'cancelled'")
        assert one(db, "select count(*) from public.agent_tasks where status = 'cancelled'") == (2,)
        assert one(db, "select count(*) from public.agent_actions where action_type = 'edited'") == (3,)


def test_repeated_idempotency_key_makes_one_task(db):
    for _ in range(3):
        db.execute(
            "insert into agent_tasks (task_description, idempotency_key) values ('x', 'once') on conflict (idempotency_key) do nothing"
        )
    db.execute("insert into agent_tasks (task_description) values ('no key'), ('nor this')")
    assert one(db, "select count(*) from agent_tasks where idempotency_key = 'once'") == (1,)
    assert one(db, "select count(*) from agent_tasks") == (3,)


def test_inserter_without_other_rights_can_only_insert(db, dsn):
    role = "inserter_" + db.info.dbname.replace("-", "_")
    db.execute(f"create role {role} login")
    try:
        db.execute(f"grant insert on agent_tasks to {role}")
        db.execute(f"set role {role}")
        db.execute("create temp table agent_workers (worker_id text, idle boolean, queues text[])")
        db.execute("insert into agent_tasks (task_description) values ('x')")
        for forbidden in (
            "select * from public.agent_workers",
            "select * from agent_actions",
            "select public.turbo_wake('default')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(forbidden)
        db.execute("reset role")
        assert one(db, "select count(*) from agent_tasks") == (1,)
    finally:
        db.execute("reset role")
        db.execute(f"drop owned by {role}")
        db.execute(f"drop role {role}")
