"""`turbo status`: a planted fleet, and what is said about it."""

from typing import Any

import psycopg
import pytest

from tests.support.shell import Shell


def sql(shell: Shell, *queries: str) -> None:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        for query in queries:
            db.execute(query)  # type: ignore[call-overload]


def worker(
    host: str, number: int = 1, *, slots: int = 2, state: str = "up", silent: str = "1 second", more: str = ""
) -> str:
    columns = "worker_id, name, host, pid, version, slots, queues, accounts, state, heartbeat_at"
    return (
        f"insert into agent_workers ({columns}) values ('{host}-{number}-abcdef', '{host}', '{host}', {number}, '1', {slots}, "
        f"'{{default,night}}', '{{max}}', '{state}', clock_timestamp() - interval '{silent}')"
    )


def running(worker_id: str, task: str) -> str:
    return (
        f"insert into agent_tasks (task_id, task_description) values ('{task}', 'x');"
        f"update agent_tasks set status = 'running', assigned_worker_id = '{worker_id}', fencing_token = 7, started_at = now(), "
        f"  turbo_rev = turbo_rev + 1 where task_id = '{task}'"
    )


def ended(task: str, worker_id: str, status: str, ago: str = "10 minutes", usage: str = "[]", ms: int = 2000) -> str:
    return (
        "insert into agent_tasks (task_id, task_description, status, assigned_worker_id, completed_at, execution_time_ms, "
        f"output_data) values ('{task}', 'x', '{status}', '{worker_id}', now() - interval '{ago}', {ms}, "
        f"jsonb_build_object('usage', '{usage}'::jsonb))"
    )


USAGE = '[{"model": "sonnet", "input_tokens": 1000000, "cache_read_tokens": 500000, "output_tokens": 2500, "cost_usd": 1.25}]'


@pytest.fixture
def fleet(shell: Shell) -> Shell:
    """Two hosts at work, with nothing wrong."""
    sql(
        shell, worker("alpha"), worker("beta", slots=4), running("alpha-1-abcdef", "r1"), running("beta-1-abcdef", "r2")
    )
    sql(shell, running("beta-1-abcdef", "r3"))
    for number in range(6):
        sql(shell, ended(f"e{number}", "alpha-1-abcdef", "completed", usage=USAGE))
    sql(shell, ended("e6", "beta-1-abcdef", "completed", ms=4000), ended("e7", "beta-1-abcdef", "failed"))
    sql(shell, ended("old", "beta-1-abcdef", "failed", ago="2 hours"), ended("hand", "gone-1-abcdef", "cancelled"))
    return shell


def problems(shell: Shell) -> list[str]:
    return [problem["what"] for problem in shell("status", "--json").json["problems"]]


