"""Workspaces with real workers, on a clone of turbo's own repository; the truth is what git says afterwards."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import database, messages_api, prefork
from tests.support.accounts import accounts_bench
from tests.support.prefork import TURBO
from tests.support.repositories import IDENTITY, checkout, git, own_clone
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

MANY = 20

COMMITTER = """
import json, os, pathlib, signal, subprocess, sys, time
task = json.load(sys.stdin)
data = task["input_data"]
ledger, worker = sys.argv[1], sys.argv[2]
def note(**more):
    with open(ledger, "a") as file:
        file.write(json.dumps({"task": task["task_id"], "attempt": task["attempt"], "cwd": os.getcwd(), **more}) + "\\n")
def git(*arguments):
    subprocess.run(["git", *arguments], check=True, stdout=subprocess.DEVNULL)
changelog = pathlib.Path("CHANGELOG.md")
text = changelog.read_text()
found = sorted(path.name for path in pathlib.Path().glob("left-*"))
note(found=found, worker=worker)
if "meet" in data:  # everybody has read the file before anybody writes it
    end = time.monotonic() + 60
    while len(open(ledger).readlines()) < data["meet"]:
        assert time.monotonic() < end, "the others never came"
        time.sleep(0.01)
changelog.write_text(text + f"- {task['task_id']}\\n")
pathlib.Path(f"left-by-{task['attempt']}").write_text("x")
git("add", "CHANGELOG.md")
git("commit", "--quiet", "--message", task["task_id"], "--", "CHANGELOG.md")
if data.get("kill_worker") and not found:
    os.kill(int(open(ledger + ".worker").read()), signal.SIGKILL)
    time.sleep(60)
gate = data.get("gate")
while gate and not os.path.exists(gate):
    time.sleep(0.01)
