"""What `turbo status`, `doctor` and the metrics say of schedules."""

import re

import psycopg
import pytest

from tests.integration.test_asking_metrics import gauges
from tests.integration.test_blocked_status import problems, worker
from tests.support import schedules
from tests.support.shell import Shell


@pytest.fixture
def live(shell: Shell) -> Shell:
    worker(shell, 99)
    return shell


def test_schedule_in_error_is_a_problem(live: Shell, db: psycopg.Connection) -> None:
    schedules.add(db, "bad one", cron="0 0 30 2 *")
    db.execute("update agent_schedules set error = 'cron never comes', rev = rev + 1")
    assert problems(live) == ["schedule bad one: cron never comes"]
    assert "turbo schedule show 'bad one'" in live("status").out
    assert "schedule bad one: cron never comes" in live("doctor").out
    db.execute("update agent_schedules set error = %s, rev = rev + 1", ["a\x1b[2J\n" + "x" * 5000])
    out = live("status").out
    assert "\x1b[2J" not in out
    assert len(out) < 3000


def test_schedule_that_paused_itself_is_a_problem(live: Shell, db: psycopg.Connection) -> None:
    schedules.add(db)
    db.execute(
        "update agent_schedules set enabled = false, error = 'paused itself after 3 failures in a row', rev = rev + 1"
    )
    assert problems(live) == ["schedule s paused itself after 3 failures in a row"]
    db.execute("update agent_schedules set enabled = true")
    assert problems(live) == []
    db.execute("update agent_schedules set enabled = false")
    assert problems(live) == [], "paused by a person"


def test_late_schedule_is_a_problem(live: Shell, db: psycopg.Connection) -> None:
    schedules.add(db)
    assert problems(live) == [], "a worker is about to compute its slot"
    db.execute("update agent_schedules set next_at = now() - interval '50 seconds'")
    assert problems(live) == []
    db.execute("update agent_schedules set next_at = now() - interval '5 minutes'")
    (found,) = problems(live)
    assert re.match(r"schedule s is 3\d\d s late: no worker has fired its slot", found)
    assert re.search(r"schedule s is 3\d\d s late", live("doctor").out)


def test_schedule_of_a_queue_that_nobody_serves_is_a_problem(live: Shell, db: psycopg.Connection) -> None:
    schedules.add(db, queue="night")
    assert problems(live) == ["schedule s inserts into queue night; no live worker serves it"]
    assert "inserts into queue night" in live("doctor").out
    db.execute("update agent_workers set queues = '{night}'")
    assert problems(live) == []
    db.execute("update agent_workers set queues = '{other}'")
    db.execute("update agent_schedules set enabled = false")
    assert problems(live) == []


def test_many_problems_are_one_line_more(live: Shell, db: psycopg.Connection) -> None:
    for n in range(60):
        schedules.add(db, f"s{n:02}", queue="night")
    found = problems(live)
    assert len(found) == 51
    assert found[-1] == "10 more schedules need a person"
    assert "and 59 more need a person" in live("doctor").out


def test_doctor_counts_schedules(live: Shell, db: psycopg.Connection) -> None:
    assert "there are no schedules" in live("doctor").out
    schedules.add(db, "a")
    schedules.add(db, "b", enabled=False)
    assert "2 schedules, 1 paused" in live("doctor").out


def test_gauges_count_schedules(dsn: str, db: psycopg.Connection) -> None:
    for name in ("on", "paused", "bad", "over"):
        schedules.add(db, name, enabled=name != "paused")
    db.execute("update agent_schedules set error = 'x', rev = rev + 1 where name = 'bad'")
    db.execute("update agent_schedules set error = 'x', enabled = false, rev = rev + 1 where name = 'over'")
    db.execute("update agent_schedules set next_at = now() - interval '100 seconds' where name = 'on'")
    page = gauges(dsn)
    found = {state: page[f'turbo_schedules{{state="{state}"}}'] for state in ("on", "paused", "error")}
    assert found == {"on": 1, "paused": 1, "error": 2}
    assert 100 <= page["turbo_schedule_late_seconds"] < 130
