"""What becomes of a row of agent_schedules when it is written: judged, mended, restored; and run by hand."""

import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from tests.support import schedules
from tests.support.logins import login
from turbo.domain.schedule import ScheduleError, timetable
from turbo.migrate import grant_roles, migrate

ADOPTED = """
create table agent_tasks (
  task_id {kind} primary key {default}, task_type varchar(20) not null default 'mine', task_description text not null,
  task_priority integer default 5, input_data json, status text default 'pending', output_data jsonb, error_message text,
  execution_time_ms integer, assigned_worker_id text, timeout_seconds integer default 77, max_retries integer default 3,
  retry_count integer default 0, created_at timestamp default current_timestamp, started_at timestamp, completed_at timestamp)"""


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"cron": "61 * * * *"}, "cron of schedule s has '61' as its minute"),
    ({"cron": "0 24 * * *"}, "has '24' as its hour"),
    ({"cron": "0 0 32 * *"}, "has '32' as its day of the month"),
    ({"cron": "0 0 * foo *"}, "has 'foo' as its month"),
    ({"cron": "0 0 * * 8"}, "has '8' as its weekday"),
    ({"cron": "60 * * * * *"}, "has '60' as its second"),
    ({"cron": "*/0 * * * *"}, "has '[*]/0' as its minute"),
    ({"cron": "@daily"}, "has neither five fields nor six"),
    ({"cron": ""}, "has neither five fields nor six"),
    ({"cron": "* * * * * * *"}, "has neither five fields nor six"),
    ({"cron": "\x1b[2J * * * *"}, r"has '\\u001b\[2J' as its minute"),
    ({"cron": "1," * 600 + "1 * * * *"}, "is 1209 characters long, more than 1000"),
    ({"cron": None}, "cron of schedule s is null"),
    ({"timezone": "Mars"}, "timezone 'Mars' is unknown"),
    ({"timezone": "europe/berlin"}, "timezone 'europe/berlin' is unknown"),
    ({"timezone": "EST5EDT4,M3.2.0,M11.1.0"}, "is unknown"),
    ({"timezone": "localtime"}, "is unknown"),
    ({"timezone": None}, "timezone null is unknown"),
    ({"name": "n" * 10_000}, "has 10000 characters, more than 200"),
    ({"name": " \t"}, "the name of a schedule is empty"),
    ({"name": "a\nb"}, r"the name of schedule a\\u000ab has a control character"),
    ({"name": None}, "the name of a schedule is empty"),
    ({"overlap": "no"}, "overlap is 'no'"),
    ({"catch_up": "some"}, "catch_up is 'some'"),
    ({"jitter_seconds": -1}, "jitter_seconds is -1"),
    ({"max_failures": 0}, "max_failures is 0"),
    ({"queue": "Not A Queue"}, "queue 'Not A Queue' is not a queue name"),
    ({"timeout_seconds": 0}, "timeout_seconds is 0"),
    ({"max_retries": -1}, "max_retries is -1"),
    ({"text": " "}, "task_description is empty"),
    ({"concurrency_key": "k" * 501}, "longer than 500 characters"),
]


def test_schedule_that_cannot_work_is_refused(db: psycopg.Connection) -> None:
    schedules.add(db, "there")
    for given, words in REFUSED:
        with pytest.raises(errors.CheckViolation, match=words) as refused:
            schedules.add(db, **given)  # type: ignore[arg-type]
        assert refused.value.diag.message_hint, given
        if "name" not in given:
            column = "task_description" if "text" in given else next(iter(given))
            with pytest.raises(errors.CheckViolation, match=words.replace("schedule s", "schedule there")):
                db.execute(f"update agent_schedules set {column} = %s", [next(iter(given.values()))])
    assert db.execute("select count(*) from agent_tasks").fetchone() == (0,), "what was tried is taken back"
    assert db.execute("select array_agg(name) from agent_schedules").fetchone() == (["there"],)


