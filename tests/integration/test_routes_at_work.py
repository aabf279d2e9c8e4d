"""Two agents behind one route, with both real CLIs: whoever is open works, and a conversation stays with its agent."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude, messages_api, responses_api, workers
from tests.support.codex import CodexBench, a_codex_bench
from tests.support.waiting import until
from turbo.domain.states import TaskState

TASKS = 50


@pytest.fixture
def codex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    with a_codex_bench(tmp_path_factory) as agent:
        yield agent


@pytest.fixture
def claudes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as agent:
        yield agent


def config_of(bench: workers.Bench, claudes: claude.Bench, codex: CodexBench, **worker: Any) -> dict[str, Any]:
    config = claudes.config(bench, **worker)
    config["accounts"] = {
        "alpha": {"env_file": str(claudes.login(claude.OAUTH))},
        "gamma": {"env_file": str(codex.login())},
    }
    config["executors"]["codex"] = codex.section()
    config["routes"]["default"] = ["claude", "codex"]
    return config


def test_limited_claude_leaves_fifty_tasks_to_codex(
    dsn: str, tmp_path: Path, claudes: claude.Bench, codex: CodexBench
) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        claudes.api.answer(messages_api.usage_limit("five_hour", claude.RESETS_AT))
        bench.start(config_of(bench, claudes, codex, slots=4, poll_seconds=0.5)).listening()
        for number in range(TASKS):
            bench.insert(f"t{number:02}", max_retries=0, timeout_seconds=100)
        over = "select count(*) from agent_tasks where status = 'completed'"
        until(lambda: bench.sql(over) == [(TASKS,)], 240, bench.logs)
        told = "select distinct output_data->>'executor' from agent_tasks"
        assert bench.sql(told) == [("codex",)]
        rows = bench.sql("select retry_count, infra_count, output_data->>'output', agent_session_id from agent_tasks")
        assert Counter(rows[i][:3] for i in range(TASKS)) == {(0, 0, "hello there"): TASKS}
        assert all(session.startswith("codex:") for *_, session in rows)
        assert bench.sql("select executor, account, count(*) from agent_usage group by 1, 2") == [
            ("codex", "gamma", TASKS)
        ]
        assert 1 <= len(claudes.api.requests) <= 4, "the control: it was tried, once a slot at most"


def test_follow_up_waits_for_the_agent_that_has_the_conversation(
    dsn: str, tmp_path: Path, claudes: claude.Bench, codex: CodexBench
) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        worker = bench.start(config_of(bench, claudes, codex, poll_seconds=0.5)).listening()
        bench.insert("first")
        by_claude = bench.wait("first", seconds=60)
        assert ":" not in by_claude["agent_session_id"]
        bench.sql("update agent_accounts set state = 'open'")
        bench.sql(
            "insert into agent_accounts (account, host, state, reason) values ('alpha', '*', 'paused', 'manual')"
            " on conflict (account, host) do update set state = 'paused', reason = 'manual'"
        )
        bench.insert("other")
        by_codex = bench.wait("other", seconds=90)
        assert by_codex["agent_session_id"].startswith("codex:")

        # Each follow-up is for its own agent: one goes on at once, the other waits.
        bench.sql("insert into agent_tasks (task_id, continues, task_description) values ('more', 'other', 'go on')")
        bench.sql("insert into agent_tasks (task_id, continues, task_description) values ('again', 'first', 'go on')")
        assert bench.wait("more", seconds=60)["agent_session_id"] == by_codex["agent_session_id"]
        worker.said("claude, which has the conversation, is closed", 60)
        assert bench.row("again")["status"] in (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RUNNING)

        bench.sql("update agent_accounts set state = 'open', reason = null where account = 'alpha'")
        again = bench.wait("again", seconds=90)
        assert (again["agent_session_id"], again["retry_count"]) == (by_claude["agent_session_id"], 0)
        assert len(codex.api.requests) == 2, "the other agent has seen none of it"


def test_spent_budget_of_one_agent_sends_tasks_to_the_other(
    dsn: str, tmp_path: Path, claudes: claude.Bench, codex: CodexBench
) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        bench.sql("insert into agent_budgets (name, account, period, runs) values ('alpha', 'alpha', 'day', 1)")
        bench.sql("insert into agent_budgets (name, period, tokens) values ('all', 'day', 100000)")
        claudes.api.answer(messages_api.text("by claude"))
        codex.api.answer(responses_api.text("by codex"))
        bench.start(config_of(bench, claudes, codex, slots=1, poll_seconds=0.5)).listening()
        for name, said in (("t0", "by claude"), ("t1", "by codex"), ("t2", "by codex")):
            bench.insert(name)
            assert bench.wait(name, seconds=90)["output_data"]["output"] == said
        spent = "select spent_tokens from agent_budgets where name = 'all'"
        until(lambda: bench.sql(spent) == [(11 + 7 + 2 * 67,)], 30, lambda: str(bench.sql(spent)))
