"""Each column of turbo's tables with each extreme value that the database takes: nobody else notices.

One worker and one look at everything: for each column and each value there is a row. What one of them breaks is broken for all.
"""

import contextlib
import json
import urllib.request
from typing import Any

import psycopg
import pytest

from tests.support.extremes import extremes
from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

ACCOUNTS = 200
BY_STATE = 50

Row = dict[str, str]
"""A row: SQL by column."""

WORKER: Row = {
    "worker_id": "'x'", "name": "'ghost'", "host": "'elsewhere'", "pid": "7", "version": "'1'", "slots": "2",
    "queues": "'{default,night}'", "accounts": "'{max}'", "idle": "true",
}  # fmt: skip
ACCOUNT: Row = {"account": "'x'", "host": "'here'"}
TASK: Row = {"task_id": "'x'", "task_type": "'noop'", "task_description": "'x'"}
PROGRESS: Row = {"task_id": "'x'", "fencing_token": "7", "worker_id": "'ghost'"}
CLOSED = ("open", "suspect", "paused", "half_open")
ENDED = ("completed", "pending", "scheduled", "running")


def plant(db: psycopg.Connection, table: str, row: Row, keys: list[str], *, bypass: bool = False) -> list[str]:
    """A row for each extreme value, its key in `keys` numbered. Those that were taken, as `column = value`."""
    taken = []
    key, *names = keys
    if bypass:
        db.execute("set session_replication_role = replica")
    for number, (column, value) in enumerate(extremes(db, table)):
        one = row | {key: names[0] if names else f"'{table[6:8]}{number}'", column: value}
        text = f"insert into {table} ({', '.join(one)}) values ({', '.join(one.values())})"
        try:
            db.execute(text.encode())
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.OperationalError):
            continue
        taken.append(f"{column} = {value[:40]}")
        names = names[1:]
    db.execute("set session_replication_role = origin")
    return taken


@pytest.fixture
def planted(bench: Bench) -> Bench:
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        plant(db, "agent_workers", WORKER, ["worker_id"])
        plant(db, "agent_workers", WORKER | {"state": "'dead'"}, ["worker_id", *(f"'dead{n}'" for n in range(300))])
        plant(db, "agent_queues", {"queue": "'x'"}, ["queue"])
        for n, state in enumerate(CLOSED):
            reason = "'auth'" if state == "paused" else "null"
            row = ACCOUNT | {"state": f"'{state}'", "reason": reason}
            names = ["account", *(f"'a{n * BY_STATE + i}'" for i in range(BY_STATE))]
            plant(db, "agent_accounts", row, names, bypass=n % 2 == 0)
        for state in ENDED:
            more = {"started_at": "now()"} if state != "pending" else {}
            more |= {"completed_at": "now()", "assigned_worker_id": "'ghost'"} if state == "completed" else {}
            more |= {"run_after": "now() + interval '1 day'"} if state == "scheduled" else {}
            more |= {"fencing_token": "7", "assigned_worker_id": "'ag3'"} if state == "running" else {}
            names = ["task_id", *(f"'{state}!{i}'" for i in range(200))]
            plant(db, "agent_tasks", TASK | {"status": f"'{state}'"} | more, names, bypass=True)
        plant(db, "agent_progress", PROGRESS, ["task_id", *(f"'running!{i}'" for i in range(200))])
    return bench


def start(bench: Bench) -> WorkerProcess:
    config = bench.config(host="here", poll_seconds=0.5, heartbeat_seconds=0.3, lease_seconds=30, slots=4)
    noop = {"kind": "python", "handler": "turbo.testing:noop"}
    for n in range(ACCOUNTS):
        config.setdefault("accounts", {})[f"a{n}"] = {}
        config["executors"][f"e{n}"] = noop | {"account": f"a{n}"}
        config["routes"][f"e{n}"] = f"e{n}"
    return bench.start(config).listening()


def lead(bench: Bench) -> None:
    """Each value of the leader's one row: the worker beats on."""
    beat = "select heartbeat_at from agent_workers where name = 'w'"
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        for column, value in extremes(db, "agent_leader"):
            before = bench.sql(beat)
            with contextlib.suppress(psycopg.DataError, psycopg.IntegrityError):
                db.execute(f"update agent_leader set {column} = {value}".encode())
                until(lambda before=before: bench.sql(beat) > before)


def strict(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_extreme_values_stop_neither_work_nor_readers(planted: Bench) -> None:
    bench = planted
    worker = start(bench)
    bench.insert("good", task_type="noop")
    bench.insert("due", task_type="noop", run_after="2000-01-01")
    bench.wait("good")
    bench.wait("due")
    shell = Shell(bench.dsn, bench.path)
    for command in (
        ["status"],
        ["status", "--json"],
        ["tasks", "--limit", "2000"],
        ["tasks", "--limit", "2000", "--json"],
        ["show", "good", "--json"],
        ["top", "--once"],
        ["doctor", "--json"],
        *(["show", task, "--json"] for task in ("completed!2", "completed!20", "completed!40", "running!50")),
    ):
        done = shell(*command)
        assert done.code == 0 or command[0] in ("doctor", "show"), (command, done.err[-3000:])
        assert done.out or command[0] == "show", (command, done.err[-3000:])
        assert "Traceback" not in done.err
        assert len(done.out) < 20_000_000, command
        if "--json" in command and done.out:
            strict(done.out)
    address = bench.sql("select metrics_address from agent_workers where name = 'w'")[0][0]
    until(lambda: "turbo_queue_tasks{" in urllib.request.urlopen(f"http://{address}/metrics").read().decode(), 30)
    lead(bench)
    assert worker.process.poll() is None, worker.log[-3000:]
    for word in ("Traceback", "crashed", "no heartbeat", "cannot claim", "defect"):
        assert word not in worker.log, worker.log[-5000:]
