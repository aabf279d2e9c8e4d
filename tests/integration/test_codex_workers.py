"""Codex with real workers: kills, limits, cost, and what is left on the host."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import responses_api, workers
from tests.support.codex import CODEX_RESETS_AT, CodexBench, a_codex_bench
from tests.support.codex_scenarios import left_in
from tests.support.responses_api import shell, text
from tests.support.waiting import until


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodexBench]:
    with a_codex_bench(tmp_path_factory) as agent:
        yield agent


def test_killed_worker_leaves_no_process(dsn: str, tmp_path: Path, agent: CodexBench) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        config = agent.config(bench, poll_seconds=0.5)
        agent.api.answer(shell("sleep 300"), responses_api.silent())
        worker = bench.start(config).listening()
        bench.insert("t", timeout_seconds=100)
        until(lambda: any(one.info["name"] == "sleep" for one in left_in(worker.state_dir)), 60, bench.logs)
        worker.kill(signal.SIGKILL)
        until(lambda: left_in(worker.state_dir) == [], 30, what="no process left")

        agent.api.answer(text("all is done"))
        bench.start(config).listening()
        row = bench.wait("t", seconds=90)
        assert (row["output_data"]["output"], row["retry_count"]) == ("all is done", 0)


def test_drained_run_goes_on_with_its_thread(dsn: str, tmp_path: Path, agent: CodexBench) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        config = agent.config(bench, poll_seconds=0.5, resume=True)
        config["worker"]["drain_seconds"] = 0
        agent.api.answer(shell("sleep 300"), responses_api.silent())
        worker = bench.start(config).listening()
        bench.insert("t", timeout_seconds=100)
        until(lambda: any(one.info["name"] == "sleep" for one in left_in(worker.state_dir)), 60, bench.logs)
        assert worker.stop() == 0
        assert left_in(worker.state_dir) == []
        session = bench.row("t")["agent_session_id"]
        assert session.startswith("codex:")

        agent.api.answer(text("all is done"))
        bench.start(config).listening()
        row = bench.wait("t", seconds=90)
        assert (row["agent_session_id"], row["output_data"]["output"], row["retry_count"]) == (
            session,
            "all is done",
            0,
        )


def test_limit_pauses_the_account_until_its_reset(dsn: str, tmp_path: Path, agent: CodexBench) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        agent.api.answer(responses_api.usage_limit(CODEX_RESETS_AT))
        bench.start(agent.config(bench, poll_seconds=0.5)).listening()
        bench.insert("t", max_retries=0)
        query = "select reason, extract(epoch from until)::bigint from agent_accounts where account = 'gamma' and state = 'paused'"
        until(lambda: bool(bench.sql(query)), 60, bench.logs)
        [(reason, until_when)] = bench.sql(query)
        assert reason == "usage_limit"
        assert CODEX_RESETS_AT <= until_when <= CODEX_RESETS_AT + 600
        assert bench.wait("t", "pending")["retry_count"] == 0
        windows = bench.sql("select time_window, model, utilization::float from agent_account_windows order by 1")
        assert windows == [("five_hour", "", 1.0), ("seven_day", "", 0.07)]


def test_prices_fill_the_cost_in_the_ledger(dsn: str, tmp_path: Path, agent: CodexBench) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        config = agent.config(bench, poll_seconds=0.5)
        price = {"input": 1.0, "output": 10.0, "cache_read": 0.1, "cache_write": 0.0}
        config["prices"] = {"gpt-5.5": price}
        bench.start(config).listening()
        bench.insert("t")
        row = bench.wait("t", seconds=60)
        cost = (60 * 1.0 + 7 * 10.0 + 40 * 0.1) / 1e6
        assert row["output_data"]["usage"][0]["cost_usd"] == pytest.approx(cost)
        query = "select executor, account, model, input_tokens, output_tokens, cache_read_tokens, cost_usd::float from agent_usage"
        assert bench.sql(query) == [("codex", "gamma", "gpt-5.5", 60, 7, 40, pytest.approx(cost))]
