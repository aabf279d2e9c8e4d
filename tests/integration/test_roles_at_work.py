"""Turbo, used by people and programs that are members of its roles and of nothing else."""

import json
import os
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from tests.support import prefork
from tests.support.logins import login, user
from tests.support.prefork import TURBO
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import Client
from turbo.migrate import grant_roles


@pytest.fixture
def granted(dsn: str) -> str:
    grant_roles(dsn)
    return dsn


@pytest.fixture
def submitter(granted: str) -> Iterator[str]:
    with login(granted, "turbo_submitter") as dsn:
        yield dsn


@pytest.fixture
def admin(granted: str) -> Iterator[str]:
    with login(granted, "turbo_admin") as dsn:
        yield dsn


@pytest.fixture
def reader(granted: str) -> Iterator[str]:
    with login(granted, "turbo_reader") as dsn:
        yield dsn


@pytest.fixture
def fleet(granted: str) -> Iterator[str]:
    """What a worker connects with."""
    with login(granted, "turbo_worker") as dsn:
        yield dsn


def turbo(dsn: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return prefork.run_text([TURBO, *arguments], env={**os.environ, "TURBO_DSN": dsn})


def done(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_turbo_worker_role_covers_the_life_of_a_worker(bench: Bench, fleet: str) -> None:
    """Claims, records, retries, stops for a hand edit, promotes, is killed, is rescued from, drains."""
    first = bench.start(dsn=fleet, drain_seconds=1).listening()
    bench.insert("plain")
    bench.insert("again", {"exit": 1}, max_retries=1)
    bench.insert("keyed", concurrency_key="one")
    bench.sql(
        "insert into agent_tasks (task_id, task_description, run_after) values ('later', 'x', now() + interval '1 second')"
    )
    for task, status in (("plain", "completed"), ("again", "failed"), ("keyed", "completed"), ("later", "completed")):
        bench.wait(task, status)
    bench.insert("stopped", {"seconds": 600})
    until(lambda: bench.runs()["stopped"] == 1, what="its program runs")
    bench.sql("update agent_tasks set status = 'cancelled' where task_id = 'stopped'")
    bench.wait("stopped", "cancelled")

    bench.insert("survivor", {"seconds": 600})
    until(lambda: bench.runs()["survivor"] == 1, what="its program runs")
    first.kill()
    second = bench.start(dsn=fleet, drain_seconds=1).listening()
    until(lambda: "rescued" in bench.trail("survivor"), 30, "the dead worker's task is taken back")
    until(lambda: bench.runs()["survivor"] == 2, what="it runs again")
    assert second.stop() == 0
    assert bench.sql("select status from agent_tasks where task_id = 'survivor'") == [("pending",)]
    assert bench.sql("select worker_id from agent_workers where state <> 'dead'") == []
    assert bench.sql("select actor from agent_actions where action_type = 'edited'") != []
    assert "permission denied" not in bench.logs()
    assert bench.runs() == {"plain": 1, "again": 2, "keyed": 1, "later": 1, "stopped": 1, "survivor": 2}


def test_worker_without_the_role_names_the_missing_right(bench: Bench, granted: str) -> None:
    """The control: what the test above shows is the role's doing."""
    with login(granted, "turbo_reader") as dsn:
        worker = bench.start(dsn=dsn)
        worker.said("permission denied for table")


def test_submitter_submits_waits_and_follows(bench: Bench, fleet: str, submitter: str) -> None:
    bench.start(dsn=fleet).listening()
    answer = json.loads(done(turbo(submitter, "submit", "count", "--type", "echo", "--wait", "--json")))
    assert answer["status"] == "completed"
    assert "completed" in done(turbo(submitter, "show", answer["task_id"]))
    assert answer["task_id"] in done(turbo(submitter, "tasks"))
    with Client(submitter) as client:
        assert [view.status for view in client.progress(answer["task_id"], timeout=20)] == ["completed"]
    with psycopg.connect(submitter, autocommit=True) as db:
        row = db.execute(
            "insert into agent_tasks (task_description, task_type) values ('x', 'noop') returning *"
        ).fetchone()
        assert row is not None
        db.execute(
            "INSERT INTO agent_tasks (task_id, task_type, task_description, task_priority, status, timeout_seconds,"
            " max_retries) VALUES ('my_task_1', 'noop', 'Analyze security of auth.py module', 8, 'pending', 300, 3)"
        )
        with db.cursor().copy("copy agent_tasks (task_id, task_description, task_type) from stdin") as copy:
            copy.write_row(("copied", "x", "noop"))
        again = "insert into agent_tasks (task_description, task_type, idempotency_key) values ('x', 'noop', 'k')"
        assert db.execute(f"{again} on conflict (idempotency_key) do nothing").rowcount == 1
        assert db.execute(f"{again} on conflict (idempotency_key) do nothing").rowcount == 0
    for task in ("my_task_1", "copied", row[0]):
        bench.wait(task, "completed")


@pytest.mark.parametrize("arguments", [("cancel", "t"), ("retry", "t"), ("pause", "--queue", "default")])
def test_submitter_changes_nothing(granted: str, submitter: str, arguments: tuple[str, ...]) -> None:
    with psycopg.connect(granted, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        result = turbo(submitter, *arguments)
        assert result.returncode == 1
        assert "this role may not " in result.stderr
        assert (
            "turbo_admin may (GRANT turbo_admin TO ..., after turbo migrate --roles); permission denied"
            in result.stderr
        )
        assert db.execute("select status from agent_tasks").fetchall() == [("pending",)]
        assert db.execute("select * from agent_queues").fetchall() == []


@pytest.mark.parametrize(
    ("role", "arguments", "may"),
    [
        ("turbo_submitter", ("status",), "turbo_reader"),
        ("turbo_submitter", ("top", "--once"), "turbo_reader"),
        ("turbo_submitter", ("costs",), "turbo_reader"),
        ("turbo_submitter", ("schedule", "list"), "turbo_reader"),
        ("turbo_approver", ("graph", "t"), "turbo_reader"),
        ("turbo_approver", ("logs", "t"), "turbo_reader"),
        ("turbo_reader", ("submit", "x"), "turbo_submitter"),
        ("turbo_reader", ("reply", "t", "x"), "turbo_admin"),
        ("turbo_reader", ("tell", "t", "x"), "turbo_admin"),
        ("turbo_worker", ("questions",), "turbo_reader"),
        ("turbo_worker", ("approve", "t"), "turbo_approver"),
    ],
)
def test_refused_command_names_the_role_that_may(granted: str, role: str, arguments: tuple[str, ...], may: str) -> None:
    with psycopg.connect(granted, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
    with login(granted, role) as dsn:
        result = turbo(dsn, *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert f": {may} may (GRANT {may} TO ..., after turbo migrate --roles)" in result.stderr


def test_doctor_of_a_worker_skips_what_it_may_not_see(fleet: str) -> None:
    result = turbo(fleet, "doctor")
    assert result.returncode == 0, result.stdout
    assert "this role may not read agent_schedules: turbo_reader may" in result.stdout


def test_reader_reads_everything_and_changes_nothing(granted: str, reader: str) -> None:
    with psycopg.connect(granted, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'read me')")
        assert "t" in done(turbo(reader, "tasks"))
        assert "read me" in done(turbo(reader, "show", "t"))
        assert turbo(reader, "submit", "x").returncode == 1
        assert turbo(reader, "cancel", "t").returncode == 1
        assert db.execute("select task_id, status from agent_tasks").fetchall() == [("t", "pending")]


def test_admin_pauses_cancels_retries_and_edits(bench: Bench, fleet: str, admin: str) -> None:
    bench.start(dsn=fleet).listening()
    done(turbo(admin, "pause", "--queue", "default"))
    done(turbo(admin, "pause", "--account", "max"))
    task = json.loads(done(turbo(admin, "submit", "x", "--type", "noop", "--json")))["task_id"]
    bench.insert("other", task_type="noop")
    done(turbo(admin, "cancel", "other"))
    bench.wait("other", "cancelled")
    assert bench.sql("select status from agent_tasks where task_id = %s", task) == [("pending",)]
    done(turbo(admin, "resume", "--queue", "default"))
    done(turbo(admin, "resume", "--account", "max"))
    bench.wait(task, "completed")
    done(turbo(admin, "retry", "other"))
    bench.wait("other", "completed")

    bench.insert("long", {"seconds": 600})
    bench.wait("long", "running")
    with psycopg.connect(admin, autocommit=True) as db:
        with pytest.raises(errors.ObjectInUse):
            db.execute("delete from agent_tasks where task_id = 'long'")
        db.execute("update agent_tasks set status = 'failed', error_message = 'enough' where task_id = 'long'")
        bench.wait("long", "failed")
        db.execute("update agent_tasks set task_priority = 9, agent_session_id = null where task_id = 'long'")
        assert db.execute("delete from agent_tasks where task_id = 'long'").rowcount == 1
        who = "select distinct actor from agent_actions where action_type = 'edited'"
        assert db.execute(who).fetchall() == [(user(admin),)]
        for own in ("fencing_token = 1", "turbo_rev = turbo_rev + 1", "assigned_worker_id = 'me'", "infra_count = 0"):
            with pytest.raises(errors.InsufficientPrivilege):
                db.execute(f"update agent_tasks set {own}")
        with pytest.raises(errors.InsufficientPrivilege):
            db.execute("delete from agent_actions")
