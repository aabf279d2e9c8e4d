"""Limits of keys through the clients, the command line and psql, and what is shown of them."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.test_asking_metrics import gauges
from tests.integration.test_blocked_status import worker
from tests.integration.test_python_client import KINDS, Blocking
from tests.support.limits import insert_keyed, set_limit
from tests.support.shell import Shell
from turbo import BadField, Client, MayNotLimit, UnknownLimit


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def run(db: psycopg.Connection, *task_ids: str) -> None:
    """They are claimed, each on the next place."""
    for place, task_id in enumerate(task_ids):
        db.execute(
            "update agent_tasks set status = 'running', key_slot = nullif(%s, 0), fencing_token = 1, turbo_rev = turbo_rev + 1,"
            " assigned_worker_id = 'w' where task_id = %s",
            [place, task_id],
        )


def test_limit_is_set_listed_changed_and_removed(db: psycopg.Connection, client: Any) -> None:
    insert_keyed(db, "gpu", *"abcd")
    made = client.limits.set("gpu", 2)
    assert (made.limit, made.running, made.waiting, made.full) == (2, 0, 4, False)
    run(db, "a", "b")
    (found,) = client.limits.list()
    assert (found.concurrency_key, found.running, found.waiting, found.full) == ("gpu", 2, 2, True)
    assert client.limits.set("gpu", 1).limit == 1
    assert client.limits.keys("g") == ["gpu"]
    client.limits.remove("gpu")
    for key in ("gpu", "\0"):
        with pytest.raises(UnknownLimit):
            client.limits.remove(key)
        with pytest.raises(UnknownLimit):
            client.limits.get(key)
    key = client.limits.of("gpu")
    assert (key.limit, key.running) == (1, 2), "what runs goes on"


@pytest.mark.parametrize(
    ("key", "running"),
    [("k", 0), ("k", -1), ("k", 1001), ("k", 1.5), ("k", "3"), ("k", True), ("k", None), (None, 3), ("k" * 501, 3)],
)
def test_bad_limit_is_refused_by_the_client(client: Any, key: Any, running: Any) -> None:
    with pytest.raises(BadField):
        client.limits.set(key, running)


@pytest.mark.parametrize("running", ["0", "-3", "1001", "null"])
def test_bad_limit_is_refused_by_the_database(db: psycopg.Connection, running: str) -> None:
    set_limit(db, "k", 3)
    for query in (
        f"insert into agent_limits values ('gpu', {running})",
        f"update agent_limits set running = {running}",
    ):
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            db.execute(query.encode())
        assert f"is {running}" in str(caught.value)
        assert "Write 1 to 1000" in (caught.value.diag.message_hint or "")
    with pytest.raises(psycopg.errors.CheckViolation, match="has 501 characters"):
        db.execute("insert into agent_limits values (repeat('k', 501), 3)")
    with pytest.raises(psycopg.errors.CheckViolation, match="concurrency_key of a limit is null"):
        db.execute("insert into agent_limits values (null, 3)")


def test_role_that_may_not_is_told_who_may(db: psycopg.Connection) -> None:
    db.execute("create role nobody_of_limits login")
    try:
        info = db.info
        with Client(f"host={info.host} port={info.port} dbname={info.dbname} user=nobody_of_limits") as client:
            with pytest.raises(MayNotLimit, match="turbo_admin may"):
                client.limits.set("k", 1)
            with pytest.raises(MayNotLimit, match="turbo_reader may"):
                client.limits.list()
    finally:
        db.execute("drop role nobody_of_limits")


def test_turbo_limit_on_the_command_line(db: psycopg.Connection, shell: Shell) -> None:
    assert "no limits" in shell("limit", "list").err
    insert_keyed(db, "gpu", *"abc")
    done = shell("limit", "set", "gpu", "2")
    assert (done.code, done.out) == (0, "gpu: 2 at a time, 0 running, 3 waiting\n")
    assert shell("limit", "list", "--json").json == [
        {
            "concurrency_key": "gpu",
            "limit": 2,
            "running": 0,
            "waiting": 3,
        }
    ]
    assert shell("limit", "list").lines[1].split() == ["gpu", "0", "2", "3"]
    shell("limit", "set", "gpu", "0").one_line(
        2, "running: is 0: write 1 to 1000; to start no task at all, pause the queue"
    )
    done = shell("limit", "remove", "gpu", "gone")
    assert (done.code, done.out) == (1, "gpu: removed\n")
    assert "gone: no such limit; `turbo limit list` lists them" in done.err


def test_status_and_show_say_that_a_key_is_full(db: psycopg.Connection, shell: Shell) -> None:
    insert_keyed(db, "gpu", *"abcde")
    insert_keyed(db, "repo", "x", "y")
    set_limit(db, "gpu", 3)
    run(db, "a", "b")
    run(db, "x")
    assert [one["concurrency_key"] for one in shell("status", "--json").json["full_keys"]] == ["repo"]
    assert "waits for" not in shell("show", "c").out
    run(db, "a", "b", "c")
    found = shell("status", "--json").json["full_keys"]
    assert [(one["concurrency_key"], one["running"], one["limit"], one["waiting"]) for one in found] == [
        ("gpu", 3, 3, 2),
        ("repo", 1, 1, 1),
    ]
    assert "tasks wait for keys of which as many run as may" in shell("status").out
    assert "its key, which is full: 3 of 3 running" in shell("show", "d").out
    assert "its key, which is full: 1 of 1 running" in shell("show", "y").out


def test_metrics_count_limits_and_places(dsn: str, db: psycopg.Connection) -> None:
    names = [f'turbo_key_limits{{state="{state}"}}' for state in ("free", "full")]
    names += [f'turbo_key_places{{state="{state}"}}' for state in ("free", "taken")]
    assert [gauges(dsn)[name] for name in names] == [0, 0, 0, 0]
    insert_keyed(db, "gpu", *"abc")
    insert_keyed(db, "repo", "x")
    for key, running in (("gpu", 2), ("repo", 5), ("unused", 7)):
        set_limit(db, key, running)
    run(db, "a", "b")
    run(db, "x")
    assert [gauges(dsn)[name] for name in names] == [2, 1, 11, 3]


def test_doctor_names_a_worker_that_knows_no_limits(db: psycopg.Connection, shell: Shell) -> None:
    worker(shell, 99)
    assert "no key has a limit" in shell("doctor").out
    set_limit(db, "gpu", 3)
    assert "1 key has a limit" in shell("doctor").out, "whether any task has this key or not"
    worker(shell, 22, "older")
    assert "worker w-older-1 is older, and knows no limits" in shell("doctor").out
