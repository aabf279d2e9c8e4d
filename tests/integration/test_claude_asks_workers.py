"""Claude asks a person, with real workers: kills, a server crash and deadlines between the question and its answer.

The real CLI runs against a scripted model on loopback; answers are written by psql.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude, messages_api, workers
from tests.support.claude_asking import calls, question, shell
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo import embedded

RULE = "Bash(touch *)"


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as agent:
        yield agent


def psql(server: embedded.Server, statement: str) -> None:
    server.run("psql", server.dsn, "-qXc", statement)


def asked(bench: Bench, task_id: str, number: int = 1) -> dict[str, Any]:
    def waits() -> bool:
        row = bench.row(task_id)
        return row["status"] == "waiting" and row["question"]["number"] == number

    until(waits, 60, lambda: f"{bench.row(task_id)}\n{bench.logs()}")
    return bench.row(task_id)


def uses(output: dict[str, Any]) -> list[tuple[int, int]]:
    return [(one["input_tokens"], one["output_tokens"]) for one in output["usage"]]


def test_answer_reaches_its_conversation_after_crashes(
    own_server: embedded.Server, tmp_path: Path, agent: claude.Bench
) -> None:
    with workers.bench(own_server.dsn, tmp_path) as bench:
        config = agent.config(bench, poll_seconds=0.5, ask={"approve": [RULE]})
        agent.api.answer(calls(question("Which database?")), calls(shell("touch made")), messages_api.text("done"))
        first = bench.start(config).listening()
        bench.insert("t", max_retries=0, timeout_seconds=100)
        session = asked(bench, "t")["agent_session_id"]
        first.kill(signal.SIGKILL)
        own_server.stop("immediate")
        bench.sessions.close()
        own_server.start_again()
        psql(own_server, "update agent_tasks set answer = 'Postgres' where task_id = 't'")
        bench.start(config).listening()

        # The answer is in the conversation that asked, once; and the same agent now needs an approval.
        row = asked(bench, "t", 2)
        assert (row["question"]["kind"], row["question"]["tool"], row["question"]["rule"]) == ("approval", "Bash", RULE)
        assert row["question"]["input"]["command"] == "touch made"
        told = agent.api.requests[-1].everything
        assert told.count('\\"Which database?\\"=\\"Postgres\\"') == 1
        psql(own_server, "update agent_tasks set answer = 'yes' where task_id = 't'")
        row = bench.wait("t", seconds=60)

        assert (row["output_data"]["output"], row["agent_session_id"]) == ("done", session)
        assert (row["retry_count"], row["infra_count"]) == (0, 0)
        assert len(agent.api.requests) == 3, "nothing was asked of the model twice"
        assert len(list(bench.path.rglob("made"))) == 1, "the approved call was made"
        assert bench.trail("t") == ["claimed", "asked", "answered"] * 2 + ["claimed", "finished"]
        assert uses(row["output_data"]) == [(11, 7)]
        assert [uses(run) for run in row["output_data"]["earlier_runs"]] == [[(11, 20)], [(11, 20)]]
        query = "select detail from agent_actions where action_type in ('asked', 'finished') order by action_id"
        assert [uses(detail) for (detail,) in bench.sql(query)] == [[(11, 20)], [(11, 20)], [(11, 7)]]


@pytest.mark.parametrize("then", ["proceed", "fail"])
def test_claude_question_without_an_answer_in_time(then: str, bench: Bench, agent: claude.Bench) -> None:
    agent.api.answer(calls(question("Which database?")), messages_api.text("chose one"))
    bench.start(agent.config(bench, poll_seconds=0.5, ask={"within_seconds": 0.2, "then": then})).listening()
    bench.insert("t", timeout_seconds=100, max_retries=0)
    row = bench.wait("t", "completed" if then == "proceed" else "failed", seconds=60)
    if then == "proceed":
        assert "Nobody answered this in time" in agent.api.requests[-1].everything
        assert row["output_data"]["output"] == "chose one"
    else:
        assert (row["failure_kind"], len(agent.api.requests)) == ("unanswered", 1)
    assert "unanswered" in bench.trail("t")
