"""What `turbo status`, `top` and `doctor` say of tasks that wait for others."""

import psycopg

from tests.integration.test_asking_metrics import gauges
from tests.support.graphs import tie
from tests.support.shell import Shell
from turbo import Client

WORKER = """
insert into agent_workers (worker_id, name, host, pid, version, slots, queues, accounts, state, heartbeat_at, schema)
values (%(id)s, 'w', %(host)s, 1, '1', 2, '{default}', '{}', 'up', clock_timestamp(), %(schema)s)
on conflict (worker_id) do update set schema = excluded.schema
"""


def worker(shell: Shell, schema: int | None, host: str = "alpha") -> None:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute(WORKER, {"id": f"w-{host}-1", "host": host, "schema": schema})


def problems(shell: Shell) -> list[str]:
    return [one["what"] for one in shell("status", "--json").json["problems"]]


def later(shell: Shell, minutes: int = 5) -> None:
    """As if all of it had been inserted, and had ended, a while ago."""
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")
        back = f"- interval '{minutes} minutes'"
        db.execute(
            f"update agent_tasks set created_at = created_at {back}, completed_at = completed_at {back}".encode()
        )
        db.execute(f"update agent_blocked set since = since {back}".encode())


def test_status_lists_what_waits_longest_for_others(shell: Shell) -> None:
    worker(shell, 99)
    with Client(shell.dsn) as client:
        client.submit("x", task_id="plan")
        for number in range(7):
            client.submit("x", task_id=f"n{number}", needs=["plan"])
    tie(shell.dsn)
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("update agent_blocked set since = since - interval '2 hours' where task_id = 'n6'")
    out = shell("status").lines
    place = out.index("7 tasks wait for other tasks; the 5 that have waited longest")
    assert out[place + 1].split() == ["TASK", "SINCE", "WAITS", "FOR"]
    assert out[place + 2].split() == ["n6", "2h00m", "plan", "(pending)"]
    assert len(shell("status", "--json").json["blocked"]) == 5
    assert problems(shell) == []
    assert "7 blocked" in shell("top", "--once").out


def test_task_blocked_by_nothing_is_a_problem(shell: Shell) -> None:
    worker(shell, 99)
    with Client(shell.dsn) as client:
        client.submit("x", task_id="plan")
        client.submit("x", task_id="a", needs=["plan"])
        client.submit("x", task_id="b", needs=["plan"])
        tie(shell.dsn)
        client.submit("x", task_id="untied", needs=["plan"])
        assert problems(shell) == [], "all of it is fresh"
        later(shell)
        assert problems(shell) == [
            "queue default: 1 blocked task, and nothing that it waits for: no worker lets go untied"
        ]
        tie(shell.dsn)
        assert problems(shell) == []
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("update agent_tasks set status = 'completed', completed_at = now() where task_id = 'plan'")
        db.execute("delete from agent_unsettled")
        db.execute("update agent_blocked set needs_left = 0")
    assert problems(shell) == [], "it ended just now"
    later(shell)
    (found,) = problems(shell)
    assert found.startswith("queue default: 3 blocked tasks, and nothing that they wait for: no worker lets go a, ...")
    assert "3 blocked tasks, and nothing that they wait for" in shell("top", "--once").out
    assert "3 blocked tasks in queue default, and nothing that they wait for" in shell("doctor").out


def test_older_worker_that_keeps_tasks_blocked_is_named(shell: Shell) -> None:
    worker(shell, 12)
    worker(shell, None, "beta")
    with Client(shell.dsn) as client:
        client.submit("x", task_id="plan")
        assert problems(shell) == []
        client.submit("x", task_id="a", needs=["plan"])
    later(shell)
    (found,) = problems(shell)
    assert found == (
        "queue default: 1 blocked task cannot be let go: worker w-alpha-1 and 1 other are older than tasks that need others"
    )
    assert "worker w-alpha-1 of queue default is older" in shell("doctor").out
    worker(shell, 16)
    worker(shell, 16, "beta")
    assert [one for one in problems(shell) if "older" in one] == []


def test_follow_up_of_a_host_that_is_gone_is_stranded(shell: Shell) -> None:
    worker(shell, 99)
    with Client(shell.dsn) as client:
        client.submit("x", task_id="plan")
        client.reply("plan", "more", new_id="more")
    with psycopg.connect(shell.dsn, autocommit=True) as db:  # as the settler lets it go
        db.execute("update agent_tasks set status = 'completed', turbo_rev = turbo_rev + 1 where task_id = 'plan'")
        db.execute(
            "update agent_tasks set status = 'pending', prefer_host = 'gone', turbo_rev = turbo_rev + 1 where task_id = 'more'"
        )
    (found,) = [one for one in problems(shell) if "gone" in one]
    assert found.startswith(
        "queue default: 1 task can run only on gone, which has its conversation, but no live worker there"
    )
    assert shell("retry", "--anew", "more").code == 0
    assert [one for one in problems(shell) if "gone" in one] == []


def test_gauge_counts_what_nobody_lets_go(shell: Shell) -> None:
    worker(shell, 99)
    with Client(shell.dsn) as client:
        client.submit("x", task_id="plan")
        client.submit("x", task_id="a", needs=["plan"])
    assert gauges(shell.dsn)['turbo_unsettled_tasks{queue="default"}'] == 0
    later(shell)
    assert gauges(shell.dsn)['turbo_unsettled_tasks{queue="default"}'] == 1
    tie(shell.dsn)
    assert gauges(shell.dsn)['turbo_unsettled_tasks{queue="default"}'] == 0
    assert gauges(shell.dsn)['turbo_queue_tasks{queue="default",status="blocked"}'] == 1
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("update agent_blocked set needs_left = 0, since = since - interval '2 minutes'")
    assert gauges(shell.dsn)['turbo_unsettled_tasks{queue="default"}'] == 1
