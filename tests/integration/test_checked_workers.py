"""Checked work by real workers: rows, trail, metrics, kills in the middle of a check, and twenty at once."""

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude, messages_api, prefork
from tests.support.claude import bash, the_cli
from tests.support.prefork import TURBO
from tests.support.processes import PYTHON
from tests.support.repositories import commit, repository
from tests.support.waiting import until
from tests.support.workers import Bench

WANTS_GOOD = 'grep -q good "$PWD/answer" || { echo "no good answer"; exit 3; }'
FAILS_THEN = [messages_api.text("done"), bash("echo good > answer"), messages_api.text("now it is")]


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as agent:
        yield agent


def config(bench: Bench, agent: claude.Bench | None, script: str = "", **more: Any) -> dict[str, Any]:
    """The default executor is the Claude CLI in its scrubbed home, else the ledger's program; its check is this script."""
    check = bench.path / "check.sh"
    check.write_text(script)
    made = bench.config(slots=2, poll_seconds=0.5)
    if agent is not None:
        made["executors"]["claude"] = {
            "kind": "claude",
            "command": [the_cli()],
            "model": "sonnet",
            "env": agent.scrubbed(),
            "account": "alpha",
            "allowed_tools": ["Bash"],
            "cli_max_retries": 0,
        }
        made["accounts"] = {"alpha": {"env_file": str(agent.login())}}
        made["routes"]["default"] = "claude"
    one = made["executors"][made["routes"]["default"]]
    one["check"] = {"command": ["sh", str(check)]} if script else {}
    workspace = more.pop("workspace", None)
    one["check"] |= more
    if workspace is not None:
        one["workspace"] = {"kind": "worktree", "repo": str(workspace)}
    return made


def checks_in_trail(bench: Bench, task_id: str) -> list[dict[str, Any]]:
    query = "select detail from agent_actions where task_id = %s and action_type = 'checked' order by action_id"
    return [detail for (detail,) in bench.sql(query, task_id)]


def holds(bench: Bench) -> str:
    """A check that says that it has begun, and waits for a file."""
    began, go = shlex.quote(str(bench.path / "began")), shlex.quote(str(bench.path / "go"))
    return f"echo $TURBO_TASK_ID >> {began}; echo waiting; while [ ! -e {go} ]; do sleep 0.05; done; {WANTS_GOOD}"


def began(bench: Bench, times: int = 1) -> None:
    file = bench.path / "began"
    until(lambda: file.exists() and len(file.read_text().split()) >= times, 60, lambda: bench.logs())


def test_second_round_completes_with_the_cost_of_both(bench: Bench, agent: claude.Bench) -> None:
    agent.api.answer(*FAILS_THEN)
    worker = bench.start(config(bench, agent, WANTS_GOOD)).listening()
    bench.insert("t", timeout_seconds=100)
    row = bench.wait("t", seconds=60)
    output = row["output_data"]
    assert (output["output"], row["failure_kind"], row["error_message"]) == ("now it is", None, None)
    assert {key: output["check"][key] for key in ("passed", "rounds", "exit_code", "output", "why")} == {
        "passed": True, "rounds": 2, "exit_code": 0, "output": "", "why": None,
    }  # fmt: skip
    assert [(used["input_tokens"], used["output_tokens"]) for used in output["usage"]] == [(33, 34)]
    assert output["usage"][0]["cost_usd"] > 0
    assert bench.trail("t") == ["claimed", "checked", "checked", "finished"]
    first, second = checks_in_trail(bench, "t")
    assert (first["number"], first["passed"], first["result"], first["exit_code"]) == (1, False, "failed", 3)
    assert (second["number"], second["passed"], second["result"], second["exit_code"]) == (2, True, "passed", 0)
    assert (first["executor"], "failed with exit code 3" in first["why"], "why" in second) == ("claude", True, False)
    query = "select success, actor, execution_time_ms >= 0, fencing_token > 0 from agent_actions where action_type = 'checked'"
    assert bench.sql(query) == [(False, worker.worker_id, True, True), (True, worker.worker_id, True, True)]
    assert len({json.dumps(r.body["metadata"]) for r in agent.api.requests}) == 1, "one conversation"
    for result in ("failed", "passed"):
        assert worker.metric(bench.dsn, "turbo_checks_total", executor="claude", result=result) == 1
    assert worker.metric(bench.dsn, "turbo_check_rounds_sum", executor="claude") == 2
    assert worker.metric(bench.dsn, "turbo_pickup_seconds_count", queue="default") == 1, "once a run"


