"""A program that a host does not have costs no task anything: real workers, the real CLI."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import claude
from tests.support.claude import the_cli
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.client.client import Client
from turbo.domain.finding import Finding
from turbo.domain.outcome import OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.type_filter import TypeFilter
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.executors.command import CommandExecutor
from turbo.process.journal import Journal
from turbo.runtime.problems import Problems
from turbo.worker.availability import ExecutorAvailability


@pytest.fixture
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude.Bench]:
    with claude.a_bench(tmp_path_factory) as bench:
        yield bench


def status_problems(bench: Bench) -> list[Finding]:
    """What `turbo status` shows first."""
    with Client(bench.dsn) as client:
        return client.fleet().problems


def script(path: Path) -> Path:
    path.write_text(f"#!{sys.executable}\nprint('done')\n")
    path.chmod(0o755)
    return path


def test_host_without_the_cli_leaves_its_tasks_to_another(bench: Bench, agents: claude.Bench) -> None:
    shelf = bench.path / "bin"
    shelf.mkdir()
    (shelf / "the-agent").symlink_to(Path(the_cli()).resolve())

    def config(name: str, path: str) -> dict[str, object]:
        settings = bench.config(name=name, state_dir=str(bench.path / name))
        settings["accounts"] = {"a": {"env_file": str(agents.login())}}
        env = agents.scrubbed() | {"PATH": path}
        settings["executors"]["claude"] = {"kind": "claude", "account": "a", "command": ["the-agent"], "env": env}
        settings["routes"]["agent"] = "claude"
        return settings

    without = bench.start(config("without", "/usr/bin:/bin")).listening()
    until(lambda: bench.sql("select 1 from agent_workers where idle"))
    for number in range(2):  # inserted while the one without is alone, and idle
        bench.insert(f"a{number}", task_type="agent")
    bench.insert("noop", task_type="noop")
    bench.wait("noop")
    assert bench.trail("a0") == bench.trail("a1") == []
    having = bench.start(config("having", f"{shelf}:/usr/bin:/bin")).listening()
    for number in range(2):
        bench.insert(f"b{number}", task_type="agent")
    for task in ("a0", "a1", "b0", "b1"):
        row = bench.wait(task, seconds=60)
        assert row["assigned_worker_id"] == having.worker_id
        assert (row["infra_count"], row["retry_count"]) == (0, 0)
        assert bench.trail(task) == ["claimed", "finished"]
    having.said("Claude CLI 2.")
    (warning,) = [line for line in without.log.splitlines() if "WARN" in line]
    assert "the-agent" in warning
    for place in ("/usr/bin:/bin", "/opt/homebrew/bin", "~/.local/bin"):
        assert place in warning, "it says where it looked"


def test_cli_version_and_path_are_logged_at_the_start(bench: Bench, agents: claude.Bench) -> None:
    config = bench.config()
    cli = the_cli()
    agents.home.mkdir(exist_ok=True)
    env = agents.scrubbed() | {"PATH": str(Path(cli).parent)}
    config["executors"]["claude"] = {"kind": "claude", "command": [Path(cli).name], "env": env}
    worker = bench.start(config).listening()
    worker.said("executor claude: Claude CLI 2.")
    assert f"({cli})" in worker.log
    assert bench.sql("select 1 from agent_tasks") == []


async def test_without_the_check_tasks_would_be_claimed_and_fail(tmp_path: Path, agents: claude.Bench) -> None:
    """The control: what a run makes of it, five of which are poison."""
    gone = str(tmp_path / "nowhere")
    executor = agents.executor(command=[gone])
    assert gone in (executor.missing() or "")
    assert (await agents.do(executor)).kind is OutcomeKind.INFRASTRUCTURE


def test_worker_that_can_run_nothing_is_paused_until_it_can(bench: Bench) -> None:
    config = bench.config()
    config["executors"] = {"tool": {"kind": "command", "command": [str(bench.path / "tool")]}}
    config["routes"] = {"default": "tool"}
    worker = bench.start(config).listening()
    until(lambda: bench.sql("select state, idle from agent_workers") == [("paused", False)])
    bench.insert("t")
    assert worker.stop() == 0
    assert bench.trail("t") == []


def test_program_removed_while_running_costs_one_run(bench: Bench) -> None:
    program = script(bench.path / "tool")
    config = bench.config()
    config["executors"]["tool"] = {"kind": "command", "command": [str(program)]}
    config["routes"]["tool"] = "tool"
    worker = bench.start(config).listening()
    bench.insert("before", task_type="tool")
    bench.wait("before")
    program.unlink()
    bench.insert("t", task_type="tool")
    worker.said("Its tasks are left to other workers")
    bench.wait("t", "pending")
    until(lambda: any("executor tool: " in finding.what for finding in status_problems(bench)), what="status names it")
    for number in range(3):  # as often as the worker looks for something to do, it leaves this one
        bench.insert(f"noop{number}", task_type="noop")
        bench.wait(f"noop{number}")
    assert bench.trail("t") == ["claimed", "finished", "promoted"]
    assert (bench.row("t")["infra_count"], bench.row("t")["status"]) == (1, "pending")
    assert worker.metric(bench.dsn, "turbo_problems", kind="executor") == 1


async def test_program_that_appears_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    executor = CommandExecutor("tool", [str(tmp_path / "tool")], journal=Journal(tmp_path / "journal"))
    said: asyncio.Queue[TypeFilter] = asyncio.Queue()
    problems = Problems()
    routes = {"default": "tool", "noop": "noop", "lint": "tool"}
    programs = ExecutorAvailability({"tool": executor}, routes, said.put_nowait, problems, seconds=0.02)
    with caplog.at_level("INFO"):
        programs.start(lambda _name, error: pytest.fail(str(error)))
        assert await asyncio.wait_for(said.get(), 10) == TypeFilter(include=("noop",))
        assert [problem.kind for problem in problems.current] == [ProblemKind.EXECUTOR]
        script(tmp_path / "tool")
        assert await asyncio.wait_for(said.get(), 10) == TypeFilter()
        assert problems.current == ()
        await programs.stop()
    assert [r.levelname for r in caplog.records if "executor tool" in r.message] == ["WARNING", "INFO"]


@pytest.mark.parametrize("kind", ["command", "claude"])
def test_missing_reports_what_is_known_before_a_run(tmp_path: Path, kind: str) -> None:
    journal = Journal(tmp_path / "journal")

    def missing(program: str, cwd: Path | None = None) -> str | None:
        make = CommandExecutor if kind == "command" else ClaudeExecutor
        return make("x", [program], journal=journal, cwd=cwd).missing()

    assert "not found on the PATH" in (missing("no-such-program-anywhere") or "") or kind == "claude"
    assert "not executable" in (missing(str(Path(__file__).resolve())) or "")
    assert "does not exist" in (missing(sys.executable, tmp_path / "nowhere") or ""), "its fixed directory"
    assert missing(sys.executable, tmp_path) is None
    with pytest.raises(ValueError, match="so a task could choose the program"):
        missing("./tool")
    assert "no such file" in (missing("./tool", tmp_path) or "")
    script(tmp_path / "tool")
    assert missing("./tool", tmp_path) is None


def test_task_types_of_two_sources_combine() -> None:
    everything, no_lint, named = TypeFilter(), TypeFilter(exclude=("lint",)), TypeFilter(include=("lint", "noop"))
    assert everything & everything == everything
    assert everything & no_lint == no_lint & everything == no_lint
    assert no_lint & TypeFilter(exclude=("fix", "lint")) == TypeFilter(exclude=("fix", "lint"))
    assert no_lint & named == named & no_lint == TypeFilter(include=("noop",))
    assert named & TypeFilter(include=("lint",)) == TypeFilter(include=("lint",))
    assert (named & TypeFilter(include=("x",))).none