def table(out: str, head: str) -> dict[str, list[str]]:
    """The lines under the head that begins so, by their first word."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 1
    under = []
    for line in lines[start:]:
        if not line:
            break
        under.append(line.split())
    return {words[0]: words[1:] for words in under}


def test_healthy_fleet_fits_one_screen(fleet: Shell) -> None:
    done = fleet("status")
    assert done.code == 0
    assert done.lines[0].split(maxsplit=1) == ["ok", "no problems"]
    assert "2 hosts, 2 workers, 3 of 6 slots busy" in done.out
    assert table(done.out, "HOST   WORKER")["beta"][:3] == ["beta-1-abcdef", "up", "2/4"]
    assert table(done.out, "QUEUE")["default"][:2] == ["0", "3"]
    assert [line.split() for line in done.lines if line.startswith("max ")] == [
        ["max", h, "open"] for h in ("alpha", "beta")
    ]
    shown = fleet.terminal("status").ended().text
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80


def test_last_hour_shows_rate_tokens_and_cost_by_host(fleet: Shell) -> None:
    hour = table(fleet("status").out, "HOST   COMPLETED")
    assert hour["alpha"] == ["6", "0", "0", "100%", "2.0s", "9.0M", "15.0k", "$7.50"]
    assert hour["beta"] == ["1", "1", "0", "50%", "3.0s"]
    assert hour["gone"] == ["0", "0", "1", "2.0s"], "a worker whose row is gone: its name"
    assert "old" not in str(hour)
    whole = fleet("status", "--json").json
    assert whole["success_rate"] == pytest.approx(7 / 8)
    alpha = next(line for line in whole["finished"] if line["host"] == "alpha")
    assert (alpha["input_tokens"], alpha["output_tokens"], alpha["cost_usd"]) == (9_000_000, 15_000, 7.5)


def test_hosts_with_many_workers_show_running_tasks_by_host(fleet: Shell) -> None:
    sql(fleet, *(worker("beta", number) for number in range(2, 14)))
    done = fleet("status")
    assert table(done.out, "HOST   WORKERS")["beta"] == ["13", "2", "28", "max"]
    assert table(done.out, "HOST   WORKERS")["alpha"] == ["1", "1", "2", "max"]
    assert done.out.count("-abcdef") == 14, "a pipe gets every worker"
    sql(fleet, "update agent_workers set state = 'draining' where pid = 13")
    shown = fleet.terminal("status", rows=60).ended().text
    assert "13 workers up; list them with --all" in shown
    assert shown.count("-abcdef") == 1, "the one that is not simply up"
    assert fleet.terminal("status", "--all", rows=60).ended().text.count("-abcdef") == 14


@pytest.mark.parametrize(
    ("plant", "what", "do"),
    [
        (["update agent_workers set state = 'dead'"], "no live worker", "start one"),
        (["update agent_workers set heartbeat_at = now() - interval '5 min' where host = 'beta'"],
         "worker beta-1-abcdef does not answer: silent for 30", "see its log on beta"),
        (["insert into agent_accounts (account, host, state, reason, until, why) values "
          "('max', '*', 'paused', 'usage_limit', now() + interval '2 hours', 'weekly limit')"],
         "account max is paused on every host: usage_limit (weekly limit)", "wait for its reset"),
        (["insert into agent_accounts (account, host, state, reason) values ('max', 'beta', 'paused', 'auth')"],
         "account max is paused on beta: auth", "log its agent in on that host"),
        (["insert into agent_accounts (account, host, state, unavailable, why) values ('max', 'beta', 'paused', true, '529')"],
         "account max is paused on beta: unavailable (529)", "check the service"),
        (["insert into agent_accounts (account, host, state, unavailable) values ('remotes of /srv/p', 'beta', 'half_open', true)"],
         "remotes of /srv/p is half_open on beta: unavailable", "check the git host"),
        (["insert into agent_queues (queue, reason, paused_by) values ('default', 'backup', 'me')"],
         "queue default is paused by me (backup): 0 tasks", "turbo resume --queue default"),
        (["insert into agent_tasks (task_description, queue) values ('x', 'nobody')"],
         "queue nobody: 1 task; no live worker serves it", "turbo worker --queue nobody"),
        (["insert into agent_tasks (task_description, run_after) values ('x', now() - interval '10 min')"],
         "queue default: the oldest of 1 task has waited 60", "add slots"),
        (["update agent_tasks set cancel_requested_at = now() - interval '2 min', cancel_to = 'cancelled', "
          "turbo_rev = turbo_rev + 1 where task_id = 'r1'"], "queue default: 1 running task should have stopped", "see which workers"),
        ([ended(f"x{i}", "beta-1-abcdef", "failed") for i in range(4)], "5 of 12 tasks failed in the last hour", "--status failed"),
    ],
    ids=["none", "silent", "limit", "auth", "service", "remotes", "paused", "unserved", "old", "stuck", "failing"],
)  # fmt: skip
def test_problems_come_first_with_advice(fleet: Shell, plant: list[str], what: str, do: str) -> None:
    sql(fleet, *plant)
    first = fleet("status").lines[0]
    assert first.startswith("warn  ")
    assert what in first
    assert do in first
    assert what in problems(fleet)[0]


def test_problem_quotes_the_beginning_of_a_long_error(fleet: Shell) -> None:
    columns = "account, host, state, unavailable, why"
    why = "'the service did not answer: ' || repeat('phase=models ', 300)"
    sql(fleet, f"insert into agent_accounts ({columns}) values ('max', 'beta', 'paused', true, {why})")
    first = fleet("status").lines[0]
    assert "(the service did not answer: phase=models" in first
    assert "…)" in first
    assert len(first) < 500


def test_usage_limit_shows_its_reset(fleet: Shell) -> None:
    columns = "account, host, state, reason, until"
    sql(
        fleet,
        f"insert into agent_accounts ({columns}) values ('max', '*', 'paused', 'usage_limit', now() + interval '2h')",
    )
    line = next(line for line in fleet("status").lines if line.startswith("max"))
    assert line.split()[:4] == ["max", "all", "paused", "usage_limit"]
    assert "(in 1h59m)" in line or "(in 2h00m)" in line


def test_repositories_are_listed_only_while_they_are_away(fleet: Shell) -> None:
    name = "repository /srv/p"
    sql(fleet, f"update agent_workers set accounts = accounts || '{name}'::text")
    assert name not in fleet("status").out
    sql(
        fleet,
        f"insert into agent_accounts (account, host, state, unavailable) values ('{name}', 'beta', 'paused', true)",
    )
    line = next(line for line in fleet("status").lines if line.startswith(name))
    assert line.split()[2:5] == ["beta", "paused", "unavailable"]


def test_restarted_worker_hides_its_dead_predecessor(fleet: Shell) -> None:
    sql(fleet, worker("alpha", 2, state="dead", silent="2 hours"))
    assert problems(fleet) == []
    sql(fleet, running("alpha-2-abcdef", "held"))
    assert len(problems(fleet)) == 1
    assert "1 task not yet rescued" in problems(fleet)[0]


def test_any_output_data_is_accepted(fleet: Shell) -> None:
    for number, value in enumerate(("3", '"x"', '[1, {"input_tokens": "many", "cost_usd": null}]', '{"a": 1}', "null")):
        sql(fleet, ended(f"odd{number}", "alpha-1-abcdef", "completed", usage=value))
    sql(fleet, "update agent_tasks set output_data = '[]' where task_id = 'e6'")
    assert fleet("status").code == 0


def test_empty_database_has_a_status(shell: Shell) -> None:
    done = shell("status")
    assert done.code == 0
    assert done.lines == [
        "warn  no live worker → start one: turbo worker --config FILE",
        "",
        "the last hour: no task ended",
    ]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_status_fits_a_terminal(fleet: Shell, columns: int) -> None:
    sql(
        fleet,
        "insert into agent_tasks (task_description, queue) values ('x', 'a_queue_with_a_rather_long_name_of_40_ch')",
    )
    done = fleet.terminal("status", columns=columns).ended()
    assert done.code == 0
    assert max(map(len, done.text.splitlines())) <= columns
    assert "a_queue_with_a_rather_long_name_of_40_ch" in "".join(line.strip() for line in done.text.splitlines())
    kept: dict[str, Any] = table(done.text, "HOST   WORKER")
    assert kept["alpha"][:3] == ["alpha-1-abcdef", "up", "1/2"]
