"""INSERT → NOTIFY → claim → program → recorded, with real worker processes."""

import json
import os
import signal
import subprocess
import time
import urllib.request

import psycopg
import pytest

from tests.support import prefork, workers
from tests.support.prefork import TURBO
from tests.support.size import sized
from tests.support.waiting import gone, until
from turbo.migrate import SCHEMA_VERSION


def test_documented_and_minimal_inserts_run_a_real_program(bench):
    worker = bench.start(name="alpha").listening()
    bench.sql(
        "INSERT INTO agent_tasks (task_id, task_type, task_description, task_priority, status, timeout_seconds, max_retries)"
        " VALUES ('my_task_1', 'analysis', 'Analyze security of auth.py module', 8, 'pending', 300, 3)"
    )
    least = bench.sql("INSERT INTO agent_tasks (task_description) VALUES ('x') RETURNING task_id")[0][0]
    for task_id in ("my_task_1", least):
        row = bench.wait(task_id)
        assert row["assigned_worker_id"] == worker.worker_id
        assert row["output_data"]["output"] == {"done": task_id}
        assert row["output_data"]["worker_id"] == worker.worker_id
        assert bench.trail(task_id) == ["claimed", "finished"]
    assert bench.runs() == {"my_task_1": 1, least: 1}
    assert worker.stop() == 0
    assert bench.sql("select count(*) from agent_workers") == [(0,)]


@pytest.mark.sized
def test_many_tasks_on_four_workers_run_exactly_once(bench, capsys):
    number = sized(80, 1000)
    started = [bench.start(name=f"w{i}", slots=3) for i in range(4)]
    for worker in started:
        worker.listening()
    for i in range(number):
        bench.insert(f"t{i}")
    until(
        lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(number,)], 90, bench.logs
    )
    assert bench.runs() == {f"t{i}": 1 for i in range(number)}
    share = dict(bench.sql("select assigned_worker_id, count(*) from agent_tasks group by 1"))
    with capsys.disabled():
        print(f"\n{number} tasks by worker: {sorted(share.values())}")
    assert sum(share.values()) == number


def test_metrics_report_what_happened(bench):
    worker = bench.start().listening()
    bench.insert("a")
    bench.insert("b", {"exit": 3}, max_retries=0)
    bench.wait("a")
    bench.wait("b", "failed")
    address = bench.sql("select metrics_address from agent_workers")[0][0]
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    for line in (
        'turbo_claims_total{queue="default",result="claimed"} 2.0',
        'turbo_tasks_finished_total{executor="ledger",outcome="succeeded",queue="default"} 1.0',
        'turbo_tasks_finished_total{executor="ledger",outcome="failed",queue="default"} 1.0',
        "turbo_listener_up 1.0",
        'turbo_slots{state="free"} 2.0',
        'turbo_pickup_seconds_count{queue="default"} 2.0',
    ):
        assert line in text, line
    assert worker.stop() == 0


def test_failures_are_classified(bench):
    bench.config()
    config = bench.config()
    del config["routes"]["default"]
    config["routes"]["ledger"] = "ledger"
    bench.start(config).listening()
    bench.insert("lost", task_type="unknown")
    bench.insert("slow", {"seconds": 60}, task_type="ledger", timeout_seconds=1, max_retries=0)
    bench.insert("temp", {"exit": 75}, task_type="ledger", max_retries=0)
    assert bench.wait("lost", "failed")["failure_kind"] == "no_route"
    assert bench.wait("slow", "failed")["failure_kind"] == "timed_out"
    row = bench.wait("temp", "failed", 60)
    assert (row["failure_kind"], row["retry_count"], row["infra_count"]) == ("poison", 0, 5)