def test_worker_killed_in_a_check_leaves_it_to_the_next(bench: Bench, agent: claude.Bench) -> None:
    agent.api.answer(*FAILS_THEN)
    made = config(bench, agent, holds(bench))
    first = bench.start(made).listening()
    bench.insert("t", timeout_seconds=100, max_retries=0)
    began(bench)
    shown = f"check 1 of 4: sh {bench.path}/check.sh: waiting"
    until(lambda: bench.sql("select text from agent_progress") == [(shown,)], 30, bench.logs)
    first.kill(signal.SIGKILL)
    second = bench.start(made).listening()
    began(bench, 2)
    assert len(agent.api.requests) == 1, "straight to the check"
    second.kill(signal.SIGKILL)
    (bench.path / "go").touch()
    bench.start(made).listening()
    row = bench.wait("t", seconds=60)
    output = row["output_data"]
    assert (output["output"], output["check"]["rounds"], len(agent.api.requests)) == ("now it is", 2, 3)
    assert [(used["input_tokens"], used["output_tokens"]) for used in output["usage"]] == [(33, 34)], (
        "of all three runs"
    )
    assert bench.sql("select sum(input_tokens), sum(output_tokens) from agent_usage") == [(33, 34)]
    assert bench.trail("t").count("checked") == 2
    assert row["infra_count"] == 2


def test_killed_workers_check_leaves_nothing_to_the_agent(bench: Bench, tmp_path: Path) -> None:
    """Its report lies among the protected files when the worker is killed; a program has only one check."""
    repo = repository(tmp_path / "project")
    (repo / "tests").mkdir()
    commit(repo, "tests", **{"tests/a.py": "x\n", "answer": "good\n"})
    made = config(bench, None, f"touch tests/report.xml; {holds(bench)}", workspace=repo, protect=["tests/**"])
    first = bench.start(made).listening()
    bench.insert("t", timeout_seconds=100, max_retries=0)
    began(bench)
    first.kill(signal.SIGKILL)
    (bench.path / "go").touch()
    bench.start(made).listening()
    row = bench.wait("t", seconds=60)
    assert (row["output_data"]["check"]["passed"], row["infra_count"]) == (True, 1)
    assert bench.sql("select count(*) from agent_actions where action_type = 'checked'") == [(1,)]


@pytest.mark.parametrize("way", ["cancel", "drain"])
def test_run_that_ends_in_a_check(bench: Bench, agent: claude.Bench, way: str) -> None:
    agent.api.answer(*FAILS_THEN)
    made = config(bench, agent, holds(bench))
    made["worker"]["drain_seconds"] = 0
    worker = bench.start(made).listening()
    bench.insert("t", timeout_seconds=100, max_retries=0)
    began(bench)
    if way == "cancel":
        bench.sql("update agent_tasks set status = 'cancelled' where task_id = 't'")
        row = bench.wait("t", "cancelled", seconds=30)
        assert row["output_data"]["output"] == "done", "what the agent had delivered is kept"
        assert bench.trail("t").count("finished") == 1
        return
    assert worker.stop() == 0
    row = bench.row("t")
    assert (row["status"], row["retry_count"], row["infra_count"]) == ("pending", 0, 0)
    (bench.path / "go").touch()
    bench.start(made).listening()
    output = bench.wait("t", seconds=60)["output_data"]
    assert (output["output"], output["check"]["rounds"], len(agent.api.requests)) == ("now it is", 2, 3)
    assert [(used["input_tokens"], used["output_tokens"]) for used in output["usage"]] == [(22, 27)], "its own share"
    used = bench.sql("select input_tokens, output_tokens from agent_usage order by at")
    assert used == [(11, 7), (22, 27)], "the drained run told its own"


