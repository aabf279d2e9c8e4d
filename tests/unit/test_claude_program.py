"""Where the Claude CLI is found, how it is called, and which configurations are refused."""

import stat
from pathlib import Path

import pytest

from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.claude.cli import find_program
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.executors.claude.flags import LEAST_USD, Flags
from turbo.process.environment import EnvironmentRefused
from turbo.process.journal import Journal
from turbo.process.running import SpawnFailed

RECORDS = """#!/bin/sh
for argument in "$@"; do printf '%s\\n' "$argument"; done > argv.txt
env > env.txt
cat > stdin.txt
printf '{"type":"result","subtype":"success","is_error":false,"result":"done"}\\n'
"""


def program(path: Path, text: str = RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# ── where it is ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_path_is_searched_first(tmp_path: Path) -> None:
    on_path = program(tmp_path / "bin" / "claude")
    program(tmp_path / ".local" / "bin" / "claude")
    assert find_program("claude", {"PATH": str(on_path.parent), "HOME": str(tmp_path)}) == str(on_path)


@pytest.mark.parametrize("place", [".local/bin", ".claude/local", ".npm-global/bin", ".nvm/versions/node/v20.1.0/bin"])
def test_cli_outside_launchds_path_is_found_at_home(tmp_path: Path, place: str) -> None:
    there = program(tmp_path / place / "claude")
    assert find_program("claude", {"PATH": "/nowhere", "HOME": str(tmp_path)}) == str(there)


def test_newest_of_several_nodes_is_used(tmp_path: Path) -> None:
    for version in ("v9.11.2", "v22.3.0", "v20.20.2"):
        program(tmp_path / ".nvm/versions/node" / version / "bin/claude")
    assert "v22.3.0" in find_program("claude", {"PATH": "/nowhere", "HOME": str(tmp_path)})


def test_missing_cli_lists_the_places_searched(tmp_path: Path) -> None:
    with pytest.raises(SpawnFailed, match=r"claude-x.*not on the PATH \(/nowhere\).*/opt/homebrew/bin.*absolute path"):
        find_program("claude-x", {"PATH": "/nowhere", "HOME": str(tmp_path)})


# ── how it is called ────────────────────────────────────────────────────────────────────────────────────────────────


async def called(tmp_path: Path, **settings: object) -> tuple[list[str], dict[str, str], str]:
    known: dict[str, object] = {"command": [str(program(tmp_path / "apart" / "claude"))]}
    executor = ClaudeExecutor("c", journal=Journal(tmp_path / "journal"), **known | settings)  # type: ignore[arg-type]
    work = tmp_path / "work"
    outcome = await executor.run(Run(Task("t_1", "analysis", "--do it", timeout_seconds=30), work, tmp_path / "log"))
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome
    environ = dict(line.split("=", 1) for line in (work / "env.txt").read_text().splitlines() if "=" in line)
    return (work / "argv.txt").read_text().splitlines(), environ, (work / "stdin.txt").read_text()


async def test_flags_come_from_the_configuration(tmp_path: Path) -> None:
    argv, _, stdin = await called(
        tmp_path,
        command=[str(program(tmp_path / "claude")), "--mcp-config", "x.json"],
        model="opus",
        permission_mode="plan",
        allowed_tools=["Read", "Bash(git log *)"],
        disallowed_tools=["WebFetch"],
        max_turns=7,
        max_budget_usd=0.05,
    )
    session = argv.index("--session-id")
    assert argv[:session] == [
        *("--mcp-config", "x.json", "-p", "--output-format", "stream-json", "--verbose"),
        *("--setting-sources", "user", "--add-dir", "."),
    ]
    assert argv[session + 2 :] == [
        *("--model", "opus", "--permission-mode", "plan"),
        *("--allowedTools", "Read", "Bash(git log *)", "--disallowedTools", "WebFetch"),
        *("--max-turns", "7", "--max-budget-usd", "0.050000"),
    ]
    assert stdin.endswith("\n\n--do it")


def test_budget_flag_is_the_least_of_what_is_left() -> None:
    assert Flags().within(None).max_budget_usd is None
    assert Flags().within(2.0).max_budget_usd == 2.0
    assert Flags(max_budget_usd=5).within(2.0).with_budget_left(0.5).max_budget_usd == 1.5
    assert Flags(max_budget_usd=1).within(2.0).max_budget_usd == 1
    assert Flags(max_budget_usd=1).within(0.0).max_budget_usd == LEAST_USD


async def test_cli_environment_limits_retries_and_env_overrides_it(tmp_path: Path) -> None:
    _, environ, _ = await called(tmp_path, cli_max_retries=1, env={"DISABLE_AUTOUPDATER": "0"})
    assert environ["CLAUDE_CODE_MAX_RETRIES"] == "1"
    assert environ["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == "1"
    assert environ["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] == "1"
    assert environ["DISABLE_AUTOUPDATER"] == "0"  # the executor's env has the last word


async def test_cli_directory_is_last_on_its_path(tmp_path: Path) -> None:
    _, environ, _ = await called(tmp_path)
    assert environ["PATH"].endswith(f":{tmp_path / 'apart'}")


# ── what cannot work ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"command": []}, "command is empty"),
        ({"command": [""]}, "command is empty"),
        ({"grace_seconds": 1.0}, "at least 5"),
        ({"preamble": ""}, "begin with a letter"),
        ({"preamble": "/compact"}, "begin with a letter"),
        ({"preamble": "-p"}, "begin with a letter"),
    ],
)
def test_unusable_configuration_is_refused(tmp_path: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=f"executor c: .*{says}"):
        ClaudeExecutor("c", journal=Journal(tmp_path), **settings)  # type: ignore[arg-type]


def test_agent_never_receives_the_database(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match="PGPASSWORD"):
        ClaudeExecutor("c", journal=Journal(tmp_path), env={"PGPASSWORD": "x"})


def test_account_defaults_to_the_executor(tmp_path: Path) -> None:
    assert ClaudeExecutor("c", journal=Journal(tmp_path)).account == "c"
    assert ClaudeExecutor("c", journal=Journal(tmp_path), account="alpha-max").account == "alpha-max"


@pytest.mark.parametrize("data", [None, {}, {"cwd": "/tmp"}])
async def test_nothing_to_do_fails_before_the_cli_starts(tmp_path: Path, data: object) -> None:
    program(tmp_path / "claude")
    executor = ClaudeExecutor("c", [str(tmp_path / "claude")], journal=Journal(tmp_path / "journal"), cwd=tmp_path)
    outcome = await executor.run(Run(Task("t", "x", " \n", data), tmp_path, tmp_path / "log"))
    assert outcome.failure_kind is FailureKind.BAD_REQUEST
    assert outcome.final
    assert "task_description is empty" in str(outcome.error)
    assert not (tmp_path / "argv.txt").exists()
    outcome = await executor.run(Run(Task("t", "x", "", {"files": 1}), tmp_path, tmp_path / "log"))
    assert outcome.kind is OutcomeKind.SUCCEEDED
