"""The real Claude CLI asks for approvals through a real worker: granted, denied, and not answered in time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import messages_api
from tests.support.accounts import AccountsBench, accounts_bench, is_probe
from tests.support.claude import KEY
from tests.support.claude_asking import calls, shell
from tests.support.messages_api import Answer, Request


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def test_approvals_are_granted_denied_and_expire(bench: AccountsBench) -> None:
    def decide(request: Request) -> Answer:
        if is_probe(request) or "tool_result" in request.everything:
            return messages_api.text("ended")
        return calls(shell("cd . && git push origin main 2>pushed.txt || true"))

    bench.api.decide = decide
    ask = {"approve": ["Bash(git push *)"], "within_seconds": 3600}
    config = bench.claude("alpha", login=KEY, ask=ask, allowed_tools=["Bash"], worker={"poll_seconds": 0.3})
    claude = config["executors"]["claude"]
    config["executors"] |= {
        "soon": {**claude, "ask": {**ask, "within_seconds": 0.1}},
        "strict": {**claude, "ask": {**ask, "within_seconds": 0.1, "then": "fail"}},
    }
    config["routes"] |= {"soon": "soon", "strict": "strict"}
    bench.start(config, bench.settings()).listening()
    for task in ("granted", "denied", "soon", "strict"):
        bench.task(task, f"task {task}", task_type=task, max_retries=0)
    for task in ("granted", "denied"):
        question = bench.wait(task, "waiting")["question"]
        assert (question["kind"], question["tool"], question["rule"], question["then"]) == (
            "approval",
            "Bash",
            "Bash(git push *)",
            "deny",
        )
    bench.sql("update agent_tasks set answer = 'yes' where task_id = 'granted'")
    bench.sql("update agent_tasks set answer = 'no, because main is protected' where task_id = 'denied'")
    for task in ("granted", "denied", "soon"):
        row = bench.wait(task)
        assert (row["output_data"]["output"], row["retry_count"]) == ("ended", 0)
    row = bench.wait("strict", "failed")
    assert row["failure_kind"] == "unanswered"
    pushed = [file.parent.name for file in bench.path.rglob("pushed.txt")]
    assert len(pushed) == 1, "only the approved call was made"

    def requests(task: str) -> list[Request]:
        return [one for one in bench.api.requests if f"task {task}" in one.everything]

    assert {task: len(requests(task)) for task in ("granted", "denied", "soon", "strict")} == {
        "granted": 2,
        "denied": 2,
        "soon": 2,
        "strict": 1,
    }
    assert "main is protected" in requests("denied")[-1].everything
    assert not any("main is protected" in one.everything for one in requests("granted"))
