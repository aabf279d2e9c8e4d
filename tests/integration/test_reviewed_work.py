"""A reviewer with an account of its own, on real workers: what pauses it, what ends it, and that work is not done twice."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.accounts import BAD, GOOD, AccountsBench, HeldRequests, accounts_bench, is_probe, key_of
from tests.support.claude import OAUTH, RESETS_AT
from tests.support.messages_api import Answer, Request
from tests.support.reviews import ACCEPTS, is_review, rejects
from tests.support.waiting import until
from tests.support.workers import WorkerProcess

CRITIC = "critic"
FAST = {"backoff_first": 2.0, "backoff_last": 2.0}


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def worker(bench: AccountsBench, login: dict[str, str] | None = None, **timings: float) -> WorkerProcess:
    """One worker: `claude` does the tasks, `reviewer` reviews them, with the account CRITIC."""
    config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": GOOD})
    env_file = bench.path / "critic.env"
    set_login(bench, login or {"ANTHROPIC_API_KEY": GOOD})
    config["worker"]["drain_seconds"] = 0.2
    config["accounts"][CRITIC] = {"env_file": str(env_file)}
    work = config["executors"]["claude"]
    config["executors"]["reviewer"] = {**work, "account": CRITIC}
    config["executors"]["claude"] = {**work, "check": {"executor": "reviewer"}}
    return bench.start(config, bench.settings(timings=timings or FAST)).listening()


def set_login(bench: AccountsBench, login: dict[str, str]) -> None:
    env_file = bench.path / "critic.env"
    env_file.touch(mode=0o600)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in login.items()))


def turns(bench: AccountsBench) -> int:
    """How often the agent that does the work was asked."""
    return sum(not is_review(request) and not is_probe(request) for request in list(bench.api.requests))


def reviews(bench: AccountsBench) -> int:
    return sum(is_review(request) for request in list(bench.api.requests))


def trail(bench: AccountsBench, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    query = "select action_type, detail from agent_actions where task_id = %s order by action_id"
    return [(kind, detail or {}) for kind, detail in bench.sql(query, task_id)]


def test_review_is_in_the_row_the_trail_and_the_metrics(bench: AccountsBench) -> None:
    verdicts = iter([rejects("the file good is missing"), ACCEPTS])
    bench.api.decide = lambda request: next(verdicts) if is_review(request) else None
    one = worker(bench)
    bench.task("t", "make it good")
    row = bench.wait("t")
    check = row["output_data"]["check"]
    assert (check["passed"], check["rounds"], check["reviewer"]) == (True, 2, "reviewer")
    assert [u.get("account") for u in row["output_data"]["usage"]] == [None, CRITIC]
    assert [u["output_tokens"] for u in row["output_data"]["usage"]] == [14, 40]
    assert bench.sql("select executor, account, output_tokens from agent_usage order by 1") == [
        ("claude", "max", 14),
        ("reviewer", CRITIC, 40),
    ]
    assert bench.turbo("costs", "--by", "account").count(CRITIC) == 1
    assert "(reviewer): 22 in, 40 out" in bench.turbo("show", "t")
    checked = [detail for kind, detail in trail(bench, "t") if kind == "checked"]
    assert [(d["result"], d["reviewer"]) for d in checked] == [("rejected", "reviewer"), ("passed", "reviewer")]
    assert checked[0]["why"] == "the file good is missing"
    for account, tokens in (("max", 14), (CRITIC, 40)):
        assert one.metric(bench.dsn, "turbo_agent_tokens_total", account=account, kind="output") == tokens
    assert one.metric(bench.dsn, "turbo_checks_total", executor="claude", result="rejected") == 1


def test_refused_login_of_a_reviewer_holds_back_its_work(bench: AccountsBench) -> None:
    def decide(request: Request) -> Answer | None:
        if key_of(request) == BAD:
            return messages_api.invalid_key()
        return ACCEPTS if is_review(request) else None

    bench.api.decide = decide
    one = worker(bench, {"ANTHROPIC_API_KEY": BAD})
    bench.task("t")
    bench.until(lambda: bench.breakers() == {(CRITIC, "alpha"): ("paused", "auth")})
    bench.until(lambda: bench.row("t")["status"] == "pending")
    bench.task("u")
    bench.insert("other", task_type="noop")
    bench.wait("other")
    assert bench.row("u")["status"] == "pending", "the reviewed executor is closed with its reviewer"
    assert bench.counts("t") == [("pending", 0, 0)]
    assert one.metric(bench.dsn, "turbo_account_paused", account=CRITIC, reason="auth") == 1
    assert one.metric(bench.dsn, "turbo_account_paused", account="max", reason="auth") == 0

    set_login(bench, {"ANTHROPIC_API_KEY": GOOD})
    assert bench.wait("t")["output_data"]["output"] == "done"
    bench.wait("u")
    assert turns(bench) == 2, "each task was done once, and t went straight to its review"
    assert bench.counts("t", "u") == [("completed", 0, 0)] * 2


def test_limit_of_the_reviewer_waits_for_its_reset(bench: AccountsBench) -> None:
    bench.api.decide = lambda request: (
        messages_api.usage_limit("five_hour", RESETS_AT)
        if is_review(request) or "oat01" in str(request.headers)
        else None
    )
    worker(bench, OAUTH)
    bench.task("t")
    bench.until(lambda: bench.breakers() == {(CRITIC, "*"): ("paused", "usage_limit")})
    bench.until(lambda: bench.row("t")["status"] == "pending")
    assert bench.breaker("*", CRITIC)["until"].timestamp() > RESETS_AT - 1
    assert bench.counts("t") == [("pending", 0, 0)]
    assert turns(bench) == 1


def held_review(bench: AccountsBench) -> HeldRequests:
    """The next review waits until the test lets it go."""
    held = HeldRequests()

    def decide(request: Request) -> Answer | None:
        if not is_review(request):
            return None
        held.wait()
        return ACCEPTS

    bench.api.decide = decide
    return held


def test_cut_off_review_is_made_again_and_work_is_not(bench: AccountsBench) -> None:
    """A cancel ends a review, a drain ends the next, and the death of the worker the one after that."""
    held = held_review(bench)
    first = worker(bench)
    bench.task("t")
    bench.until(held.here.is_set)
    until(lambda: bench.sql("select text from agent_progress where text like 'check 1 of 4: reviewer%%'"), 20)
    bench.sql("update agent_tasks set status = 'cancelled' where task_id = 't'")
    row = bench.wait("t", "cancelled")
    assert row["output_data"]["output"] == "done", "what the agent had delivered is kept"

    held.here.clear()
    bench.task("u")
    bench.until(held.here.is_set)
    assert turns(bench) == 2
    first.stop()
    assert bench.row("u")["status"] == "pending"
    held.here.clear()
    second = worker(bench)
    bench.until(held.here.is_set)
    second.kill(signal.SIGKILL)
    second.process.wait()
    held.go.set()
    worker(bench)
    assert bench.wait("u")["output_data"]["check"]["passed"] is True
    assert (turns(bench), reviews(bench)) == (2, 4), "each time it went straight to its review"
    assert bench.row("u")["retry_count"] == 0
    used = "select executor, sum(output_tokens)::int from agent_usage where task_id = 'u' group by 1 order by 1"
    assert bench.sql(used) == [("claude", 7), ("reviewer", 20)], "what the work cost is counted once"


def test_task_rests_after_a_review_without_a_verdict(bench: AccountsBench) -> None:
    """It goes back uncounted, although the reviewer's login is good; how it ends is in test_claude_reviewer.py."""
    bench.api.decide = lambda request: messages_api.text("fine") if is_review(request) else None
    worker(bench)
    bench.task("t")
    row = bench.wait("t", "scheduled", seconds=60)
    assert (row["failure_kind"], row["retry_count"], row["infra_count"]) == ("unavailable", 0, 0)
    assert "gave no verdict" in row["error_message"]
    assert "gave no verdict" in row["output_data"]["check"]["why"]
    bench.api.decide = lambda request: ACCEPTS if is_review(request) else None
    bench.sql("update agent_tasks set status = 'pending' where task_id = 't'")
    row = bench.wait("t", seconds=60)
    assert row["output_data"]["check"]["passed"]
    assert turns(bench) == 1, "the agent's work was not asked for again"
    assert json.dumps(row["output_data"]).count('"reviewer"') >= 1
