"""The configuration chooses the program. The directory that a row names has no say: neither by a path, nor by the PATH."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.shell import Shell
from turbo.config.scripts import code_from_directory, code_from_rows
from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config
from turbo.domain.outcome import Outcome
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal


def script(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def load(place: Path, **executor: Any) -> WorkerConfig:
    file = place / "worker.yaml"
    worker = {"state_dir": str(place / "state"), "allowed_roots": [str(place / "roots")]}
    kind = {"kind": "command", **executor}
    file.write_text(json.dumps({"worker": worker, "executors": {"x": kind}, "routes": {"default": "x"}}))
    return load_worker_config(file)


def run(config: WorkerConfig, place: Path, row: Path) -> Outcome:
    """One task, in the directory that its row names."""
    task = Task(task_id="t", task_type="x", task_description="x", timeout_seconds=30.0, input_data={"cwd": str(row)})
    executor = build_executors(config, Journal(place / "journal"))["x"]
    return asyncio.run(executor.run(Run(task, work_dir=place / "work", log_path=place / "log")))


@pytest.fixture
def row(tmp_path: Path) -> Path:
    """A directory that rows may name, with programs of whoever wrote there."""
    directory = tmp_path / "roots" / "row"
    for name in ("run.sh", "bin/run.sh", "bin/tool", "tool", "scripts/run.sh"):
        script(directory / name, "row")
    return directory


@pytest.mark.parametrize("program", ["./run.sh", "scripts/run.sh", "./scripts/../run.sh"])
def test_relative_program_is_the_configurations(tmp_path: Path, row: Path, program: str) -> None:
    for name in ("run.sh", "scripts/run.sh"):
        script(tmp_path / name, "configured")
    assert run(load(tmp_path, command=[program]), tmp_path, row).output == "configured\n"


def test_relative_program_counts_from_a_fixed_cwd(tmp_path: Path, row: Path) -> None:
    """As it always did, for the rows that name no directory."""
    script(tmp_path / "fixed" / "run.sh", "fixed")
    script(tmp_path / "run.sh", "beside the configuration")
    config = load(tmp_path, command=["./run.sh"], cwd=str(tmp_path / "fixed"))
    assert run(config, tmp_path, row).output == "fixed\n"


def test_missing_relative_program_is_not_the_rows(tmp_path: Path, row: Path) -> None:
    config = load(tmp_path, command=["./run.sh"])
    executor = build_executors(config, Journal(tmp_path / "journal"))["x"]
    assert str(tmp_path / "run.sh") in (executor.missing() or "")  # type: ignore[attr-defined]
    outcome = run(config, tmp_path, row)
    assert str(tmp_path / "run.sh") in str(outcome.error)
    assert outcome.output is None


@pytest.mark.parametrize("path", ["bin", "./bin", ".", "", ":/nowhere", "bin:/nowhere"])
def test_bare_program_is_never_the_rows(tmp_path: Path, row: Path, path: str) -> None:
    """Also a program that the program starts: its PATH has absolute entries only."""
    assert run(load(tmp_path, command=["tool"], env={"PATH": path}), tmp_path, row).output is None
    outcome = run(load(tmp_path, command=["/bin/sh", "-c", "tool; echo $PATH"], env={"PATH": path}), tmp_path, row)
    assert "row" not in str(outcome.output).split("\n")
    assert all(entry.startswith("/") for entry in str(outcome.output).strip().split(":"))


def test_inherited_path_is_made_absolute(tmp_path: Path, row: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "bin::/usr/bin:.:/bin")
    assert run(load(tmp_path, command=["sh", "-c", "echo $PATH"]), tmp_path, row).output == "/usr/bin:/bin\n"


def test_relative_entry_of_env_counts_from_the_file(tmp_path: Path, row: Path) -> None:
    script(tmp_path / "bin" / "tool", "configured")
    assert run(load(tmp_path, command=["tool"], env={"PATH": "bin:/bin"}), tmp_path, row).output == "configured\n"


def test_relative_agent_is_the_configurations(tmp_path: Path, row: Path) -> None:
    script(row / "claude", "row")
    config = load(tmp_path, kind="claude", command=["./claude"])
    assert config.executors["x"].command == [str(tmp_path / "claude")]  # type: ignore[union-attr]
    assert str(tmp_path / "claude") in str(run(config, tmp_path, row).error)


def test_relative_program_of_a_worktree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"worker.yaml:1: executors.x.command: './run.sh' .* write an absolute path, or \[sh"
    ):
        load(tmp_path, command=["./run.sh"], workspace={"kind": "worktree", "repo": str(tmp_path)})


# ── code ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CODE = [
    ["sh", "-c", "grep {input[word]} notes"], ["/bin/bash", "-lc", "echo {task_id}"], ["zsh", "-ec", "{task_type}"],
    ["env", "A=b", "dash", "-c", "x {input[a]}"], ["timeout", "5", "sh", "-c", "{input[a]}"], ["python3.11", "-c", "x='{input[a]}'"],
    ["perl", "-ne", "{input[a]}"], ["perl", "-e{input[a]}"], ["node", "--eval={input[a]}"], ["node", "-e", "{input[a]}"],
    ["ruby", "-e", "{input[a]}"], ["psql", "-c", "select '{input[a]}'"], ["mysql", "-e", "{input[a]}"], ["php", "-r", "{input[a]}"],
    ["ssh", "host", "run", "{input[a]}"], ["make", "X={input[a]}"], ["awk", "{input[a]}"], ["sed", "-e", "s/x/{input[a]}/e"],
    ["pwsh", "-Command", "{input[a]}"], ["env", "-S", "sh {input[a]}"], ["sqlite3", "db", "select {input[a]}"],
]  # fmt: skip
NO_CODE = [
    ["sh", "-c", 'grep "$1" notes', "sh", "{input[word]}"], ["ruff", "check", "{input[path]}"], ["sh", "script", "{task_id}"],
     ["env", "A={input[a]}", "tool"], ["git", "-c", "x=y", "show", "{input[ref]}"],
    ["grep", "-e", "{input[word]}"], ["sh", "-c", "echo plain"],
]  # fmt: skip


@pytest.mark.parametrize("command", CODE)
def test_placeholder_in_code_is_found(command: list[str]) -> None:
    assert len(list(code_from_rows(command))) == 1


@pytest.mark.parametrize("command", NO_CODE)
def test_placeholder_that_stays_an_argument_is_not(command: list[str]) -> None:
    assert not list(code_from_rows(command))


def test_code_of_the_tasks_directory_is_found() -> None:
    for command in (
        ["python3", "tool.py"],
        ["sh", "./ci.sh"],
        ["env", "./run"],
        ["python", "-m", "tool"],
        ["node", "a/b.js"],
    ):
        assert len(list(code_from_directory(command))) == 1, command
    for command in (
        ["python3", "/opt/tool.py"],
        ["python", "-P", "-m", "tool"],
        ["ruff", "check", "src/x.py"],
        ["sh", "-c", "x"],
    ):
        assert not list(code_from_directory(command)), command


def test_config_check_warns_and_accepts(tmp_path: Path) -> None:
    load(tmp_path, command=["sh", "-c", "grep {input[word]} notes"])
    done = Shell("", tmp_path)("config", "check", "worker.yaml")
    assert done.code == 0
    assert "warning: executors.x.command: {input[word]} is part of code that sh runs" in done.err