def test_bad_input_fails_alone(bench):
    bench.start().listening()
    texts = {
        "shell": "$(touch /tmp/no); `id` ' \" \\ ; rm -rf / & %s %(x)s {input[key]} \U0001f600",
        "big": "x" * 10_000_000,
    }
    deep = "[" * 3000 + "]" * 3000
    for name, text in texts.items():
        bench.sql("insert into agent_tasks (task_id, task_type, task_description) values (%s, 'echo', %s)", name, text)
    bench.sql("insert into agent_tasks (task_id, task_description, input_data) values ('deep', 'x', %s)", deep)
    bench.sql(
        "insert into agent_tasks (task_id, task_description, input_data) values ('huge', 'x', %s)",
        '{"n": ' + "9" * 5000 + "}",
    )
    bench.insert("neighbour")
    for name, text in texts.items():
        assert bench.wait(name)["output_data"]["output"] == text, "runs with exactly that text"
    bench.wait("neighbour")
    for name in ("deep", "huge"):
        query = "select failure_kind from agent_tasks where status = 'failed' and task_id = %s"
        assert until(lambda query=query, name=name: bench.sql(query, name)) == [("bad_request",)]
        shown = prefork.run_text([TURBO, "show", name, "--dsn", bench.dsn])
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("wish", ["cancelled", "pending", "completed"])
def test_requested_status_takes_effect_after_the_program_ends(bench, wish):
    bench.start().listening()
    bench.insert("t", {"seconds": 300, "children": 2}, concurrency_key="k", timeout_seconds=300)
    until(lambda: (bench.path / "ledger.pids").exists() and len((bench.path / "ledger.pids").read_text().split()) == 2)
    pids = [bench.entries()[0]["pid"], *(int(p) for p in (bench.path / "ledger.pids").read_text().split())]
    assert not any(gone(p) for p in pids)
    if wish == "pending":
        bench.sql("update agent_tasks set status = 'pending', input_data = '{}' where task_id = 't'")
    else:
        bench.sql("update agent_tasks set status = %s where task_id = 't'", wish)
    assert bench.row("t")["status"] == "running"
    until(lambda: bench.row("t")["status"] != "running" or len(bench.entries()) > 1)
    assert all(gone(p) for p in pids), "the program and what it started were gone before the status changed"
    bench.wait("t", "completed" if wish == "pending" else wish)
    assert bench.runs()["t"] == (2 if wish == "pending" else 1)


def test_drain_finishes_running_tasks_and_a_second_signal_ends(bench):
    worker = bench.start().listening()
    bench.insert("short", {"seconds": 1})
    until(lambda: bench.runs()["short"])
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert bench.row("short")["status"] == "completed"
    worker = bench.start().listening()
    bench.insert("long", {"seconds": 300})
    until(lambda: bench.runs()["long"])
    worker.kill(signal.SIGTERM)
    worker.said("draining")
    worker.kill(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    row = bench.row("long")
    assert (row["status"], row["retry_count"], row["assigned_worker_id"]) == ("pending", 0, None)
    assert gone(bench.entries()[-1]["pid"])


@pytest.mark.quiet
@pytest.mark.sized
def test_idle_worker_sends_only_polls_and_heartbeats(own_server, tmp_path):
    """Counted by the server itself, seen from another database, once the ladder has reached poll_seconds."""
    elsewhere = psycopg.conninfo.make_conninfo(own_server.dsn, dbname="template1")
    with workers.bench(own_server.dsn, tmp_path) as bench, psycopg.connect(elsewhere, autocommit=True) as db:
        bench.start(heartbeat_seconds=1, lease_seconds=12, poll_seconds=2).listening()
        until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
        time.sleep(12)  # an idle session tells the server of its last transactions after ten

        def count() -> int:
            query = "select xact_commit + xact_rollback from pg_stat_database where datname = 'postgres'"
            return db.execute(query).fetchone()[0]

        before = count()
        seconds = sized(6, 60)
        time.sleep(seconds)
        sent = count() - before
    # a beat a second, a poll every two; the leader reads its gauges, and perhaps prunes
    assert seconds * 1.5 - 2 <= sent <= seconds * 1.7 + 3, sent


def pickup_works(bench, name: str, seconds: float = 10.0) -> None:
    bench.insert(name, task_type="noop")
    bench.wait(name, seconds=seconds)


@pytest.mark.sized
def test_pickup_recovers_from_every_kind_of_outage(own_server, tmp_path):
    """The listener's backend killed, the server restarted, the server frozen: a line per change of state."""
    with workers.bench(own_server.dsn, tmp_path) as bench:
        worker = bench.start().listening()
        pickup_works(bench, "first")
        killed = bench.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name like 'turbo listener%%' and datname = current_database()"
        )
        assert killed == [(True,)]
        worker.said("listener lost its session")
        worker.said("listener is back")
        pickup_works(bench, "after the kill")
        own_server.stop("immediate")
        own_server.start_again()
        worker.said("listener is back", times=2)
        pickup_works(bench, "after the restart")
        pids = [
            own_server.pid,
            *(p for (p,) in bench.sql("select pid from pg_stat_activity where pid <> pg_backend_pid()")),
        ]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(sized(10, 20))
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        pickup_works(bench, "after the freeze", 30)
        assert len(worker.log.splitlines()) < 60, worker.log
        assert bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(4,)]


