"""Whoever may INSERT, and no more: what such a one can try with a row, and that neighbours and the host never feel it.

Every row comes from a member of turbo_submitter, over a real worker process. What each role is refused by privilege is in
test_roles.py, bad values with their hints in test_insert_rules.py.
"""

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import prefork
from tests.support.logins import login
from tests.support.prefork import TURBO
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo.migrate import grant_roles

SHOW_ARGV = "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))"
LEAVE_A_MARK = 'import os; open("was-here", "w"); print(os.getcwd())'

DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture
def website(dsn: str) -> Iterator[psycopg.Connection]:
    """The hostile inserter's session: a member of turbo_submitter, nothing else."""
    grant_roles(dsn)
    with login(dsn, "turbo_submitter") as member, psycopg.connect(member, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker(bench: Bench) -> WorkerProcess:
    roots = bench.path / "roots"
    (roots / "inside").mkdir(parents=True)
    (bench.path / "outside").mkdir()
    (roots / "link").symlink_to(bench.path / "outside")
    config = bench.config(allowed_roots=[str(roots)], slots=4, drain_seconds=1)
    config["executors"] |= {
        "argv": {
            "kind": "command",
            "command": [sys.executable, "-c", SHOW_ARGV, "{input[path]}", "{task_id}", "{task_type}"],
        },
        "mark": {"kind": "command", "command": [sys.executable, "-c", LEAVE_A_MARK], "cwd": str(roots / "inside")},
    }
    config["routes"] |= {"argv": "argv", "mark": "mark"}
    return bench.start(config).listening()


def insert(website: psycopg.Connection, task_id: str, **columns: object) -> str:
    known: dict[str, Any] = {"task_id": task_id, "task_description": "x", "max_retries": 0, **columns}
    names = ", ".join(known)
    website.execute(
        f"insert into agent_tasks ({names}) values ({', '.join(['%s'] * len(known))})".encode(), list(known.values())
    )
    return task_id


def ended(bench: Bench, task_id: str) -> dict[str, Any]:
    """How it ended. What a hostile row holds is left in the database: not every client could read it."""
    query = "select status, failure_kind, error_message, output_data from agent_tasks where task_id = %s"

    def row() -> dict[str, Any]:
        names = ("status", "failure_kind", "error_message", "output_data")
        return dict(
            zip(
                names, bench.sql(query.replace("output_data", "left(output_data::text, 9000)"), task_id)[0], strict=True
            )
        )

    until(lambda: row()["status"] in ("completed", "failed", "cancelled"), what=f"{task_id:.80} ends\n{bench.logs()}")
    found = row()
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        found["output_data"] = json.loads(found["output_data"])
    return found


def files_under(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*")}


ODD_IDS = [
    "../../escaped",
    "/etc/escaped",
    "..",
    ".",
    "-rf",
    "a\nb ERROR forged",
    "\x1b[2J\x07",
    "$(touch x)",
    "ü" * 300,
    "A" * 2000,
    " a",
]


FLAGS = ["-rf", "--config=/etc/passwd", "-", "--"]


def test_id_is_never_a_path_a_flag_or_a_log_line(
    bench: Bench, website: psycopg.Connection, worker: WorkerProcess
) -> None:
    before = files_under(bench.path) - files_under(bench.path / "state")
    for task_id in ODD_IDS:
        insert(website, task_id, task_type="default")
        insert(website, f"{task_id}?", task_type="argv", input_data='{"path": "ok"}')
    for task_id in ODD_IDS:
        plain = ended(bench, task_id)
        assert plain["status"] == "completed", plain
        row = ended(bench, f"{task_id}?")
        if task_id.startswith("-"):
            assert (row["status"], row["failure_kind"]) == ("failed", "bad_request")
            assert "would be a flag" in row["error_message"]
        else:
            assert row["output_data"]["output"]["argv"][1] == f"{task_id}?"
        log = Path(plain["output_data"]["log"])
        assert log.resolve().is_relative_to(bench.path / "state" / "logs")
    state = bench.path / "state"
    for place in ("logs", "tasks"):
        assert all(p.resolve().is_relative_to(state / place) for p in (state / place).rglob("*"))
    new = {f for f in files_under(bench.path) - before if not f.startswith(("state/", "ledger"))}
    assert new <= {"worker0.log"}, new
    assert not [line for line in worker.log.splitlines() if not line.startswith("20")]  # each line is turbo's own
    assert "\x1b" not in worker.log


def test_ids_that_differ_only_by_case_get_their_own_directories() -> None:
    """On a Mac's file system `A` and `a` are one name."""
    from turbo.host.state_dir import safe_name

    names = [safe_name(task_id).casefold() for task_id in ("Task", "task", "TASK", "tasK", "a", "A")]
    assert len(set(names)) == len(names)


def test_value_is_never_a_flag(bench: Bench, website: psycopg.Connection, worker: WorkerProcess) -> None:
    for value in FLAGS:
        insert(website, f"t{value}", task_type="argv", input_data=json.dumps({"path": value}))
    for value in FLAGS:
        row = ended(bench, f"t{value}")
        assert (row["status"], row["failure_kind"]) == ("failed", "bad_request")
        assert "would be a flag" in row["error_message"]


def test_value_is_always_one_argument(bench: Bench, website: psycopg.Connection, worker: WorkerProcess) -> None:
    values = ["a b; touch pwned", "$(id)", "`id`", "{task_id}", "{input[other]}", "x\n--y", "'\"\\", "../../etc/passwd"]
    for number, value in enumerate(values):
        insert(website, f"t{number}", task_type="argv", input_data=json.dumps({"path": value, "other": "secret"}))
    for number, value in enumerate(values):
        assert ended(bench, f"t{number}")["output_data"]["output"]["argv"] == [value, f"t{number}", "argv"]


def test_row_writes_nothing_outside_the_allowed_roots(
    bench: Bench, website: psycopg.Connection, worker: WorkerProcess
) -> None:
    roots, outside = bench.path / "roots", bench.path / "outside"
    wanted = [
        str(outside),
        f"{roots}/../outside",
        f"{roots}/link",
        f"{roots}/link/../outside",
        f"{roots}/inside/../../outside",
        "outside",
        "~/",
        "/",
        "",
        f"{roots}x",
        f"{roots}/inside\x01",
        ["a"],
        {"b": 1},
        7,
        False,
    ]
    for number, cwd in enumerate(wanted):
        insert(website, f"t{number}", task_type="mark", input_data=json.dumps({"cwd": cwd}))
    insert(website, "good", task_type="mark", input_data=json.dumps({"cwd": f"{roots}/inside"}))
    for number, cwd in enumerate(wanted):
        row = ended(bench, f"t{number}")
        assert row["status"] == "failed", cwd
        assert row["failure_kind"] in ("refused", "bad_request")
    assert ended(bench, "good")["output_data"]["output"] == f"{roots}/inside\n"
    assert files_under(outside) == set()
    assert files_under(roots) == {"inside", "inside/was-here", "link"}


ODD_DATA = {
    "deep": DEEP,
    "a number of 5000 digits": '{"n": ' + "9" * 5000 + "}",
    "a number out of range": '{"n": 1e400, "m": -1e-400}',
    "5 MB": json.dumps({"text": "x" * 5_000_000}),
    "100,000 keys": json.dumps({f"k{i}": i for i in range(100_000)}),
    "odd keys": '{"": 1, "__proto__": 2, "cwd": null, "\\u001b[2J": 3}',
    "a list": "[1, 2]",
    "null": "null",
    "a string": '"x"',
}


def test_odd_json_ends_only_its_own_task(bench: Bench, website: psycopg.Connection, worker: WorkerProcess) -> None:
    for name, data in ODD_DATA.items():
        for kind in ("echo", "argv", "default"):
            insert(website, f"{kind} {name}", task_type=kind, input_data=data)
    insert(website, "neighbour", task_type="noop")
    for name in ODD_DATA:
        for kind in ("echo", "argv", "default"):
            row = ended(bench, f"{kind} {name}")
            assert row["failure_kind"] in (None, "bad_request", "error"), row["error_message"]
    assert ended(bench, "neighbour")["status"] == "completed"
    assert worker.process.poll() is None
    assert "crashed" not in worker.log


@pytest.mark.parametrize("data", ['{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": NaN}', "{"])
def test_invalid_json_is_refused_by_the_database(website: psycopg.Connection, data: str) -> None:
    with pytest.raises((errors.UntranslatableCharacter, errors.InvalidTextRepresentation)):
        insert(website, "t", input_data=data)
    with pytest.raises(psycopg.DataError):
        insert(website, "a\0b")


ODD_NUMBERS: dict[str, dict[str, object]] = {
    "tried as often as can be": {"retry_count": 2147483647},
    "tries without end": {"max_retries": 2147483647},
    "tried and tries without end": {"retry_count": 2147483646, "max_retries": 2147483647},
    "the highest priority": {"task_priority": 2147483647},
    "the lowest priority": {"task_priority": -2147483648},
    "no priority": {"task_priority": None},
    "the longest timeout": {"timeout_seconds": 2147483647},
    "due before Christ": {"run_after": "4713-01-01 00:00:00+00 BC"},
    "made before Christ": {"created_at": "4713-01-01 00:00:00+00 BC"},
    "made in the year 294276": {"created_at": "294276-12-31"},
    "made never": {"created_at": "infinity"},
    "a long key": {"concurrency_key": "ü" * 500},
}


def test_no_number_stops_the_queue(bench: Bench, website: psycopg.Connection, worker: WorkerProcess) -> None:
    """Each is claimed and ends; so does an ordinary row behind them."""
    insert(website, "due when the sun is gone", task_type="noop", run_after="294276-12-31")
    for name, columns in ODD_NUMBERS.items():
        insert(website, name, task_type="noop", **columns)
        insert(
            website, f"{name}, failing", task_type="default", input_data='{"exit": 1}', **{"max_retries": 0, **columns}
        )
    insert(website, "neighbour", task_type="noop")
    assert ended(bench, "neighbour")["status"] == "completed"
    for name in ODD_NUMBERS:
        assert ended(bench, name)["status"] == "completed", name
    assert bench.sql("select status from agent_tasks where task_id = 'due when the sun is gone'") == [("scheduled",)]
    assert worker.process.poll() is None
    assert " ERROR " not in worker.log
    assert "crashed" not in worker.log


def test_timestamp_outside_pythons_range_hides_no_list(dsn: str, website: psycopg.Connection) -> None:
    moments = ["4713-01-01 BC", "0044-03-15 BC", "10000-01-01", "294276-12-31", "infinity", "-infinity"]
    for moment in moments:
        insert(website, f"made {moment}", created_at=moment)
    insert(website, "plain")
    for command in (
        ["tasks"],
        ["tasks", "--json"],
        ["show", "made infinity"],
        ["show", "made 4713-01-01 BC", "--json"],
    ):
        environment = {**os.environ, "TZ": "Asia/Tokyo", "COLUMNS": "200"}
        shown = prefork.run_text([TURBO, *command, "--dsn", dsn], env=environment)
        assert shown.returncode == 0, shown.stderr
        wanted = {command[1]} if command[0] == "show" else {"plain", *(f"made {moment}" for moment in moments)}
        assert not {task_id for task_id in wanted if task_id not in shown.stdout}, shown.stdout


def test_invented_queues_do_not_reach_the_metrics(bench: Bench, website: psycopg.Connection) -> None:
    for number in range(60):
        insert(website, f"t{number}", queue=f"{number:02}".rjust(40, "q"))
    bench.start().listening()
    address = bench.sql("select metrics_address from agent_workers")[0][0]

    def page() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            return response.read().decode()

    until(lambda: 'turbo_queue_tasks{queue="other",status="pending"} 60.0' in page(), 40, "the leader's first look")
    assert "qqqq" not in page()


def test_forged_notification_only_causes_a_poll(
    bench: Bench, dsn: str, website: psycopg.Connection, worker: WorkerProcess
) -> None:
    """A login without any privilege may NOTIFY: no run is stopped, no claim made, no queue paused by its word."""
    insert(website, "long", input_data='{"seconds": 600}')
    until(lambda: bench.runs()["long"] == 1, what="it runs")
    with login(dsn) as stranger, psycopg.connect(stranger, autocommit=True) as db:
        for channel in ("turbo_ctl", "turbo_q_default", f"turbo_{worker.worker_id}"):
            for payload in (
                f"stop {worker.worker_id}",
                "queues",
                "accounts",
                "stop",
                "",
                "\x1b[2J",
                "x" * 7999,
                "shutdown",
            ):
                db.execute("select pg_notify(%s, %s)", (channel, payload))
        with pytest.raises(errors.InsufficientPrivilege):
            db.execute("select * from agent_tasks")
    insert(website, "after", task_type="noop")
    assert ended(bench, "after")["status"] == "completed"
    assert bench.sql("select status from agent_tasks where task_id = 'long'") == [("running",)]
    assert worker.process.poll() is None


PROTECTED = {
    "fencing_token": "5",
    "agent_session_id": "'4a1f'",
    "turbo_rev": "5",
    "infra_count": "0",
    "cancel_to": "'completed'",
    "cancel_requested_at": "now()",
    "assigned_worker_id": "'w-1-abcdef'",
    "output_data": "'{}'",
    "error_message": "'x'",
    "failure_kind": "'auth'",
    "execution_time_ms": "1",
    "started_at": "now()",
    "completed_at": "now()",
}


@pytest.mark.parametrize("column", PROTECTED)
def test_protected_columns_cannot_be_set(website: psycopg.Connection, column: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        website.execute(
            f"insert into agent_tasks (task_description, {column}) values ('x', {PROTECTED[column]})".encode()
        )
    insert(website, "mine")
    for change in (f"{column} = {PROTECTED[column]}", "status = 'cancelled'", "task_description = 'y'"):
        with pytest.raises(errors.InsufficientPrivilege):
            website.execute(f"update agent_tasks set {change} where task_id = 'mine'".encode())
    with pytest.raises(errors.InsufficientPrivilege):
        website.execute("delete from agent_tasks where task_id = 'mine'")
    with pytest.raises(errors.InsufficientPrivilege):
        website.execute(
            "insert into agent_tasks (task_id, task_description) values ('mine', 'y')"
            " on conflict (task_id) do update set task_description = 'stolen'"
        )
    with pytest.raises(errors.InsufficientPrivilege):
        website.execute("insert into agent_actions (task_id, action_type, actor) values ('mine', 'finished', 'me')")


def test_running_is_refused_and_a_finished_insert_never_runs(
    bench: Bench, website: psycopg.Connection, worker: WorkerProcess
) -> None:
    with pytest.raises(errors.CheckViolation, match="cannot be inserted as running"):
        insert(website, "t", status="running")
    for status in ("completed", "failed", "cancelled"):
        insert(website, status, status=status, concurrency_key="k")
    insert(website, "neighbour", concurrency_key="k")
    assert ended(bench, "neighbour")["status"] == "completed"
    assert bench.runs() == {"neighbour": 1}


def test_temp_objects_do_not_shadow_what_triggers_use(
    bench: Bench, website: psycopg.Connection, worker: WorkerProcess
) -> None:
    """The triggers run with their owner's rights: no name in them may be found in the inserter's own schema."""
    website.execute(
        "create temp table agent_workers (worker_id text, idle boolean, queues text[], heartbeat_at timestamptz)"
    )
    website.execute("create temp table agent_queues (queue text, paused boolean)")
    website.execute("create function pg_temp.pg_notify(text, text) returns void language sql as 'select 1/0'")
    website.execute(
        "create function pg_temp.now() returns timestamptz language sql as 'select 1/0; select null::timestamptz'"
    )
    website.execute("set search_path = pg_temp, public, pg_catalog")
    website.execute("insert into public.agent_tasks (task_id, task_description, task_type) values ('t', 'x', 'noop')")
    website.execute("insert into public.agent_tasks (task_id, task_description, status) values ('u', 'x', 'scheduled')")
    assert ended(bench, "t")["status"] == "completed"
