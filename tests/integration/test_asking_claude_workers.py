"""The real Claude CLI asks through a real worker: the conversation goes on after its worker and the server were killed."""

import signal
from pathlib import Path

from tests.support import messages_api
from tests.support.accounts import accounts_bench, is_probe
from tests.support.claude_asking import calls, question
from tests.support.messages_api import Answer, Request
from turbo import embedded


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