def test_running_migration_is_logged_once(bench):
    """The worker looks at every version in between: it waits for the same thing all along."""
    bench.sql("create table later as select * from turbo_migrations where version > 1")
    bench.sql("delete from turbo_migrations where version > 1")
    worker = bench.start()
    worker.said(f"at version 1, this turbo needs {SCHEMA_VERSION}: run `turbo migrate`")
    bench.sql("insert into turbo_migrations select * from later where version = 2")
    looked = "select query_start from pg_stat_activity where application_name like 'turbo claims%%'"
    for _ in range(2):  # the second look certainly began after the insert
        before = bench.sql(looked)
        until(lambda before=before: bench.sql(looked) not in (before, []))
    bench.sql("insert into turbo_migrations select * from later where version > 2")
    worker.listening()
    assert worker.log.count("run `turbo migrate`") == 1


def test_worker_waits_for_the_database_and_its_schema(own_server, empty_dsn, tmp_path):
    with workers.bench(empty_dsn, tmp_path) as bench:
        worker = bench.start()
        worker.said("run `turbo migrate`")
        subprocess.run([TURBO, "migrate", "--dsn", empty_dsn], check=True, capture_output=True)
        worker.listening()
        own_server.stop()
        waiting = bench.start(dsn=own_server.dsn)
        waiting.said("waiting for the database")
        own_server.start_again()
        waiting.listening()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"worker": {"slotz": 3}}, "worker.slotz: unknown key; did you mean 'slots'?"),
        ({"worker": {"queues": ["Nope!"]}}, "is not a queue name"),
        ({"routes": {"default": "claud"}}, "no executor 'claud'"),
        ({"database": {"dsn": "postgresql://me:secret@h/d"}}, "contains a password"),
        ({"executors": {"x": {"kind": "shell"}}}, "'shell' is not a kind of executor"),
        (
            {"executors": {"x": {"kind": "python", "handler": "turbo.testing:nothing"}}, "routes": {}},
            "turbo.testing",
        ),
    ],
)
def test_invalid_configuration_is_one_message_and_exit_2(bench, change, says):
    config = bench.config()
    config.update(change)
    worker = bench.start(config)
    assert worker.process.wait(20) == 2
    assert says in worker.log
    assert "Traceback" not in worker.log
    assert "secret" not in worker.log


def test_command_line_matches_the_table(bench):
    def turbo(*arguments: str, code: int = 0) -> str:
        done = prefork.run_text([TURBO, *arguments, "--dsn", bench.dsn])
        assert done.returncode == code, done
        return done.stdout + done.stderr

    bench.start().listening()
    assert (
        json.loads(turbo("submit", "hello", "--type", "echo", "--wait", "--json"))["output_data"]["output"] == "hello"
    )
    turbo("pause", "--queue", "default")
    task_id = turbo("submit", "$HOME; ls", "--type", "echo", "--priority", "9").strip()
    assert task_id in turbo("tasks", "--status", "pending")
    assert "cancelled" in turbo("cancel", task_id)
    assert "nothing to cancel" in turbo("cancel", task_id, code=1)
    assert "pending" in turbo("retry", task_id)
    turbo("resume", "--queue", "default")
    bench.wait(task_id)
    assert "edited" in turbo("show", task_id)
    assert "no task 'nope'" in turbo("show", "nope", code=1)
    assert "no such task" in turbo("retry", "nope", code=1)
    assert "write what the agent should do" in turbo("submit", "  ", code=2)
    done = prefork.run_text([TURBO, "tasks", "--dsn", "host=127.0.0.1 port=1"])
    assert done.returncode == 1
    assert "cannot reach the database" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_env_file_gives_the_dsn_and_must_be_private(bench):
    """A service's bare environment: nothing else names the database."""
    env_file = bench.path / "turbo.env"
    env_file.touch(0o644)
    env_file.write_text(f"TURBO_DSN={bench.dsn}\n")
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    refused = bench.start(None, "--env-file", str(env_file), dsn=nowhere)
    assert refused.process.wait(20) == 2
    assert "mode 0644 lets other users read its secrets: run chmod 600" in refused.log
    env_file.chmod(0o600)
    worker = bench.start(None, "--env-file", str(env_file), dsn=nowhere).listening()
    assert worker.stop() == 0
    bench.start(None, "--env-file", str(env_file), "--dsn", nowhere).said(
        "waiting for the database at 127.0.0.1:1/none"
    )
