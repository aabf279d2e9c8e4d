"""The real Claude CLI asks through a real worker: the conversation goes on after its worker and the server were killed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import messages_api
from tests.support.accounts import AccountsBench, accounts_bench, is_probe
from tests.support.claude import KEY
from tests.support.claude_asking import calls, question, shell
from tests.support.messages_api import Answer, Request
from turbo import embedded


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def test_conversation_outlives_its_worker_and_a_server_crash(own_server: embedded.Server, tmp_path: Path) -> None:
    with accounts_bench(own_server.dsn, tmp_path) as bench:

        def decide(request: Request) -> Answer:
            if is_probe(request) or "MariaDB" in request.everything:
                return messages_api.text("done with it")
            return calls(question("Which database?"))

        bench.api.decide = decide
        ask = {"remind_seconds": 600}
        first = bench.worker("alpha", ask=ask)
        bench.task("t", "make it", max_retries=0)
        row = bench.wait("t", "waiting")
        assert (row["question"]["text"], row["question"]["remind_seconds"], row["prefer_host"]) == (
            "Which database?",
            600,
            "alpha",
        )
        session, usage = row["agent_session_id"], row["output_data"]["usage"]
        first.kill(signal.SIGKILL)
        own_server.stop("immediate")
        bench.sessions.close()
        own_server.start_again()
        bench.sql("update agent_tasks set answer = 'MariaDB' where task_id = 't'")
        second = bench.worker("alpha", ask=ask)
        row = bench.wait("t")
        assert row["assigned_worker_id"] == second.worker_id
        assert (row["output_data"]["output"], row["output_data"]["session_id"]) == ("done with it", session)
        assert (row["retry_count"], row["infra_count"]) == (0, 0)
        assert bench.runs_of() == 2, "one question, one answer"
        assert bench.api.requests[-1].everything.count("make it") == 1, "the same conversation"
        trail = bench.sql(
            "select action_type, detail -> 'usage' from agent_actions where task_id = 't' order by action_id"
        )
        assert [kind for kind, _ in trail] == ["claimed", "asked", "answered", "claimed", "finished"]
        assert trail[1][1] == usage
        assert usage[0]["output_tokens"] == 20
        assert row["output_data"]["usage"][0]["output_tokens"] == 7
        assert second.metric(bench.dsn, "turbo_tasks_finished_total", executor="claude", outcome="succeeded") == 1


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
