"""`turbo migrate` as a person or a deployment calls it: what it prints, and its exit codes."""

import json

import psycopg
import pytest

from tests.support.migrations import INDEXES, OLD_TABLE, everything, forget, open_transaction, query, turbo_migrate
from turbo.migrate import SCHEMA_VERSION
from turbo.migrate.files import read


def test_first_run_prints_a_line_per_file_and_the_next_none(empty_dsn: str) -> None:
    first = turbo_migrate("--dsn", empty_dsn)
    assert first.exit_code == 0
    *files, summary = first.stdout.splitlines()
    assert [line.split()[0] for line in files] == [file.label for file in read()]
    assert all(line.endswith(" ms") for line in files)
    assert f"at version {SCHEMA_VERSION}" in summary

    second = turbo_migrate("--dsn", empty_dsn)
    assert second.exit_code == 0
    assert second.stdout.startswith("nothing to do")
    assert len(second.stdout.splitlines()) == 1


def test_check_exits_1_until_the_database_is_current(empty_dsn: str) -> None:
    assert turbo_migrate("--dsn", empty_dsn, "--check").exit_code == 1
    turbo_migrate("--dsn", empty_dsn)
    assert turbo_migrate("--dsn", empty_dsn, "--check").exit_code == 0
    forget(empty_dsn, SCHEMA_VERSION)
    behind = turbo_migrate("--dsn", empty_dsn, "--check")
    assert behind.exit_code == 1
    assert f"at version {SCHEMA_VERSION - 1}, this turbo needs {SCHEMA_VERSION}: run `turbo migrate`" in behind.stdout


def test_check_of_a_newer_database_says_what_to_upgrade(dsn: str) -> None:
    query(
        dsn,
        "insert into turbo_migrations (version, name, checksum, turbo_version) "
        f"select v, 'n', 'c', '9' from generate_series({SCHEMA_VERSION + 1}, {SCHEMA_VERSION + 2}) v",
    )
    result = turbo_migrate("--dsn", dsn, "--check")
    assert result.exit_code == 1
    assert "too new for this turbo" in result.stderr
    assert "upgrade turbo on this host" in result.stderr
    query(dsn, f"delete from turbo_migrations where version > {SCHEMA_VERSION + 1}")
    assert turbo_migrate("--dsn", dsn, "--check").exit_code == 0


@pytest.mark.parametrize("option", ["--check", "--plan"])
def test_check_and_plan_change_nothing(empty_dsn: str, option: str) -> None:
    query(empty_dsn, OLD_TABLE)
    before = everything(empty_dsn)
    turbo_migrate("--dsn", empty_dsn, option)
    assert everything(empty_dsn) == before


def test_plan_holds_every_statement_that_would_run(dsn: str) -> None:
    assert turbo_migrate("--dsn", dsn, "--plan").stdout.startswith("nothing to do")
    forget(dsn, INDEXES)
    result = turbo_migrate("--dsn", dsn, "--plan")
    assert result.exit_code == 0
    for file in read():
        for block in file.blocks:
            assert (block.sql.strip() in result.stdout) == (file.version >= INDEXES)


def test_json_is_one_object_on_stdout(empty_dsn: str) -> None:
    def said(*arguments: str) -> dict[str, object]:
        parsed = json.loads(turbo_migrate("--dsn", empty_dsn, "--json", *arguments).stdout)
        assert isinstance(parsed, dict)
        return parsed

    planned = said("--plan")
    assert isinstance(planned["pending"], list)
    assert [file["label"] for file in planned["pending"]] == [file.label for file in read()]
    assert [file["blocks"] for file in planned["pending"]] == [[block.sql for block in file.blocks] for file in read()]
    assert said("--check")["behind"] is True
    report = said()
    assert isinstance(report["applied"], list)
    assert [one["version"] for one in report["applied"]] == list(range(1, SCHEMA_VERSION + 1))
    assert said()["applied"] == []
    assert said("--check")["behind"] is False


def test_blocker_is_named_on_stderr_and_giving_up_exits_1(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks") as reader:
        pid = reader.info.backend_pid
        result = turbo_migrate("--dsn", empty_dsn, "--lock-timeout", "0.5", "--attempts", "2")
    assert result.exit_code == 1
    *waits, last = result.stderr.splitlines()
    assert any("waiting for a lock" in line and f"pid {pid}" in line for line in waits)
    assert last.startswith("turbo migrate: adoption")
    assert "no lock in 2 attempts of 0.5 s" in last
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["0001_tables"], "turbo's own tables"
    assert turbo_migrate("--dsn", empty_dsn).exit_code == 0


def test_failure_is_one_line_and_exit_1(empty_dsn: str) -> None:
    result = turbo_migrate("--dsn", psycopg.conninfo.make_conninfo(empty_dsn, dbname="not_there"))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "does not exist; create it first" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dsn", "postgresq://someone:hush@somewhere/x"),
        ("--dsn", "host=localhost prot=5432"),
        ("--plan", "--check"),
        ("--lock-timeout", "0"),
        ("--attempts", "0"),
        ("--no-such-option",),
    ],
)
def test_wrong_usage_exits_2_and_shows_no_password(arguments: tuple[str, ...]) -> None:
    result = turbo_migrate(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "hush" not in result.stderr