@pytest.mark.timeout(400)
def test_twenty_checks_in_twenty_worktrees_at_once(bench: Bench, tmp_path: Path) -> None:
    """Each check waits until all of them have begun, and finds its own task's work."""
    repo = repository(tmp_path / "project")
    meet = tmp_path / "meet"
    meet.mkdir()
    script = (
        f"touch {meet}/$TURBO_TASK_ID; n=0; set -- {meet}/*; "
        f"while [ $# -lt 20 ]; do sleep 0.3; n=$((n+1)); [ $n -lt 800 ] || exit 9; set -- {meet}/*; done; "
        '[ "$(cat work)" = $TURBO_TASK_ID ] && [ $TURBO_TASK_ID != t7 ]'
    )
    made = config(bench, None, script, workspace=repo, requires=["changes"])
    made["worker"]["slots"] = 20
    made["executors"]["ledger"]["command"] = ["sh", "-c", "echo $TURBO_TASK_ID > work"]
    bench.start(made).listening()
    bench.sql("insert into agent_tasks (task_id, task_description) select 't' || n, 'x' from generate_series(1, 20) n")
    until(
        lambda: bench.sql("select count(*) from agent_tasks where completed_at is not null") == [(20,)], 300, bench.logs
    )
    found = dict(bench.sql("select status, count(*) from agent_tasks group by 1"))
    assert found == {"completed": 19, "failed": 1}
    row = bench.row("t7")
    assert (row["failure_kind"], row["retry_count"]) == ("unverified", 0)
    places = bench.sql("select count(distinct output_data -> 'workspace' ->> 'path') from agent_tasks")
    assert places == [(20,)]
    assert bench.sql("select count(*) from agent_actions where action_type = 'checked'") == [(20,)]


def test_protected_test_that_an_agent_edits_comes_back(bench: Bench, agent: claude.Bench, tmp_path: Path) -> None:
    repo = repository(tmp_path / "project")
    (repo / "tests").mkdir()
    (repo / "tests" / "check.sh").write_text("grep -q good answer\n")
    commit(repo, "tests")
    edits = bash("echo true > tests/check.sh; git -c user.name=a -c user.email=a@b commit -qam easy")
    restores = bash("git reset -q --hard HEAD~1; echo good > answer")
    agent.api.answer(edits, messages_api.text("done"), restores, messages_api.text("fair"))
    made = config(bench, agent, "sh tests/check.sh", workspace=repo, protect=["tests/**"])
    bench.start(made).listening()
    bench.insert("t", timeout_seconds=100)
    row = bench.wait("t", seconds=60)
    assert (row["output_data"]["output"], row["output_data"]["check"]["rounds"]) == ("fair", 2)
    first, second = checks_in_trail(bench, "t")
    assert (first["result"], first["why"]) == ("protected", "protected files were changed: tests/check.sh")
    assert second["result"] == "passed"
    assert "tests/check.sh" in agent.api.requests[2].prompt


@pytest.mark.parametrize("ignored", [False, True], ids=["guarded", "verdict ignored"])
def test_bad_work_is_completed_only_without_the_verdict(bench: Bench, ignored: bool) -> None:
    without = ("verdict",) if ignored else ()
    bench.start(config(bench, None, "echo bad; exit 1"), without=without).listening()
    bench.insert("t")
    row = bench.wait("t", "completed" if ignored else "failed")
    assert row["failure_kind"] == (None if ignored else "unverified")
    if not ignored:
        assert row["error_message"].startswith("not verified: check 1: sh ")
        assert bench.trail("t") == ["claimed", "checked", "finished"]
        assert (row["retry_count"], row["output_data"]["output"]) == (0, {"done": "t"})


def test_check_that_kills_its_parent_ends_one_task(bench: Bench) -> None:
    """It kills its worker once; the next one goes straight to the check."""
    killed = bench.path / "killed"
    made = config(
        bench,
        None,
        f"[ -e {killed} ] || {{ touch {killed}; kill -9 $PPID $(cat {bench.path}/ledger.worker); sleep 60; }}",
    )
    first = bench.start(made).listening()
    bench.insert("t")
    until(lambda: first.process.poll() is not None, 30, bench.logs)
    bench.start(made).listening()
    row = bench.wait("t")
    assert (bench.runs()["t"], row["infra_count"], row["output_data"]["check"]["passed"]) == (1, 1, True)