print(task["task_id"])
sys.exit(data.get("exit", 0) if task["attempt"] == 1 else 0)
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is room: each worktree is a thousand files, made and deleted."""
    with tempfile.TemporaryDirectory(prefix="turbo-worktrees-", dir=database.place()) as path:
        yield Path(path)


def committers(bench: Bench, repo: Path, name: str = "w", *, shared: bool = False, **more: Any) -> dict[str, Any]:
    """A worker.yaml whose only program commits a change; `shared`: in the checkout itself, as without workspaces."""
    program = bench.path / "committer.py"
    program.write_text(COMMITTER)
    config = bench.config(name=name, slots=10, **more.pop("worker", {}))
    executor = {
        "kind": "command",
        "command": [sys.executable, str(program), str(bench.ledger), name],
        "env": IDENTITY,
        "grace_seconds": 1,
    }
    place = {"cwd": str(repo)} if shared else {"workspace": {"kind": "worktree", "repo": str(repo), **more}}
    config["executors"] = {"committer": executor | place}
    config["routes"] = {"default": "committer"}
    return config


def turbo(bench: Bench, *arguments: str, state: str = "state") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "TURBO_DSN": bench.dsn}
    if arguments[0] == "diff":
        arguments = (*arguments, "--state-dir", str(bench.path / state))
    return prefork.run_text([TURBO, *arguments], env=environment)


# ── twenty at once ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shared", [False, True], ids=["workspaces", "control"])
def test_twenty_tasks_change_one_file_and_lose_nothing(bench: Bench, shared: bool) -> None:
    repo = own_clone(bench.path / "turbo")
    before = checkout(repo)
    for name in ("one", "two"):
        bench.start(committers(bench, repo, name, shared=shared)).listening()
    tasks = [f"t{number:02}" for number in range(MANY)]
    bench.sql(
        "insert into agent_tasks (task_id, task_description, input_data, max_retries)"
        " select t, 'x', %s, 0 from unnest(%s::text[]) t",
        json.dumps({"meet": MANY}),
        tasks,
    )
    ended = "select count(*) from agent_tasks where status in ('completed', 'failed')"
    until(lambda: bench.sql(ended) == [(MANY,)], 90, "all ended")
    assert {e["task"] for e in bench.entries()} == set(tasks)
    assert len(bench.entries()) == MANY, "each ran once, and all were there at once"
    if shared:
        whole = (repo / "CHANGELOG.md").read_text()
        assert sum(f"- {task}\n" in whole for task in tasks) < MANY, "in one checkout they overwrite each other"
        return
    assert bench.sql("select distinct status, error_message from agent_tasks") == [("completed", None)]
    assert checkout(repo) == before, "the person's files, index, HEAD, configuration and refs"
    base = git(repo, "rev-parse", "HEAD")
    assert len({e["cwd"] for e in bench.entries()}) == MANY
    for task in tasks:
        space = bench.row(task)["output_data"]["workspace"]
        assert git(repo, "diff", "--name-only", base, f"turbo/{task}") == "CHANGELOG.md"
        added = git(repo, "diff", "--unified=0", base, f"turbo/{task}").splitlines()[-1]
        assert added == f"+- {task}", "its own line, and nobody else's"
        assert (space["branch"], space["base"], space["commits"]) == (f"turbo/{task}", base, 1)
        assert (space["files_changed"], space["insertions"], space["uncommitted"]) == (2, 2, 1)
    assert len(git(repo, "worktree", "list").splitlines()) == MANY + 1


# ── trying again ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_retry_continues_in_its_worktree_and_reports_it(bench: Bench) -> None:
    repo = own_clone(bench.path / "turbo")
    worker = bench.start(committers(bench, repo)).listening()
    assert turbo(bench, "diff", "t").returncode == 1, "no such task"
    bench.insert("t", {"exit": 1})
    space = bench.wait("t")["output_data"]["workspace"]
    first, second = bench.entries()
    assert (first["found"], second["found"]) == ([], ["left-by-1"])
    assert first["cwd"] == second["cwd"] == space["path"]
    assert (space["continued"], space["commits"], space["insertions"], space["uncommitted"]) == (True, 2, 4, 2)
    trail = bench.sql(
        "select detail -> 'workspace' from agent_actions where action_type = 'finished' order by action_id"
    )
    assert [t[0]["continued"] for t in trail] == [False, True]
    assert trail[-1][0] == space

    shown = turbo(bench, "show", "t").stdout
    lines = {name: rest.strip() for name, _, rest in (line.partition(" ") for line in shown.splitlines())}
    assert lines["workspace"] == f"{space['host']}:{space['path']}"
    assert lines["branch"] == "turbo/t"
    assert lines["changed"] == "2 commits, 3 files, +4 -0 lines; 2 uncommitted"

    assert 'workspace="1 commit, 2 files, +2 -0 lines; 1 uncommitted"' in shown, "the trail, by try"

    diff = turbo(bench, "diff", "t")
    assert (diff.returncode, diff.stderr) == (0, "")
    assert diff.stdout.count("\n+- t") == 2
    assert "+++ b/left-by-2" in diff.stdout, "a new file that nobody added"
    git(repo, "stash", "--include-untracked")
    subprocess.run(["git", "-C", repo, "apply"], input=diff.stdout, text=True, check=True)
    assert (repo / "left-by-1").exists()
    assert json.loads(turbo(bench, "diff", "t", "--json").stdout)["diff"] == diff.stdout
    assert " 3 files changed, 4 insertions(+)" in turbo(bench, "diff", "t", "--stat").stdout

    stored = turbo(bench, "diff", "t", state="elsewhere")
    assert (stored.returncode, stored.stdout) == (0, diff.stdout)
    assert stored.stderr == "t: as its last run left it, from the database\n"
    bench.sql("delete from agent_files")
    away = turbo(bench, "diff", "t", state="elsewhere")
    assert (away.returncode, away.stdout) == (1, "")
    assert "it was removed, or --state-dir is wrong" in away.stderr
    bench.sql("update agent_tasks set output_data = jsonb_set(output_data, '{workspace,host}', '\"beta\"')")
    away = turbo(bench, "diff", "t")
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr == f"t: its workspace is on host beta, in {space['path']}: run `turbo diff t` there\n"
    worker.stop()


def test_diff_of_a_running_task_cannot_control_the_terminal(bench: Bench) -> None:
    repo = own_clone(bench.path / "turbo")
    (repo / "evil").write_bytes(b"\x1b[2J\n")
    git(repo, "add", "evil")
    git(repo, "commit", "--quiet", "--all", "--message", "evil")
    bench.start(committers(bench, repo)).listening()
    gate = bench.path / "gate"
    assert "it is pending and has no workspace yet" in _submitted_elsewhere(bench)
    bench.insert("t", {"gate": str(gate)})
    until(lambda: turbo(bench, "diff", "t").stdout.count("left-by-1"), what="its diff")
    tree = Path(bench.entries()[0]["cwd"])
    (tree / "evil").write_bytes(b"\x1b[31m\n")
    ours, theirs = pty.openpty()
    command: list[str | Path] = [TURBO, "diff", "t", "--state-dir", bench.path / "state", "--dsn", bench.dsn]
    subprocess.run(command, stdout=theirs, env={**os.environ, "NO_COLOR": "1", "TERM": "xterm"}, check=True)
    os.close(theirs)
    said = b""
    while b"left-by-1" not in said:
        said += os.read(ours, 65536)
    os.close(ours)
    assert b"\x1b[31m" not in said
    assert rb"+\x1b[31m" in said
    gate.touch()
    bench.wait("t")


def _submitted_elsewhere(bench: Bench) -> str:
    bench.insert("nobodys", {}, queue="nobody")
    done = turbo(bench, "diff", "nobodys")
    assert done.returncode == 1
    return done.stderr


def test_retry_on_another_host_starts_over_and_reports_it(bench: Bench) -> None:
    repos = {host: own_clone(bench.path / host / "turbo") for host in ("alpha", "beta")}

    def start(host: str, **more: Any) -> WorkerProcess:
        worker = {"host": host, "state_dir": str(bench.path / host / "state")}
        config = committers(bench, repos[host], host, worker=worker, **more)
        config["retry"] = {"base_seconds": 60, "max_seconds": 60}
        return bench.start(config).listening()

    alpha = start("alpha")
    bench.insert("t", {"exit": 1})
    bench.wait("t", "scheduled")
    alpha.stop()
    beta = start("beta")
    bench.sql("update agent_tasks set run_after = now() where task_id = 't'")
    bench.sql("select pg_notify('turbo_ctl', 'queues')")
    space = bench.wait("t")["output_data"]["workspace"]
    assert (space["host"], space["continued"], space["commits"]) == ("beta", False, 1)
    assert "no workspace of this task on this host: creating one" in beta.log
    assert [e["found"] for e in bench.entries()] == [[], []]
    away = turbo(bench, "diff", "t", state="alpha/state")
    assert (away.returncode, away.stdout.count("+- t\n")) == (0, 1), (
        "as it is stored, and not what an earlier try left here"
    )
    assert turbo(bench, "diff", "t", state="beta/state").stdout.count("+- t\n") == 1


# ── killed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_worktree_of_a_killed_worker_is_reused(bench: Bench) -> None:
    repo = own_clone(bench.path / "turbo")
    before = checkout(repo)
    first = bench.start(committers(bench, repo, "first")).listening()
    bench.insert("t", {"kill_worker": True})
    assert first.process.wait(timeout=30) == -signal.SIGKILL, "the fault bit"
    bench.start(committers(bench, repo, "second")).listening()
    space = bench.wait("t")["output_data"]["workspace"]
    ran = bench.entries()
    assert [e["worker"] for e in ran] == ["first", "second"]
    assert ran[0]["cwd"] == ran[1]["cwd"] == space["path"]
    assert ran[1]["found"] == ["left-by-1"], "what nobody had committed is still there"
    assert (space["continued"], space["commits"]) == (True, 2)
    assert checkout(repo) == before


@pytest.mark.parametrize("moment", ["checkout", "setup"])
def test_worker_killed_while_making_a_worktree_leaves_no_remains(bench: Bench, moment: str) -> None:
    """git, or the setup, tells when it is there by a file, and would go on for long: the watcher ends it."""
    repo = own_clone(bench.path / "turbo")
    here = bench.path / "here"
    slow = f"[ -e {here} ] || {{ touch {here}; sleep 60; }}"
    more: dict[str, Any] = {}
    if moment == "setup":
        more["setup"] = ["/bin/sh", "-c", slow]
    else:
        more["git_config"] = str(bench.path / "gitconfig")
        (bench.path / "gitconfig").write_text(f'[filter "slow"]\n\tsmudge = "{slow}; cat"\n')
        (repo / ".git" / "info" / "attributes").write_text("LICENSE filter=slow\n")
    before = checkout(repo)
    first = bench.start(committers(bench, repo, "first", **more)).listening()
    bench.insert("t", {})
    until(here.exists, what=f"the {moment}")
    first.kill()
    first.process.wait()
    bench.start(committers(bench, repo, "second", **more)).listening()
    row = bench.wait("t")
    assert row["infra_count"] == 1
    assert [e["worker"] for e in bench.entries()] == ["second"]
    assert row["output_data"]["workspace"]["continued"] is (moment == "setup")
    assert checkout(repo) == before


def test_failed_setup_fails_its_task_alone(bench: Bench) -> None:
    repo = own_clone(bench.path / "turbo")
    setup = ["/bin/sh", "-c", "if [ $TURBO_TASK_ID = bad ]; then echo no network; exit 7; fi"]
    bench.start(committers(bench, repo, setup=setup)).listening()
    bench.insert("bad", max_retries=0)
    bench.insert("good")
    bench.wait("good")
    row = bench.wait("bad", "failed")
    assert row["failure_kind"] == "error"
    assert row["error_message"].endswith("failed with exit code 7: no network")
    assert {e["task"] for e in bench.entries()} == {"good"}
    assert "no network" in turbo(bench, "logs", "bad", "--state-dir", str(bench.path / "state")).stdout


def test_host_without_the_repository_leaves_tasks_to_others(bench: Bench) -> None:
    worker = bench.start(committers(bench, bench.path / "nowhere")).listening()
    worker.said("is not a directory. Its tasks are left to other workers")
    bench.insert("t")
    bench.start(committers(bench, own_clone(bench.path / "turbo"), "other")).listening()
    bench.wait("t")
    assert bench.trail("t") == ["claimed", "finished"]


# ── an agent ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agent_session_is_resumed_in_its_worktree(dsn: str, tmp_path: Path) -> None:
    with accounts_bench(dsn, tmp_path) as bench:
        repo = own_clone(tmp_path / "turbo")
        before = checkout(repo)
        bench.api.answer(
            messages_api.tool("Bash", {"command": "pwd >where; echo one >one", "description": "x"}),
            messages_api.error(418, "api_error", "I am a teapot"),
            messages_api.tool("Bash", {"command": "pwd >>where; cat one >two", "description": "x"}),
            messages_api.text("both are there"),
        )
        workspace = {"kind": "worktree", "repo": str(repo)}
        bench.worker("alpha", resume=True, workspace=workspace, allowed_tools=["Bash"])
        bench.task("t", "make two files", max_retries=1)
        row = bench.wait("t")
    space = row["output_data"]["workspace"]
    tree = Path(space["path"])
    assert row["output_data"]["output"] == "both are there"
    assert row["retry_count"] == 1
    assert (tree / "where").read_text() == f"{tree}\n{tree}\n", "the agent's tools, both times"
    assert (tree / "two").read_text() == "one\n"
    assert (space["continued"], space["commits"], space["files_changed"], space["uncommitted"]) == (True, 0, 3, 3)
    assert "cut short" in bench.api.requests[2].prompt, "it was the same session"
    assert checkout(repo) == before
