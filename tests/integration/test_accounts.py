"""A dead login costs no task a try: the real CLI, through real worker processes and the database."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import messages_api
from tests.support.accounts import (
    ACCOUNT,
    BAD,
    GOOD,
    AccountsBench,
    accounts_bench,
    is_probe,
    key_of,
    refuse_bad_keys,
)
from tests.support.messages_api import Answer, Request
from tests.support.size import sized

REFUSED = sized(4, 10)
"""Runs that meet a dead login together. The worker has ten slots."""

TASKS = [f"t{n}" for n in range(REFUSED)]


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


@pytest.mark.sized
def test_dead_login_uses_no_attempts_and_another_host_runs_tasks(bench: AccountsBench) -> None:
    together = threading.Barrier(REFUSED)

    def decide(request: Request) -> Answer | None:
        if key_of(request) == BAD and not is_probe(request):
            together.wait(60)  # all are refused at once
        return refuse_bad_keys(request)

    bench.api.decide = decide
    alpha = bench.worker("alpha", BAD)
    for task_id in TASKS:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.breakers() == {(ACCOUNT, "alpha"): ("paused", "auth")}, 90)
    bench.until(lambda: bench.counts(*TASKS) == [("pending", 0, 0)] * REFUSED, 90)
    assert (bench.runs_of(BAD), bench.probes(BAD)) == (REFUSED, 1)
    assert alpha.metric(bench.dsn, "turbo_auth_failures_total", account=ACCOUNT) == REFUSED
    assert alpha.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="auth") == 1
    assert alpha.metric(bench.dsn, "turbo_tasks_finished_total", outcome="auth_failed") == REFUSED
    assert bench.sql("select failure_kind from agent_tasks group by 1") == [("auth",)]

    beta = bench.worker("beta", GOOD)
    bench.until(lambda: bench.counts(*TASKS) == [("completed", 0, 0)] * REFUSED, 90)
    assert bench.sql("select assigned_worker_id, count(*) from agent_tasks group by 1") == [(beta.worker_id, REFUSED)]
    assert (bench.runs_of(BAD), bench.probes(BAD)) == (REFUSED, 1), "the dead login was not asked again"
    assert (bench.runs_of(GOOD), bench.probes(GOOD)) == (REFUSED, 0)
    assert beta.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="auth") == 0
    assert bench.trail("t0") == ["claimed", "finished", "claimed", "finished"]


def test_without_the_breaker_tasks_loop_on_a_dead_login(bench: AccountsBench) -> None:
    bench.api.decide = refuse_bad_keys
    bench.worker("alpha", BAD, breaker=False, worker={"slots": 2})
    bench.task("t0", max_retries=0)
    bench.task("t1", max_retries=0)
    bench.until(lambda: bench.runs_of(BAD) >= 6, 60)
    assert bench.breakers() == {}


def test_refused_content_fails_its_task_and_pauses_no_account(bench: AccountsBench) -> None:
    def decide(request: Request) -> Answer | None:
        if "the forbidden words" in request.everything:
            return messages_api.error(403, "permission_error", "Request not allowed")
        return None

    bench.api.decide = decide
    alpha = bench.worker("alpha")
    bench.task("its_own_fault", "say the forbidden words", max_retries=1)
    row = bench.wait("its_own_fault", "failed", 60)
    assert (row["failure_kind"], row["retry_count"], row["infra_count"]) == ("auth", 1, 0)
    assert "Failed to authenticate" in row["error_message"]
    assert bench.runs_of() == 2, "one try and one retry"
    assert bench.probes() == 2, "a probe each time"
    assert bench.breakers() == {}
    for task_id in TASKS[:3]:
        bench.task(task_id)
    for task_id in TASKS[:3]:
        assert bench.wait(task_id)["retry_count"] == 0
    assert alpha.metric(bench.dsn, "turbo_auth_failures_total", account=ACCOUNT) == 2
    assert alpha.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="auth") == 0
    assert alpha.metric(bench.dsn, "turbo_tasks_finished_total", outcome="failed") == 2


def test_paused_login_is_probed_with_backoff_until_it_opens(bench: AccountsBench) -> None:
    bench.api.decide = refuse_bad_keys
    worker = bench.worker("alpha", BAD, timings={"backoff_first": 1.0, "backoff_last": 60.0})
    bench.task("t")
    for trips, (least, most) in {1: (0.8, 1.0), 2: (1.6, 2.0), 3: (3.2, 4.0)}.items():
        bench.until(lambda trips=trips: bench.breaker("alpha").get("trips") == trips)
        row = bench.breaker("alpha")
        assert least <= (row["until"] - row["changed_at"]).total_seconds() <= most + 0.01
        assert (row["state"], row["reason"]) == ("paused", "auth")
    assert "invalid" in row["why"].lower()
    bench.api.decide = lambda _request: None  # somebody has logged it in
    assert bench.wait("t", seconds=60)["retry_count"] == 0
    assert (bench.runs_of(), bench.probes()) == (2, 4)
    row = bench.breaker("alpha")
    assert (row["state"], row["reason"], row["trips"], row["probe_by"]) == ("open", None, 0, None)
    assert worker.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="auth") == 0


def test_two_workers_of_a_host_share_a_probe_and_a_pause(bench: AccountsBench) -> None:
    bench.api.decide = refuse_bad_keys
    first = bench.worker("alpha", BAD, worker={"slots": 2})
    second = bench.worker("alpha", BAD, worker={"slots": 2})
    for task_id in TASKS[:4]:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.breakers() == {(ACCOUNT, "alpha"): ("paused", "auth")}, 60)
    for worker in (first, second):
        bench.until(lambda w=worker: w.metric(bench.dsn, "turbo_account_paused", account=ACCOUNT, reason="auth") == 1)
    bench.until(lambda: bench.counts(*TASKS[:4]) == [("pending", 0, 0)] * 4)
    assert bench.probes() == 1
    assert 1 <= bench.runs_of() <= 4


def test_executor_without_account_has_a_breaker_for_its_host(bench: AccountsBench) -> None:
    bench.api.decide = refuse_bad_keys
    worker = bench.worker("alpha", BAD, account=None, worker={"poll_seconds": 0.1})
    bench.task("t", max_retries=0)
    bench.until(lambda: bench.breakers() == {("claude", "alpha"): ("paused", "auth")})
    for number in range(5):  # every one of these brings sweeps, none of which may open it
        bench.task(f"n{number}", task_type="noop")
        bench.wait(f"n{number}")
    assert bench.counts("t") == [("pending", 0, 0)]
    assert (bench.runs_of(), bench.probes()) == (1, 1)
    assert worker.metric(bench.dsn, "turbo_account_paused", account="claude", reason="auth") == 1


def test_broken_cli_pauses_its_host_and_poisons_nothing(bench: AccountsBench) -> None:
    home = bench.path / "alpha" / ".claude"
    home.mkdir(parents=True)
    (home / ".claude.json").write_text("{ not json")
    alpha = bench.worker("alpha")
    for task_id in TASKS[:3]:
        bench.task(task_id, max_retries=0)
    bench.until(lambda: bench.breakers() == {(ACCOUNT, "alpha"): ("paused", "auth")})
    bench.until(lambda: bench.counts(*TASKS[:3]) == [("pending", 0, 0)] * 3)
    assert ".claude.json" in bench.breaker("alpha")["why"]
    assert bench.api.requests == []
    assert alpha.metric(bench.dsn, "turbo_auth_failures_total", account=ACCOUNT) == 0
    assert alpha.metric(bench.dsn, "turbo_tasks_finished_total", outcome="infrastructure") == 3
    beta = bench.worker("beta")
    bench.until(lambda: bench.counts(*TASKS[:3]) == [("completed", 0, 0)] * 3)
    assert bench.sql("select assigned_worker_id, count(*) from agent_tasks group by 1") == [(beta.worker_id, 3)]


def test_failing_executor_does_not_pause_its_account(bench: AccountsBench) -> None:
    config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": GOOD})
    config["executors"]["odd"] = {**config["executors"]["claude"]}
    config["executors"]["odd"]["command"] = [*config["executors"]["claude"]["command"], "--no-such-flag"]
    config["routes"]["odd"] = "odd"
    bench.start(config).listening()
    bench.task("odd", task_type="odd", max_retries=0)
    row = bench.wait("odd", "failed", 60)
    assert (row["failure_kind"], row["retry_count"], row["infra_count"]) == ("poison", 0, 5)
    assert bench.probes() == 1, "a good probe speaks for the CLI for a minute"
    assert bench.breakers() == {}
    bench.task("t")
    bench.wait("t")