def test_executor_with_a_missing_check_takes_no_task(bench: Bench) -> None:
    made = config(bench, None, "true")
    made["executors"]["ledger"]["check"]["command"] = [str(bench.path / "no-such-check")]
    worker = bench.start(made).listening()
    bench.insert("t")
    worker.said("no-such-check")
    bench.insert("n", task_type="noop")
    bench.wait("n")
    assert bench.row("t")["status"] == "pending"


def test_reply_to_tampered_work_passes_once_it_is_put_back(bench: Bench, tmp_path: Path) -> None:
    repo = repository(tmp_path / "project")
    (repo / "tests").mkdir()
    (repo / "tests" / "a.py").write_text("assert f() == 4\n")
    commit(repo, "tests")
    made = config(bench, None, "true", workspace=repo, protect=["tests/**"])
    read = "import json,sys; print(json.load(sys.stdin)['task_description'])"
    made["executors"]["ledger"]["command"] = ["sh", "-ec", f'eval "$({PYTHON[0]} -c "{read}")"']
    bench.start(made).listening()
    insert = "insert into agent_tasks (task_id, task_description, continues) values (%s, %s, %s)"
    bench.sql(insert, "a", "echo easy > tests/a.py", None)
    bench.wait("a", "failed")
    bench.sql(insert, "b", "true", "a")
    row = bench.wait("b", "failed")
    assert (row["failure_kind"], row["output_data"]["check"]["protect"]) == ("unverified", ["tests/a.py"])
    bench.sql(insert, "c", "git checkout -q -- tests", "b")
    bench.wait("c")
    bench.sql(insert, "d", "echo easy > tests/a.py", "c")
    bench.wait("d", "failed")
    bench.sql("update agent_tasks set status = 'completed' where task_id = 'd'")
    bench.sql(insert, "e", "true", "d")
    assert bench.wait("e")["output_data"]["check"]["passed"], "a person has accepted what the one before it left"


def test_task_whose_check_cannot_be_made_waits_and_is_kept(bench: Bench) -> None:
    """It is hurried by hand more often than a task may meet faults of the host."""
    up = bench.path / "up"
    made = config(bench, None, f"[ -e {up} ] || {{ echo the database is down; exit 75; }}")
    worker = bench.start(made).listening()
    bench.insert("t", max_retries=0)
    counted = "select count(*) from agent_actions where task_id = 't' and action_type = 'finished'"
    for times in range(1, 8):
        until(lambda times=times: bench.sql(counted) == [(times,)], 30, bench.logs)  # type: ignore[misc]
        row = bench.row("t")
        assert (row["status"], row["failure_kind"], row["retry_count"], row["infra_count"]) == (
            "scheduled", "unavailable", 0, 0,
        )  # fmt: skip
        if times < 7:
            bench.sql("update agent_tasks set status = 'pending' where task_id = 't'")
    waits = "select extract(epoch from run_after - now())::int from agent_tasks where task_id = 't'"
    assert 200 < bench.sql(waits)[0][0] <= 600, "it waits longer each time"
    shown = prefork.run_text([TURBO, "show", "t", "--dsn", bench.dsn]).stdout
    assert "exit code 75" in next(line for line in shown.splitlines() if line.startswith("check "))
    assert "the database is down" in next(line for line in shown.splitlines() if line.startswith("check printed"))
    assert ".check1.log" in next(line for line in shown.splitlines() if line.startswith("check log"))
    assert "the database is down" in next(line for line in shown.splitlines() if line.startswith("error"))
    assert worker.metric(bench.dsn, "turbo_retries_total", reason="unavailable") == 7
    up.touch()
    bench.sql("update agent_tasks set status = 'pending' where task_id = 't'")
    output = bench.wait("t")["output_data"]
    assert (bench.runs()["t"], output["check"]["passed"], output["check"]["rounds"]) == (1, True, 1)
    assert bench.trail("t").count("checked") == 1