def test_trial_of_a_schedules_task_leaves_nothing(db: psycopg.Connection) -> None:
    db.execute("listen turbo_q_default")
    db.execute("insert into agent_queues (queue, paused) values ('default', false)")
    schedules.add(db)
    assert [note.channel for note in db.notifies(timeout=0.1)] == []
    for table in ("agent_tasks", "agent_actions", "agent_unsettled"):
        assert db.execute(f"select count(*) from {table}").fetchone() == (0,)


def test_rule_of_the_deployment_is_met_when_it_is_written(db: psycopg.Connection) -> None:
    db.execute("alter table agent_tasks add constraint short check (length(task_description) < 10)")
    with pytest.raises(errors.CheckViolation, match="short"):
        schedules.add(db, text="x" * 10)
    schedules.add(db, text="x" * 9)


def fields() -> Iterator[str]:
    """Fields that may be right, and some that are not."""
    chosen = random.Random(18)
    parts = [
        "*",
        "5",
        "0-5",
        "5-2",
        "*/7",
        "3/4",
        "61",
        "7",
        "31",
        "12",
        "JAN",
        "MON-FRI",
        "fri",
        "L",
        "LW",
        "5L",
        "2#3",
        "2#6",
        "*/0",
        "05",
    ]
    parts += [
        "",
        "-",
        "?",
        "1-",
        "*/",
        "1,2,30",
        "L/2",
        "0-0",
        "8",
        "LW,3",
        "24",
        "1-5/2",
        "MON#1",
        "x",
        "1--2",
        "5,",
        "#",
        "000059",
        "1.5",
    ]
    for _ in range(400):
        yield " ".join(chosen.choice(parts) for _ in range(chosen.choice([5, 5, 5, 6])))
    for part in parts:
        for place in range(5):
            yield " ".join(["1"] * place + [part] + ["1"] * (4 - place))


def test_database_refuses_no_expression_that_cron_knows(db: psycopg.Connection) -> None:
    """And takes few that it does not: ranges that run backwards, days that no month has."""
    only_worker = both = 0
    for cron in fields():
        try:
            timetable(cron)
            known = True
        except ScheduleError:
            known = False
        (taken,) = db.execute(
            "select bool_and(turbo_is_cron_field(f, (n + 6 - many)::int)) and max(many) in (5, 6)"
            "  from (select f, n, count(*) over () as many"
            "          from regexp_split_to_table(trim(%s), '[ ]+') with ordinality x(f, n)) t",
            [cron],
        ).fetchone() or (None,)
        assert taken or not known, f"cronsim takes {cron!r}"
        only_worker += bool(taken and not known)
        both += bool(taken and known)
        if taken and not known:
            assert "5-2" in cron or "31" in cron or "L" in cron.split()[-3], cron
    assert both > 50
    assert only_worker > 3


# ── what is turbo's own ─────────────────────────────────────────────────────────────────────────────────────────────


def test_insert_cannot_set_what_is_turbos(db: psycopg.Connection) -> None:
    schedules.add(
        db, created_by="somebody", since="1999-01-01", next_at="1999-01-01", last_at="1999-01-01", fired_at="1999-01-01",
        failures=9, error="x", rev=7, skipped=3, open_slots=["1999-01-01"], created_at="1999-01-01",
    )  # fmt: skip
    row = schedules.row(db)
    assert row["created_by"] == db.info.user
    assert (row["next_at"], row["last_at"], row["fired_at"], row["error"]) == (None, None, None, None)
    assert (row["failures"], row["rev"], row["skipped"], row["open_slots"]) == (0, 0, 0, [])
    assert row["since"].year > 2000
    assert row["created_at"].year > 2000


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("name = 'other'", errors.CheckViolation, "the name of schedule s cannot change"),
        ("created_by = 'other'", errors.CheckViolation, "created_by of schedule s cannot change"),
        ("rev = 9", errors.SerializationFailure, "has changed since it was read: its rev is 1, not 9"),
        ("rev = null", errors.SerializationFailure, "its rev is 1, not null"),
    ],
)
def test_edit_of_what_stays_is_refused(
    db: psycopg.Connection, change: str, error: type[psycopg.Error], words: str
) -> None:
    schedules.add(db)
    db.execute("update agent_schedules set timezone = 'Europe/Berlin'")
    with pytest.raises(error, match=words):
        db.execute(f"update agent_schedules set {change}")


