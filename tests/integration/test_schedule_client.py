"""Schedules, as a program uses them. The same tests for both clients."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.test_python_client import KINDS, Blocking
from turbo import BadField, Client, ScheduleExists, ScheduleRefused, UnknownSchedule
from turbo.domain.schedule import slot_key

HUGE = "x" * 10_000


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def test_schedule_is_added_and_read_with_its_slots(client: Any) -> None:
    added = client.schedules.add(
        "nightly",
        "0 3 * * *",
        "Triage",
        timezone="Europe/Berlin",
        overlap="queue",
        catch_up="all",
        jitter_seconds=60,
        max_failures=3,
        task_type="triage",
        queue="night",
        priority=7,
        input_data={"a": [1, None]},
        timeout_seconds=900,
        max_retries=0,
        concurrency_key="k",
    )
    found = client.schedules.get("nightly")
    assert (found.cron, found.timezone, found.enabled, found.overlap, found.catch_up, found.jitter_seconds) == (
        "0 3 * * *", "Europe/Berlin", True, "queue", "all", 60,
    )  # fmt: skip
    assert (found.max_failures, found.task_type, found.queue, found.task_priority) == (3, "triage", "night", 7)
    assert (found.input_data, found.timeout_seconds, found.max_retries) == ({"a": [1, None]}, 900, 0)
    assert (found.concurrency_key, found.created_by, found.state) == ("k", "postgres", "on")
    assert [(slot.hour, slot.minute) for slot in added.next_slots] == [(3, 0)] * 3
    assert timedelta(0) < added.next_slots[0] - added.now < timedelta(hours=26)
    assert {slot.tzname() for slot in found.next_slots} <= {"CET", "CEST"}
    plain = client.schedules.add("plain", "*/5 * * * * *", HUGE, input_data="x")
    assert (plain.timezone, plain.overlap, plain.catch_up, plain.queue) == ("UTC", "skip", "one", None)
    both = client.schedules.list()
    assert [(one.name, len(one.task_description), one.input_data) for one in both] == [
        ("nightly", 6, None),
        ("plain", 200, None),
    ]
    assert [one.name for one in client.schedules.list(limit=1)] == ["nightly"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"cron": "61 3 * * *"}, r"cron: '61 3 \* \* \*' is not a cron expression"),
    ({"cron": "0 3 * *"}, "cron: .* is not a cron expression"),
    ({"cron": "@Daily"}, r"cron: is '@Daily': write '0 0 \* \* \*'"),
    ({"cron": ""}, "cron: '' is not a cron expression"),
    ({"cron": "30 4 30 2 *"}, "cron: '30 4 30 2"),
    ({"cron": HUGE}, "cron: 'x{60}…' has 10000 characters, more than 1000"),
    ({"cron": None}, "cron: is missing"),
    ({"cron": "0 3 * * *\0"}, "cron: contains a NUL"),
    ({"timezone": "Mars/Phobos"}, "timezone: 'Mars/Phobos' is unknown"),
    ({"timezone": ""}, "timezone: '' is unknown"),
    ({"timezone": "../../etc/passwd"}, "timezone: .* is unknown"),
    ({"name": HUGE}, "name: has 10000 characters, more than 200"),
    ({"name": " "}, "name: is empty"),
    ({"name": "a\x1b[2Jb"}, r"name: 'a\\x1b\[2Jb' has a control character"),
    ({"name": "a\ud800"}, "name: contains a lone surrogate"),
    ({"text": " "}, "task_description: is empty"),
    ({"overlap": "no"}, "overlap: is 'no': write skip, queue"),
    ({"catch_up": "two"}, "catch_up: is 'two': write none, one, all"),
    ({"jitter_seconds": -1}, "jitter_seconds: is -1: write at least 0"),
    ({"jitter_seconds": 86401}, "jitter_seconds: is 86401: write at most 86400"),
    ({"jitter_seconds": 1.5}, "jitter_seconds: must be a whole number"),
    ({"max_failures": 0}, "max_failures: is 0: write at least 1"),
    ({"queue": "BAD Q"}, "queue: 'BAD Q' is not a queue name"),
    ({"timeout_seconds": 0}, "timeout_seconds: is 0: write at least 1"),
    ({"input_data": float("nan")}, "input_data: cannot be stored as JSON"),
]  # fmt: skip


def test_bad_values_are_refused_before_the_database(client: Any) -> None:
    for wrong, said in BAD:
        with pytest.raises(BadField, match=said):
            client.schedules.add(**{"name": "n", "cron": "0 3 * * *", "text": "x", **wrong})
    assert client.schedules.list() == []


def test_what_only_the_database_knows_is_refused_in_words(client: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("alter table agent_tasks add constraint no_night check (queue <> 'night')")
    with pytest.raises(ScheduleRefused, match="no_night"):
        client.schedules.add("n", "0 3 * * *", "x", queue="night")
    client.schedules.add("n", "0 3 * * *", "x")
    with pytest.raises(ScheduleExists, match="there is a schedule 'n' already"):
        client.schedules.add("n", "0 4 * * *", "x")
    assert client.schedules.get("n").cron == "0 3 * * *"


def test_replace_changes_what_differs_and_nothing_else(client: Any, db: psycopg.Connection) -> None:
    def rev() -> Any:
        found = db.execute("select rev, since from agent_schedules").fetchone()
        assert found is not None
        return found

    client.schedules.add("n", "0 3 * * *", "x", queue="night", max_failures=2, replace=True)
    first = rev()
    client.schedules.add("n", "0 3 * * *", "x", queue="night", max_failures=2, replace=True)
    assert rev() == first, "nothing differs: nothing is written"
    changed = client.schedules.add("n", "0 3 * * *", "y", replace=True)
    assert (changed.task_description, changed.queue, changed.max_failures) == ("y", None, None)
    assert rev() == (first[0] + 1, first[1]), "its slots count from where they did"
    client.schedules.pause("n")
    changed = client.schedules.add("n", "30 3 * * *", "y", replace=True)
    assert (changed.cron, changed.enabled) == ("30 3 * * *", False), "what is paused stays paused"
    client.schedules.resume("n")
    assert not client.schedules.add("n", "30 3 * * *", "y", enabled=False, replace=True).enabled


def test_pause_resume_and_remove_are_safe_to_repeat(client: Any, db: psycopg.Connection) -> None:
    client.schedules.add("n", "0 3 * * *", "x")
    assert (client.schedules.resume("n"), client.schedules.pause("n"), client.schedules.pause("n")) == (
        False,
        True,
        False,
    )
    paused = client.schedules.get("n")
    assert (paused.state, paused.next_slots, paused.late_seconds) == ("paused", (), None)
    assert client.schedules.resume("n")
    db.execute("update agent_schedules set error = 'no', rev = rev + 1")
    assert client.schedules.get("n").state == "error"
    assert client.schedules.resume("n"), "one in error is tried again"
    assert client.schedules.get("n").error is None
    client.schedules.remove("n")
    for call in ("get", "pause", "resume", "run", "remove"):
        for name in ("n", HUGE, "\0", "\ud800", ""):
            with pytest.raises(UnknownSchedule, match="no schedule '"):
                getattr(client.schedules, call)(name)


def test_run_by_hand_is_listed_among_its_tasks(client: Any, db: psycopg.Connection) -> None:
    """Also of names that differ in what a collation may leave out."""
    for name in ("a-b", "ab", "a b", "a@b", "a%b"):
        client.schedules.add(name, "0 3 * * *", "x", enabled=False)
        task_id = client.schedules.run(name)
        slot = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
        db.execute("set session_replication_role = replica")
        db.execute(
            "insert into agent_tasks (task_id, task_description, idempotency_key, status) values (%s, 'x', %s, 'failed')",
            [f"{name} old", slot_key(name, slot)],
        )
        first, second = client.schedules.tasks(name)
        assert (first.task_id, first.by_hand, first.status) == (task_id, True, "pending")
        assert first.slot == client.schedules.get(name).run_at
        assert (second.task_id, second.slot, second.by_hand) == (f"{name} old", slot, False)
    assert len(client.schedules.tasks("a-b", limit=1)) == 1
    client.schedules.remove("a-b")
    assert len(client.schedules.tasks("a-b")) == 2


def test_slots_that_nobody_fires_are_late(client: Any, db: psycopg.Connection) -> None:
    client.schedules.add("n", "0 * * * *", "x")
    assert client.schedules.get("n").late_seconds is None
    db.execute("update agent_schedules set since = now() - interval '2 hours', rev = rev + 1")
    late = client.schedules.get("n")
    assert late.state == "late"
    assert 3600 <= late.late_seconds <= 7200
    assert late.next_slots[0] > late.now
    db.execute("update agent_schedules set next_at = now() - interval '5 minutes', rev = rev + 1")
    assert 300 <= client.schedules.get("n").late_seconds < 400


def test_row_that_only_python_refuses_says_so(client: Any, db: psycopg.Connection) -> None:
    """The database takes ranges that run backward; cronsim does not."""
    db.execute("insert into agent_schedules (name, cron, task_description) values ('n', '0 5-2 * * *', 'x')")
    found = client.schedules.get("n")
    assert (found.state, found.next_slots) == ("error", ())
    assert "cron '0 5-2 * * *' is not a cron expression" in str(found.error)


def test_names_for_completion_are_harmless(client: Any) -> None:
    for name in ("n_1", "n.2", "n_$(id)", "n ;id", "-n", "m"):
        client.schedules.add(name, "0 3 * * *", "x")
    assert client.schedules.names("n") == ["n.2", "n_1"]
    assert client.schedules.names("n_") == ["n_1"]
    assert client.schedules.names() == ["m", "n.2", "n_1"]
