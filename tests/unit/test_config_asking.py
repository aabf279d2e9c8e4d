"""The section `ask:` of an executor: what it takes, and what is one clear error."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.configs import config_of
from turbo.cli.main import _build
from turbo.config.loader import ConfigError
from turbo.config.worker import WorkerConfig, load_worker_config
from turbo.domain.question import AskPolicy, Then
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal

COMMAND = {"kind": "command", "command": ["true"]}
PYTHON = {"kind": "python", "handler": "turbo.testing:noop"}


def policy(section: object, **executor: object) -> AskPolicy | None:
    config = config_of(Path("/tmp"), executors={"x": {"kind": "claude", **executor, "ask": section}}, routes={})
    ask = config.executors["x"].ask
    return None if ask is None else ask.policy


def refused(path: Path, section: object, **executor: object) -> list[str]:
    file = path / "worker.yaml"
    executor = {"kind": "claude", **executor, "ask": section}
    file.write_text(yaml.safe_dump({"executors": {"x": executor}, "routes": {"default": "x"}}))
    with pytest.raises(ConfigError) as raised:
        load_worker_config(file)
    return [line.partition(": ")[2] for line in str(raised.value).splitlines()]


def test_ask_has_defaults() -> None:
    assert policy({}) == AskPolicy()
    assert policy(None) is None
    assert WorkerConfig.model_validate({"executors": {"x": COMMAND}}).executors["x"].ask is None


def test_ask_is_the_policy_of_its_executor() -> None:
    section = {
        "questions": False,
        "approve": ["Bash(git push *)", "ExitPlanMode"],
        "within_seconds": 86400,
        "then": "fail",
        "remind_seconds": 14400,
    }
    rules = ("Bash(git push *)", "ExitPlanMode")
    assert policy(section) == AskPolicy(False, rules, 86400, Then.FAIL, 14400)


@pytest.mark.parametrize(
    ("section", "where", "why"),
    [
        (True, "ask", "is a section: write ask: {} for its defaults"),
        ("yes", "ask", "is a section: write ask: {} for its defaults"),
        ([1], "ask", "is a section: write ask: {} for its defaults"),
        ({"then": "fail"}, "ask", "then: fail needs within_seconds"),
        ({"question": True}, "ask.question", "unknown key; did you mean 'questions'?"),
        ({"then": "deny"}, "ask.then", "must be 'proceed' or 'fail' (found 'deny')"),
        ({"within_seconds": 0}, "ask.within_seconds", "greater than 0"),
        ({"within_seconds": -1}, "ask.within_seconds", "greater than 0"),
        ({"within_seconds": float("inf")}, "ask.within_seconds", "finite"),
        ({"within_seconds": 1e10}, "ask.within_seconds", "less than or equal to 1000000000"),
        ({"within_seconds": True}, "ask.within_seconds", "must be a number, not true"),
        ({"remind_seconds": 0.5}, "ask.remind_seconds", "greater than or equal to 1"),
        ({"remind_seconds": float("nan")}, "ask.remind_seconds", "finite"),
        ({"approve": "Bash"}, "ask.approve", "must be a valid list"),
        ({"approve": [" "]}, "ask.approve", "contains an empty rule"),
    ],
    ids=range(15),
)
def test_bad_ask_is_one_clear_error(section: object, where: str, why: str, tmp_path: Path) -> None:
    (line,) = refused(tmp_path, section)
    assert line.startswith(f"executors.x.{where}: ")
    assert why in line


@pytest.mark.parametrize("executor", [COMMAND, PYTHON, {"kind": "codex"}], ids=["command", "python", "codex"])
def test_approve_is_refused_where_no_call_can_be_held(executor: dict[str, object], tmp_path: Path) -> None:
    (line,) = refused(tmp_path, {"approve": ["Bash"]}, **executor)
    assert line == (
        f"executors.x.ask.approve: executor x (kind: {executor['kind']}) cannot hold a call until a person approves it;"
        " only kind: claude can"
    )
    config_of(tmp_path, executors={"x": {**executor, "ask": {"approve": []}}}, routes={})


@pytest.mark.parametrize(
    "executor",
    [
        {"permission_mode": "dontAsk"},
        {"command": ["claude", "--permission-mode", "dontAsk"]},
        {"command": ["claude", "--permission-mode=dontAsk"]},
    ],
    ids=["key", "flag", "flag with ="],
)
def test_approve_is_refused_in_a_mode_that_refuses_all(executor: dict[str, object], tmp_path: Path) -> None:
    (line,) = refused(tmp_path, {"approve": ["Bash"]}, **executor)
    assert line.startswith("executors.x.ask.approve: executor x has permission_mode dontAsk, which refuses")
    assert policy({}, **executor) == AskPolicy()


@pytest.mark.parametrize("rule", ["Bash(", "bash(git push)", "Shell(x)"])
def test_config_check_refuses_a_rule_that_is_none(rule: str, tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    rules = ["Bash(git push *)", rule]
    file.write_text(yaml.safe_dump({"executors": {"agent": {"kind": "claude", "ask": {"approve": rules}}}}))
    done = CliRunner().invoke(_build(["config"]), ["config", "check", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(f"{file}: executors.agent: the rule {rule!r} is not understood")
    file.write_text(yaml.safe_dump({"executors": {"agent": {"kind": "claude", "ask": {"approve": rules[:1]}}}}))
    assert CliRunner().invoke(_build(["config"]), ["config", "check", str(file)]).exit_code == 0
    with pytest.raises(ConfigError, match="is not understood"):
        build_executors(
            config_of(tmp_path, executors={"agent": {"kind": "claude", "ask": {"approve": rules}}}, routes={}),
            Journal(tmp_path / "journal"),
        )


def test_config_check_names_the_executor_that_cannot_hold(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(yaml.safe_dump({"executors": {"lint": {**COMMAND, "ask": {"approve": ["Bash"]}}}}))
    done = CliRunner().invoke(_build(["config"]), ["config", "check", str(file)])
    assert isinstance(done.exception, ConfigError)  # which the program prints, and exits with 2
    assert "executors.lint.ask.approve: executor lint (kind: command) cannot hold a call" in str(done.exception)