def test_stale_row_of_a_mapper_is_refused(db: psycopg.Connection) -> None:
    schedules.add(db)
    read = schedules.row(db)
    db.execute("update agent_schedules set task_description = 'new', rev = %s", [read["rev"]])
    with pytest.raises(errors.SerializationFailure, match="has changed since it was read"):
        db.execute("update agent_schedules set jitter_seconds = 5, rev = %s", [read["rev"]])


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "9999-01-01"])
def test_no_moment_of_a_schedule_is_infinite(db: psycopg.Connection, moment: str) -> None:
    schedules.add(db)
    for column in ("next_at", "last_at", "fired_at", "since"):
        with pytest.raises(errors.CheckViolation):
            db.execute(f"update agent_schedules set {column} = %s", [moment])


async def test_edit_mends_and_begins_anew(db: psycopg.Connection, dsn: str) -> None:
    async with schedules.scheduling(dsn) as hand:
        schedules.add(db, cron="0 0 30 2 *", max_failures=3)
        await hand.at()
        row = schedules.row(db)
        assert "bad day-of-month" in row["error"]
        assert row["next_at"] is None
        assert await hand.at() == 0
        assert schedules.row(db)["rev"] == row["rev"], "it is left alone until somebody mends it"
        db.execute("update agent_schedules set cron = '0 0 28 2 *'")
        assert schedules.row(db)["error"] is None
        await hand.at()
        assert schedules.row(db)["next_at"].day == 28
        db.execute("update agent_schedules set failures = 2, error = 'x', rev = rev + 1")
        before = schedules.row(db)["next_at"]
        db.execute("update agent_schedules set task_description = 'better'")
        row = schedules.row(db)
        assert (row["error"], row["failures"], row["next_at"]) == (None, 0, before), "the slots stay as they are"


def test_paused_schedule_says_why_until_it_is_resumed(db: psycopg.Connection) -> None:
    schedules.add(db)
    db.execute("update agent_schedules set enabled = false, error = 'paused itself', failures = 3, rev = rev + 1")
    db.execute("update agent_schedules set task_description = 'better'")
    assert schedules.row(db)["error"] == "paused itself"
    since = schedules.row(db)["since"]
    db.execute("update agent_schedules set enabled = true")
    row = schedules.row(db)
    assert (row["error"], row["failures"]) == (None, 0)
    assert row["since"] > since, "what came while it was paused is not caught up"


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_run_by_hand_leaves_the_slots_alone(db: psycopg.Connection, dsn: str) -> None:
    async with schedules.scheduling(dsn) as hand:
        schedules.add(db, "nightly", task_type="report", input_data='{"a": 1}', queue="q", max_retries=0, enabled=False)
        before = schedules.row(db, "nightly")
        runs = [db.execute("select turbo_run_schedule('nightly')").fetchone() for _ in range(2)]
        assert len(set(runs)) == 2
        row = db.execute(
            "select task_type, input_data, queue, max_retries, timeout_seconds, status, submitted_by from agent_tasks limit 1"
        ).fetchone()
        assert row == ("report", {"a": 1}, "q", 0, 300, "pending", db.info.user)
        after = schedules.row(db, "nightly")
        assert after["run_at"] is not None
        unchanged = ("next_at", "last_at", "fired_at", "enabled", "failures", "open_slots")
        assert [before[name] for name in unchanged] == [after[name] for name in unchanged]
        db.execute("update agent_schedules set enabled = true")
        schedules.begin(db, schedules.utc(2026, 1, 1), "nightly")
        assert await hand.at(schedules.utc(2026, 1, 1, 3)) == 0, "one of its tasks is not over"
        db.execute("update agent_tasks set status = 'completed'")
        assert await hand.at(schedules.utc(2026, 1, 2, 3)) == 1


def test_run_of_no_schedule_is_refused(db: psycopg.Connection) -> None:
    for name in ("x", None):
        with pytest.raises(errors.NoDataFound, match="there is no schedule"):
            db.execute("select turbo_run_schedule(%s)", [name])


