"""A service, a git host or a repository that is away fails no task: real workers, the real CLI, real git."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.accounts import ACCOUNT, GOOD, AccountsBench, accounts_bench, is_probe
from tests.support.messages_api import Answer, Request
from tests.support.repositories import IDENTITY, GitHost, git_host
from tests.support.size import sized
from tests.support.workers import WorkerProcess

SLOTS = 4
TASKS = [f"t{n:02}" for n in range(sized(8, 16))]
OUTAGE_SECONDS = sized(0.0, 300.0)
OFTEN = {"outage_first": 0.5, "outage_last": 1.0, "outage_spread": 0.0}
SLACK_SECONDS = 10.0
"""For a CLI to start and to answer on a busy machine."""

OVERLOADED = messages_api.error(529, "overloaded_error", "Overloaded")


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def untouched(bench: AccountsBench, status: str = "pending") -> bool:
    return bench.counts(*TASKS) == [(status, 0, 0)] * len(TASKS)


def paused(worker: WorkerProcess, bench: AccountsBench, what: str) -> float:
    return worker.metric(bench.dsn, "turbo_account_paused", account=what, reason="unavailable")


def problems(bench: AccountsBench) -> str:
    return bench.turbo("status").partition("\n\n")[0]


def bad_probes(worker: WorkerProcess) -> int:
    return worker.log.count("next probe in")


def back_within_a_probe(bench: AccountsBench, back_at: float) -> None:
    """The first claim after `back_at` (Unix seconds) came at the latest with the next probe."""
    query = "select min(extract(epoch from executed_at))::float8 from agent_actions where action_type = 'claimed' and"
    ((first,),) = bench.sql(f"{query} executed_at > to_timestamp(%s)", back_at)
    assert first - back_at < OFTEN["outage_last"] + SLACK_SECONDS


# ── the service of an account ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.sized
def test_overloaded_service_under_load_fails_no_task(bench: AccountsBench) -> None:
    bench.api.answer(OVERLOADED)
    worker = bench.worker("alpha", timings=OFTEN, worker={"slots": SLOTS})
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    until_at = time.monotonic() + OUTAGE_SECONDS
    bench.until(lambda: bad_probes(worker) >= 4 and time.monotonic() > until_at, OUTAGE_SECONDS + 60)
    bench.until(lambda: untouched(bench))
    assert 1 <= bench.runs_of() <= SLOTS, "closed before anything was given back"
    assert paused(worker, bench, ACCOUNT) == 1
    assert bench.sql("select distinct failure_kind from agent_tasks where failure_kind is not null") == [
        ("unavailable",)
    ]
    shown = problems(bench)
    assert "account max is paused on alpha: unavailable" in shown or "is half_open on alpha: unavailable" in shown
    assert "529" in shown
    assert "check the service" in shown

    back_at = time.time()
    bench.api.answer(messages_api.text("done"))
    bench.until(lambda: untouched(bench, "completed"), 120)
    back_within_a_probe(bench, back_at)
    assert paused(worker, bench, ACCOUNT) == 0
    assert problems(bench).startswith("ok")


@pytest.mark.sized
def test_refused_connections_under_load_fail_no_task(bench: AccountsBench) -> None:
    """The service goes away while agents work."""
    worker = bench.worker("alpha", timings=OFTEN, worker={"slots": SLOTS})
    bench.task("before")
    bench.wait("before")
    bench.api.go_away()
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bad_probes(worker) >= 3, 60)
    bench.until(lambda: untouched(bench))
    assert "ECONNREFUSED" in problems(bench)
    back_at = time.time()
    bench.api.come_back()
    bench.until(lambda: untouched(bench, "completed"), 120)
    back_within_a_probe(bench, back_at)


def test_without_the_rule_an_outage_fails_its_tasks(bench: AccountsBench) -> None:
    """The control: what is away counts as the task's failure."""
    bench.api.answer(OVERLOADED)
    bench.worker("alpha", outages=False, worker={"slots": SLOTS})
    for task_id in TASKS[:4]:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.counts(*TASKS[:4]) == [("failed", 0, 0)] * 4, 60)


