"""`turbo tasks`, `show`, `cancel`, `retry`, `pause`, `resume`."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.shell import Shell
from tests.support.workers import Bench
from turbo import Client
from turbo.db.values import read_bounded
from turbo.sql import statement

ODD = "clear \x1b[2J and ring \x07 the bell, with ümläuts and 漢字"


def sql(shell: Shell, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        cursor = db.execute(query, parameters)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def some(shell: Shell) -> Shell:
    """Tasks in every state, and one with an awkward text."""
    sql(
        shell,
        "insert into agent_tasks (task_id, task_description, task_type, queue, status, error_message, failure_kind, "
        "  assigned_worker_id, run_after, created_at, started_at, completed_at) values "
        "('p1', 'first', 'review', 'day', 'pending', null, null, null, now() - interval '3m 10s', now() - interval '5m', null, null),"
        "('s1', 'later', 'review', 'day', 'pending', null, null, null, now() + interval '2h', now() - interval '4m', null, null),"
        "('f1', 'broke', 'lint', 'night', 'failed', 'exit 3: it BROKE', 'error', 'alpha-1-abcdef', now() - interval '2d', "
        " now() - interval '2d', now() - interval '2d', now() - interval '1d'),"
        "('f2', 'limit', 'lint', 'night', 'failed', 'limit', 'usage_limit', 'beta-1-abcdef', now() - interval '1h', "
        " now() - interval '3m', now() - interval '10m', now() - interval '5m'),"
        "('c_1', %s, 'lint', 'night', 'completed', null, null, 'alpha-1-abcdef', now(), now(), now(), now())",
        ODD,
    )
    return shell


def ids(shell: Shell, *words: str) -> list[str]:
    return [task["task_id"] for task in shell("tasks", "--json", *words).json]


def test_filters_select_tasks(some: Shell) -> None:
    assert ids(some) == ["c_1", "f2", "s1", "p1", "f1"], "the newest first"
    assert ids(some, "--status", "failed") == ["f2", "f1"]
    assert ids(some, "-s", "failed,pending", "-s", "scheduled") == ["f2", "s1", "p1", "f1"]
    assert ids(some, "--queue", "day") == ["s1", "p1"]
    assert ids(some, "--type", "lint", "--status", "completed") == ["c_1"]
    assert ids(some, "--worker", "alpha") == ["c_1", "f1"]
    assert ids(some, "--failure-kind", "usage_limit") == ["f2"]
    assert ids(some, "--since", "2h", "--status", "failed") == ["f2"]
    assert ids(some, "--text", "it broke") == ["f1"]
    assert ids(some, "--limit", "2") == ["c_1", "f2"]
    nothing = some("tasks", "--queue", "void")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no matching tasks\n")
    assert some("tasks", "--queue", "void", "--json").json == []


def test_pipe_receives_full_aligned_plain_lines(some: Shell) -> None:
    done = some("tasks")
    head, *lines = done.lines
    assert len(lines) == 5
    where = head.index("STATUS")
    assert [line[where:].split()[0] for line in lines] == ["completed", "failed", "scheduled", "pending", "failed"]
    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert "漢字" in done.out
    assert "for 3m10s" in done.out or "for 3m11s" in done.out
    assert "1d0h ago" in done.out


@pytest.mark.parametrize("columns", [200, 60, 24, 12])
def test_table_fits_the_terminal_and_keeps_key_columns(some: Shell, columns: int) -> None:
    done = some.terminal("tasks", columns=columns).ended()
    assert done.code == 0
    lines = [line.rstrip() for line in done.text.splitlines() if line.strip()]
    assert len(lines) == 6
    assert max(len(line) for line in lines) <= columns
    if columns >= 24:
        assert [line.split()[:2] for line in lines[1:3]] == [["c_1", "completed"], ["f2", "failed"]]
    shown = [head for head in lines[0].split() if head in ("WHEN", "QUEUE", "TYPE", "WORKER", "DESCRIPTION")]
    assert shown == {
        200: ["WHEN", "QUEUE", "TYPE", "WORKER", "DESCRIPTION"],
        60: ["WHEN", "WORKER", "DESCRIPTION"],
    }.get(columns, [])


def test_colour_needs_a_terminal_that_allows_it(some: Shell) -> None:
    assert "\x1b[32mcompleted" in some.terminal("tasks").ended().out
    plain = some.terminal("tasks", NO_COLOR="1").ended().out
    assert "\x1b[3" not in plain
    assert "completed" in plain


def test_control_characters_never_reach_the_terminal(some: Shell) -> None:
    for words in (["tasks"], ["show", "c_1"]):
        out = some.terminal(*words, columns=200).ended().out
        assert "\x1b[2J" not in out
        assert "\x07" not in out
        assert "\\x1b[2J" in out


# ── show ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_show_prints_a_task_with_its_audit_trail(bench: Bench, shell: Shell) -> None:
    bench.start().listening()
    shell("submit", "say it", "--id", "task_one", "--input", '{"exit": 3}', "--max-retries", "1", "--wait")
    done = shell("show", "task_o")
    assert done.code == 0
    for name, value in (("status", "failed"), ("description", "say it"), ("attempt", "2 of 2"), ("failure", "error")):
        assert f"\n{name:17}{value}\n" in done.out
    trail = done.out.partition("\naudit trail\n")[2].splitlines()[1:]
    words = " ".join(trail)
    for step in ("created", "pending → running", "running → scheduled", "running → failed", "outcome=failed"):
        assert step in words
    whole = shell("show", "task_one", "--json").json
    assert whole["retry_count"] == 1
    assert whole["trail"][0]["action_type"] == "claimed"
    narrow = shell.terminal("show", "task_one", columns=80, rows=50).ended().text
    timeline = narrow.partition("trail\n")[2]
    assert all(head in timeline for head in ("AFTER", "WHAT", "STATUS", "DETAIL"))
    assert max(map(len, timeline.splitlines())) <= 80


def test_exact_id_wins_over_a_prefix(some: Shell) -> None:
    sql(some, "insert into agent_tasks (task_id, task_description) values ('f', 'whole'), ('f11', 'x')")
    assert some("show", "f", "--json").json["task_id"] == "f"
    assert some("show", "f11", "--json").json["task_id"] == "f11"
    assert some("show", "c", "--json").json["task_id"] == "c_1"
    assert some("show", "f1", "--json").json["task_id"] == "f1"
    some("show", "_1").one_line(1, "no task '_1'")


# ── cancel and retry ────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_print_a_line_each_and_exit_1_on_any_failure(some: Shell) -> None:
    done = some("cancel", "p1", "s", "f1", "none")
    assert done.code == 1
    assert done.lines == ["p1: cancelled", "s1: cancelled"]
    assert done.err.splitlines() == ["none: no such task", "f1: it is failed: nothing to cancel"]
    done = some("retry", "f1", "p1", "--json")
    assert done.code == 0
    assert {one["task_id"]: one["status"] for one in done.json["changed"]} == {"f1": "pending", "p1": "pending"}
    done = some("retry", "p1", "--json")
    assert done.code == 1
    assert done.json == {"changed": [], "refused": {"p1": "it is pending: only finished tasks can be retried"}}
    assert some("cancel", "f").err == "f: 'f' is a prefix of several ids: f1, f2\n"


def test_filter_in_a_pipe_needs_yes(some: Shell) -> None:
    some("cancel", "--queue", "day").one_line(
        2, "cancel 2 tasks (scheduled, pending, blocked, waiting, running)? Nothing was changed"
    )
    assert ids(some, "--status", "cancelled") == []
    assert some("cancel", "--queue", "day", "--yes").out == "cancelled 2\n"
    assert set(ids(some, "--status", "cancelled")) == {"p1", "s1"}
    done = some("cancel", "--queue", "day", "--yes")
    assert (done.code, done.err) == (0, "no matching task to cancel\n")


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\r", 0, ["f1"]), ("n\r", 1, ["f2", "f1"]), ("\x03", 1, ["f2", "f1"])]
)
def test_filter_at_a_terminal_asks_first(some: Shell, answer: str, code: int, left: list[str]) -> None:
    person = some.terminal("retry", "--failure-kind", "usage_limit")
    person.said("retry 1 task (failed)? [y/N]")
    person.type(answer)
    done = person.ended()
    assert done.code == code
    assert ids(some, "--status", "failed") == left
    assert ("retried 1" in done.text) == (code == 0)


def test_retry_by_filter_takes_failed_tasks_by_default(some: Shell) -> None:
    assert some("retry", "--queue", "night", "--yes", "--json").json["refused"] == {}
    assert set(ids(some, "--queue", "night", "--status", "pending")) == {"f1", "f2"}
    assert some("retry", "--queue", "night", "--status", "completed", "--yes").out == "retried 1\n"


def test_running_task_is_cancelled_once_its_agent_is_gone(bench: Bench, shell: Shell) -> None:
    bench.start().listening()
    shell("submit", "x", "--id", "long", "--input", '{"seconds": 600}')
    bench.wait("long", "running")
    assert shell("cancel", "long").out == "long: its agent is being stopped\n"
    bench.wait("long", "cancelled")
    trail = shell("show", "long").out
    assert "edited" in trail


# ── pause and resume ────────────────────────────────────────────────────────────────────────────────────────────────


def test_queue_is_paused_and_resumed(bench: Bench, shell: Shell) -> None:
    bench.start().listening()
    assert shell("pause", "--queue", "default", "--reason", "the backup runs").out == "paused queue default\n"
    again = shell("pause", "-q", "default", "--json").json
    assert (again["queue"], again["paused"]) == ("default", True)
    shell("submit", "x", "--type", "noop", "--id", "waits")
    assert "(the backup runs): 1 task pending" in shell("status").lines[0]
    assert shell("resume", "--queue", "default").out == "resumed queue default\n"
    bench.wait("waits")
    assert shell("resume", "--queue", "default").out == "queue default was not paused\n"
    done = shell("pause", "--queue", "defautl")
    assert done.code == 0
    assert "check the name" in done.err


def test_account_is_paused_on_every_host_and_resumed(shell: Shell) -> None:
    assert shell("pause", "--account", "max").out == "paused account max\n"
    assert sql(shell, "select host, state, reason from agent_accounts") == [("*", "paused", "manual")]
    assert "turbo resume --account max" in shell("status").out
    assert shell("resume", "-a", "max").out == "resumed account max\n"
    assert shell("resume", "-a", "max", "--json").json == {"account": "max", "paused": False, "changed": False}


def test_long_texts_of_a_row_are_cut_in_lists(shell: Shell) -> None:
    """In whichever list the row stands. One of 200 MB would cost each reader as much memory, several times."""
    for status in ("pending", "scheduled", "running", "failed", "waiting", "blocked"):
        sql(
            shell,
            "insert into agent_tasks (task_id, task_type, task_description) values (%s, repeat('T', 100000), 'x')",
            status,
        )
        sql(
            shell,
            "update agent_tasks set status = %s, assigned_worker_id = repeat('w', 100000), failure_kind = repeat('f', 100000),"
            " fencing_token = 7, started_at = now(), completed_at = now(), prefer_host = repeat('h', 100000),"
            " cancel_to = repeat('c', 100000), cancel_requested_at = now(), turbo_rev = turbo_rev + 1,"
            """ question = '{"kind": "question", "text": "?", "asked_at": "2026-01-01"}' where task_id = %s""",
            status,
            status,
        )
    for words in (("tasks",), ("tasks", "--json"), ("top", "--once"), ("questions",), ("questions", "--json")):
        done = shell(*words)
        assert done.code == 0, done.err
        assert 0 < len(done.out) < 50_000, words
    assert len(shell("tasks", "--json").json) == 6
    assert {len(task["task_type"]) for task in shell("tasks", "--json").json} == {1000}
    with Client(shell.dsn) as client:
        (followed,) = next(client.follow(["running"]))
    assert len(str(followed)) < 5000
    with psycopg.connect(shell.dsn, row_factory=dict_row) as db:
        read_bounded(db)
        rows = [
            row
            for name, more in (
                ("top/running", {}),
                ("top/ended", {}),
                ("top/waiting", {"queues": ["default"], "later": ["default"], "each": 9}),
            )
            for row in db.execute(statement(name), {"limit": 9, **more})
        ]
    assert len(rows) == 6
    assert max(len(str(row)) for row in rows) < 2000