def test_roles_write_what_is_theirs(dsn: str, db: psycopg.Connection) -> None:
    grant_roles(dsn)
    schedules.add(db, "mine")
    with login(dsn, "turbo_admin") as admin, psycopg.connect(admin, autocommit=True) as member:
        schedules.add(member, "nightly")
        assert schedules.row(db, "nightly")["created_by"] == member.info.user
        member.execute("select turbo_run_schedule('nightly'), turbo_run_schedule('mine')")
        submitters = db.execute("select submitted_by from agent_tasks order by task_id").fetchall()
        assert submitters == [(db.info.user,), (member.info.user,)], "in the name of whoever wrote the schedule"
        member.execute("update agent_schedules set enabled = false where name = 'mine'")
        member.execute("delete from agent_schedules where name = 'mine'")
        for column in ("created_by", "next_at", "error", "rev", "failures"):
            with pytest.raises(errors.InsufficientPrivilege):
                member.execute(f"update agent_schedules set {column} = default")
    for role in ("turbo_submitter", "turbo_worker", "turbo_reader", "turbo_approver"):
        with login(dsn, role) as other, psycopg.connect(other, autocommit=True) as member:
            for statement in (
                "select turbo_run_schedule('nightly')",
                "update agent_schedules set enabled = true",
                "delete from agent_schedules",
                "insert into agent_schedules (name, cron, task_description) values ('x', '0 3 * * *', 'x')",
            ):
                with pytest.raises(errors.InsufficientPrivilege):
                    member.execute(statement)


def test_submitter_cannot_take_the_key_of_a_slot(dsn: str, db: psycopg.Connection) -> None:
    grant_roles(dsn)
    with login(dsn, "turbo_submitter") as dsn_, psycopg.connect(dsn_, autocommit=True) as member:
        for key in ("schedule nightly@2026-11-27T03:00:00Z", "schedule "):
            with pytest.raises(errors.CheckViolation, match="are turbo's own"):
                member.execute("insert into agent_tasks (task_description, idempotency_key) values ('x', %s)", [key])


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        ("text", ""),
        ("varchar(50)", ""),
        ("varchar(36)", ""),
        ("uuid", ""),
        ("uuid", "default gen_random_uuid()"),
        ("int", "generated always as identity"),
        ("text", "default 'own-' || md5(random()::text)"),
    ],
)
def test_adopted_table_gets_a_schedules_tasks(empty_dsn: str, kind: str, default: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute(ADOPTED.format(kind=kind, default=default))
        migrate(empty_dsn)
        schedules.add(db, "nightly", input_data='{"a": 1}')
        db.execute("select turbo_run_schedule('nightly')")
        row = db.execute("select task_type, timeout_seconds, input_data, task_id::text from agent_tasks").fetchone()
        assert row is not None
        assert row[:3] == ("mine", 77, {"a": 1}), "what it leaves out is the default of that table"
        if default.startswith("default 'own"):
            assert row[3].startswith("own-")
        elif kind in ("text", "varchar(50)"):
            assert row[3].startswith("nightly-2")
        with pytest.raises(psycopg.Error, match="too long for type character varying"):
            schedules.add(db, "other", task_type="x" * 21)


def test_restored_schedule_is_as_it_was(db: psycopg.Connection) -> None:
    """COPY by the owner, as pg_restore sends it. Slots that fired before the dump do not fire again."""
    schedules.add(db, "s", overlap="queue")
    db.execute(
        "update agent_schedules set next_at = '2026-01-02 03:00+00', last_at = '2026-01-01 03:00+00', failures = 2, error = 'x',"
        " created_by = 'somebody', created_at = '2025-01-01', open_slots = '{2026-01-01 03:00+00}', rev = rev + 1"
    )
    before = schedules.row(db)
    with db.cursor().copy("copy agent_schedules to stdout") as out:
        dump = b"".join(bytes(block) for block in out)
    db.execute("delete from agent_schedules")
    with db.cursor().copy("copy agent_schedules from stdin") as into:
        into.write(dump)
    assert schedules.row(db) == before