def test_host_without_network_leaves_its_tasks_to_another(bench: AccountsBench) -> None:
    config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": GOOD})
    config["executors"]["claude"]["env"]["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:9"
    alpha = bench.start(config).listening()
    bench.task("t", max_retries=0)
    bench.until(lambda: bench.breakers() == {(ACCOUNT, "alpha"): ("paused", "unavailable")})
    beta = bench.worker("beta")
    row = bench.wait("t")
    assert (row["assigned_worker_id"], row["retry_count"]) == (beta.worker_id, 0)
    assert paused(alpha, bench, ACCOUNT) == 1
    assert paused(beta, bench, ACCOUNT) == 0


def test_task_that_alone_meets_errors_ends_and_can_be_retried(bench: AccountsBench) -> None:
    """The probe is good each time: three runs are free, for the outage may just be over, and the next one counts."""

    def decide(request: Request) -> Answer | None:
        return None if is_probe(request) else OVERLOADED

    bench.api.decide = decide
    worker = bench.worker("alpha")
    bench.task("t", max_retries=0)
    row = bench.wait("t", "failed", 60)
    assert (row["failure_kind"], row["retry_count"], row["infra_count"]) == ("unavailable", 0, 3)
    assert (bench.runs_of(), bench.probes()) == (4, 4)
    assert bench.breakers() == {}
    assert worker.metric(bench.dsn, "turbo_retries_total", reason="unavailable") == 3
    bench.api.decide = lambda _request: None
    assert "retried 1" in bench.turbo("retry", "--failure-kind", "unavailable", "--yes")
    assert bench.wait("t")["retry_count"] == 0


# ── a git host, a repository ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with git_host(tmp_path / "host") as one:
        yield one


def fetching(bench: AccountsBench, clone: Path, **worker: Any) -> dict[str, Any]:
    """A worker.yaml whose only program runs in a worktree of a freshly fetched branch, without an account."""
    config = bench.config(name="alpha", host="alpha", slots=SLOTS, poll_seconds=3600.0, **worker)
    program = {"kind": "command", "command": [sys.executable, "-c", "print('done')"], "env": IDENTITY}
    workspace = {"kind": "worktree", "repo": str(clone), "ref": "origin/main", "fetch": True}
    config["executors"]["work"] = {**program, "workspace": workspace}
    config["routes"]["default"] = "work"
    return config


def test_git_host_away_under_load_fails_no_task(bench: AccountsBench, host: GitHost) -> None:
    clone = host.clone(bench.path / "clone")
    away = f"remotes of {clone}"
    worker = bench.start(fetching(bench, clone), bench.settings(timings=OFTEN)).listening()
    bench.task("before")
    bench.wait("before")
    host.stop()
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bad_probes(worker) >= 3, 60)
    bench.until(lambda: untouched(bench))
    assert paused(worker, bench, away) == 1
    assert f"{away} is " in problems(bench)
    assert "Connection refused" in problems(bench)
    bench.task("other", task_type="noop")
    bench.wait("other")
    runs = sum(bench.trail(task_id).count("claimed") for task_id in TASKS)
    assert 1 <= runs <= SLOTS, "closed before anything was given back"

    back_at = time.time()
    host.start()
    bench.until(lambda: untouched(bench, "completed"), 60)
    back_within_a_probe(bench, back_at)
    assert problems(bench).startswith("ok")


def test_repository_away_fails_no_task(bench: AccountsBench, host: GitHost) -> None:
    """An external drive that is unplugged while the worker runs."""
    clone = host.clone(bench.path / "clone")
    worker = bench.start(fetching(bench, clone), bench.settings(timings=OFTEN)).listening()
    bench.task("before")
    bench.wait("before")
    clone.rename(bench.path / "unplugged")
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bad_probes(worker) >= 2, 60)
    bench.until(lambda: untouched(bench))
    assert f"repository {clone} is " in problems(bench)
    (bench.path / "unplugged").rename(clone)
    bench.until(lambda: untouched(bench, "completed"), 60)


def test_without_the_rule_a_git_host_away_fails_tasks(bench: AccountsBench, host: GitHost) -> None:
    """The control."""
    clone = host.clone(bench.path / "clone")
    bench.start(fetching(bench, clone), bench.settings(outages=False)).listening()
    host.stop()
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.counts(*TASKS) == [("failed", 0, 0)] * len(TASKS), 60)
