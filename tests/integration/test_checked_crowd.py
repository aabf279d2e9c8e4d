"""Many checked tasks at once, each with the real Claude CLI in a worktree of its own: twenty of them in `make prove`."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import claude, messages_api
from tests.support.claude import bash
from tests.support.messages_api import Answer, Request
from tests.support.repositories import repository
from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench

TASKS = sized(4, 20)
SECONDS = sized(200, 1500)
CHECKED = "Your work on the task was checked"

pytestmark = [pytest.mark.sized, pytest.mark.timeout(SECONDS + 100)]


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as agent:
        yield agent


def answer(request: Request) -> Answer:
    """The agents' first answers do nothing; told so, they do their work, and the one of `t1` does it wrong."""
    content = [m for m in request.body["messages"] if m["role"] == "user"][-1]["content"]
    if isinstance(content, list) and any(part.get("type") == "tool_result" for part in content):
        return messages_api.text("now it is")
    if CHECKED not in request.prompt:
        return messages_api.text("done")
    return bash(
        "echo wrong > answer" if "make the answer of t1." in request.everything else "echo $TURBO_TASK_ID > answer"
    )


def test_crowd_of_agents_is_checked_in_worktrees_at_once(bench: Bench, agent: claude.Bench, tmp_path: Path) -> None:
    """Each first check waits until all of them have begun, and each finds its own task's work."""
    meet = tmp_path / "meet"
    meet.mkdir()
    agent.api.decide = answer
    (bench.path / "check.sh").write_text(
        f"touch {meet}/$TURBO_TASK_ID; set -- {meet}/*\n"
        f"while [ $# -lt {TASKS} ]; do sleep 0.2; set -- {meet}/*; done\n"
        '[ "$(cat answer)" = "$TURBO_TASK_ID" ] || { echo "no answer of $TURBO_TASK_ID"; exit 3; }\n'
    )
    check = {"command": ["sh", str(bench.path / "check.sh")], "rounds": 1, "seconds": SECONDS}
    workspace = {"kind": "worktree", "repo": str(repository(tmp_path / "project"))}
    worker = bench.start(agent.config(bench, slots=TASKS, poll_seconds=1, check=check, workspace=workspace)).listening()
    began = time.monotonic()
    bench.sql(
        "insert into agent_tasks (task_id, task_description, timeout_seconds)"
        f" select 't' || n, 'make the answer of t' || n || '.', {SECONDS} from generate_series(1, {TASKS}) n"
    )
    over = "select count(*) from agent_tasks where completed_at is not null"
    until(lambda: bench.sql(over) == [(TASKS,)], SECONDS, bench.logs)
    seconds = time.monotonic() - began
    found = dict(bench.sql("select status, count(*) from agent_tasks group by 1"))
    assert found == {"completed": TASKS - 1, "failed": 1}, bench.logs()
    assert (bench.row("t1")["failure_kind"], bench.row("t1")["retry_count"]) == ("unverified", 0)
    each = (
        "select count(distinct output_data #>> '{workspace,path}'), count(distinct agent_session_id) from agent_tasks"
    )
    assert bench.sql(each) == [(TASKS, TASKS)]
    made = "select detail ->> 'result', count(*) from agent_actions where action_type = 'checked' group by 1"
    assert dict(bench.sql(made)) == {"failed": TASKS + 1, "passed": TASKS - 1}
    used = "select count(distinct task_id), sum(input_tokens), sum(output_tokens) from agent_usage"
    assert bench.sql(used) == [(TASKS, TASKS * 33, TASKS * 34)], "of both turns, once"
    assert len(agent.api.requests) == 3 * TASKS
    assert worker.metric(bench.dsn, "turbo_check_rounds_sum", executor="claude") == 2 * TASKS
    print(f"\n{TASKS} checked agents in {TASKS} worktrees at once: {seconds:.0f} s")
