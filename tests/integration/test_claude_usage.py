"""Each run's share in the ledger, with the real Claude CLI and real workers: resumed, cancelled, drained."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.accounts import AccountsBench, accounts_bench
from tests.support.claude import bash

COLUMNS = "attempt, executor, account, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens"


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def ledger(bench: AccountsBench) -> list[tuple[Any, ...]]:
    return bench.sql(f"select {COLUMNS} from agent_usage order by at")


def costs(bench: AccountsBench) -> list[float | None]:
    return [cost for (cost,) in bench.sql("select cost_usd::float from agent_usage order by at")]


def total_of_session(row: dict[str, Any]) -> float:
    """What the CLI says of the whole session, in the log of the last run."""
    lines = Path(row["output_data"]["log"]).read_text().splitlines()
    results = [json.loads(line[line.index("{") :]) for line in lines if '"total_cost_usd"' in line]
    return float(results[-1]["total_cost_usd"])


def test_runs_of_a_resumed_session_share_its_cost(bench: AccountsBench) -> None:
    bench.api.answer(
        messages_api.text("hm", cache_read=5, cache_write=3),
        messages_api.error(418, "api_error", "I am a teapot"),
        messages_api.text("seven"),
    )
    bench.worker("alpha", resume=True, allowed_tools=["Bash"])
    bench.task("first", "think", max_retries=0)
    bench.wait("first")
    bench.task("t", "count the sheep", max_retries=1)
    row = bench.wait("t")
    bench.sql("insert into agent_tasks (task_id, task_description, continues) values ('more', 'and the goats', 't')")
    follow_up = bench.wait("more")
    assert ledger(bench) == [
        (1, "claude", "max", 11, 7, 5, 3),
        (2, "claude", "max", 11, 7, 0, 0),
        (1, "claude", "max", 11, 7, 0, 0),
    ], "a run that used nothing has no row"
    first, retried, continued = costs(bench)
    assert first
    assert retried
    assert continued
    assert retried + continued == pytest.approx(total_of_session(follow_up)), "shares of what is cumulative"
    assert total_of_session(row) == pytest.approx(retried)


def in_the_midst(bench: AccountsBench, task_id: str) -> None:
    """The task's agent has answered once, and runs a command that takes long."""
    said = "select true from agent_progress join agent_tasks using (task_id, fencing_token)"
    bench.until(lambda: bench.sql(f"{said} where task_id = %s and output_tokens > 0", task_id))


def test_run_of_a_killed_worker_is_counted_by_the_next(bench: AccountsBench) -> None:
    """By its log, and by the prices of the worker that finds it. A third worker counts nothing again."""
    config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": "sk-ant-good-1"}, allowed_tools=["Bash"])
    first = bench.start(config, bench.settings()).listening()
    bench.api.answer(bash("sleep 300"))
    bench.task("t")
    in_the_midst(bench, "t")
    assert ledger(bench) == [], "nothing is counted while it runs"
    first.kill()
    first.process.wait(30)
    (log,) = bench.path.glob("**/logs/t/*.log")
    (model,) = set(re.findall(r'"model":"(claude-[^"]+)"', log.read_text()))
    config["prices"] = {model: {"input": 100_000.0, "output": 1.0}}
    bench.api.answer(messages_api.text("done"))
    second = bench.start(config, bench.settings()).listening()
    bench.wait("t")
    assert ledger(bench) == [(1, "claude", "max", 11, 1, 0, 0), (1, "claude", "max", 11, 7, 0, 0)]
    assert costs(bench)[0] == pytest.approx(1.100001)
    assert bench.sql("select count(distinct fencing_token), min(submitted_by) is not null from agent_usage") == [
        (2, True)
    ]
    second.kill()
    second.process.wait(30)
    bench.start(config, bench.settings()).listening()
    assert len(ledger(bench)) == 2


def test_cut_off_runs_count_what_their_stream_said(bench: AccountsBench) -> None:
    """Cancelled, ended and killed by a shutdown. There is no result line, and so no cost but by the prices of worker.yaml."""
    more: dict[str, Any] = {"worker": {"drain_seconds": 0}, "allowed_tools": ["Bash"]}
    config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": "sk-ant-good-1"}, **more)
    first = bench.start(config, bench.settings()).listening()
    bench.api.answer(bash("sleep 300"))
    bench.task("cancelled")
    in_the_midst(bench, "cancelled")
    bench.turbo("cancel", "cancelled")
    row = bench.wait("cancelled", "cancelled")
    ((model,),) = bench.sql("select model from agent_usage")
    assert "sonnet" in model
    assert [(used["model"], used["input_tokens"], used["cost_usd"]) for used in row["output_data"]["usage"]] == [
        (model, 11, None)
    ]

    bench.task("drained")
    in_the_midst(bench, "drained")
    assert first.stop() == 0
    assert bench.row("drained")["status"] == "pending"
    config["prices"] = {model: {"input": 100_000.0, "output": 1.0}}
    config["worker"]["drain_seconds"] = 300
    second = bench.start(config, bench.settings()).listening()
    in_the_midst(bench, "drained")
    bench.turbo("cancel", "drained")
    bench.wait("drained", "cancelled")
    assert ledger(bench) == [(1, "claude", "max", 11, 1, 0, 0)] * 3, "a drain uses up no attempt"
    assert costs(bench) == [None, None, pytest.approx(1.100001)]
    assert bench.sql("select task_id, count(distinct fencing_token) from agent_usage group by 1 order by 1") == [
        ("cancelled", 1),
        ("drained", 2),
    ]

    bench.task("killed")
    in_the_midst(bench, "killed")
    second.kill(signal.SIGTERM)
    second.said("draining: 1 runs")
    metered = second.metric(bench.dsn, "turbo_agent_cost_usd_total", account="max", model=model)
    second.kill(signal.SIGTERM)  # at once, then
    assert second.process.wait(60) == 0
    assert metered == pytest.approx(1.100001)
    assert ledger(bench)[3:] == [(1, "claude", "max", 11, 1, 0, 0)]
    assert bench.row("killed")["status"] == "pending"
