"""The section `check:` of an executor: what it refuses, and what it warns of."""

import subprocess
import sys
from pathlib import Path

import pytest

from turbo.accounts.manager import needs_of
from turbo.config.executors import CommandSection
from turbo.config.loader import ConfigError
from turbo.config.worker import WorkerConfig, load_worker_config
from turbo.domain.check import CheckPolicy, Requirement
from turbo.executors.judging import answer_problems
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal

WORKSPACE = "workspace: {kind: worktree, repo: /srv/project}"


def load(tmp_path: Path, check: str, *more: str, kind: str = "kind: command\n    command: [make]") -> WorkerConfig:
    file = tmp_path / "worker.yaml"
    lines = "".join(f"    {line}\n" for line in more)
    file.write_text(f"executors:\n  x:\n    {kind}\n    check: {check}\n{lines}")
    return load_worker_config(file)


def refused(tmp_path: Path, check: str, *more: str, kind: str = "kind: command\n    command: [make]") -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, check, *more, kind=kind)
    return str(caught.value)


def test_every_key_reaches_the_policy(tmp_path: Path) -> None:
    check = (
        "{command: [make, test], seconds: 5, rounds: 1, requires: [commit, clean], protect: [tests/**, '!tests/data/**'], "
        "baseline: true}"
    )
    section = load(tmp_path, check, WORKSPACE).executors["x"]
    assert isinstance(section, CommandSection)
    assert section.check is not None
    assert section.check.policy == CheckPolicy(
        ("make", "test"),
        None,
        5.0,
        1,
        (Requirement.COMMIT, Requirement.CLEAN),
        ("tests/**", "!tests/data/**"),
        True,
    )
    plain = load(tmp_path, "{command: [make]}").executors["x"]
    assert isinstance(plain, CommandSection)
    assert plain.check is not None
    assert plain.check.policy == CheckPolicy(("make",), None, 900.0, 3, (), (), False)


@pytest.mark.parametrize(
    ("check", "more", "says"),
    [
        ("true", (), "is a section"),
        ("[make, test]", (), "is a section"),
        ("{}", (), "checks nothing"),
        ("{command: [make], executor: x}", (), "has both command and executor"),
        ("{command: []}", (), "at least 1 item"),
        ("{command: ['']}", (), "is not a command"),
        ("{command: [make], seconds: 0}", (), "greater than 0"),
        ("{command: [make], rounds: -1}", (), "greater than or equal to 0"),
        ("{command: [make], rounds: 101}", (), "less than or equal to 100"),
        ("{command: [make], requires: [commits]}", (WORKSPACE,), "must be 'commit', 'changes' or 'clean'"),
        ("{command: [make], requires: [clean, clean]}", (WORKSPACE,), "twice"),
        ("{command: [make], requires: [clean]}", (), "executors.x.check.requires: is about a workspace"),
        ("{command: [make], protect: [a]}", (), "executors.x.check.protect: is about a workspace"),
        ("{protect: [/etc/passwd]}", (WORKSPACE,), "must count from the top"),
        ("{protect: [../x]}", (WORKSPACE,), "must count from the top"),
        ("{protect: [':(top)x']}", (WORKSPACE,), "must count from the top"),
        ("{protect: ['!tests/**']}", (WORKSPACE,), "has only exemptions"),
        ("{protect: ['']}", (WORKSPACE,), "is not a pattern"),
        ("{protect: [a], baseline: true}", (WORKSPACE,), "baseline is for a command"),
        ("{command: [./check]}", (WORKSPACE,), "'./check' would be a file of the task's worktree"),
        ("{executor: nobody}", (), "no executor 'nobody'"),
        ("{comand: [make]}", (), "did you mean 'command'"),
    ],
)
def test_section_that_cannot_work_is_refused(tmp_path: Path, check: str, more: tuple[str, ...], says: str) -> None:
    assert says in refused(tmp_path, check, *more)


def test_python_handler_has_no_check(tmp_path: Path) -> None:
    told = refused(tmp_path, "{command: [make]}", kind="kind: python\n    handler: 'a:b'")
    assert "check is for programs" in told
    assert told.count("\n") == 0


def test_relative_check_counts_from_the_configuration(tmp_path: Path) -> None:
    section = load(tmp_path, "{command: [./check, here]}").executors["x"]
    assert isinstance(section, CommandSection)
    assert section.check is not None
    assert section.check.command == [str(tmp_path / "check"), "here"]


@pytest.mark.parametrize(("check", "warned"), [("{command: [make], rounds: 2}", True), ("{command: [make]}", False)])
def test_rounds_of_a_program_are_warned_of(tmp_path: Path, check: str, warned: bool) -> None:
    told = [finding.subject for finding in load(tmp_path, check).warnings()]
    assert told == (["executors.x.check.rounds"] if warned else [])
    assert load(tmp_path, check, kind="kind: claude").warnings() == []


REVIEWS = "{executor: reviewer}"


def with_reviewer(tmp_path: Path, reviewer: str, *more: str, check: str = REVIEWS) -> str:
    """The problems of an executor `x` that `reviewer` reviews; '' for none."""
    file = tmp_path / "worker.yaml"
    lines = "".join(f"    {line}\n" for line in more)
    file.write_text(f"executors:\n  x:\n    kind: claude\n    check: {check}\n{lines}  reviewer: {reviewer}\n")
    try:
        answer_problems(load_worker_config(file))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("reviewer", "says"),
    [
        ("{kind: command, command: [make]}", "reviewer is of kind: command; only kind: claude can review"),
        ("{kind: codex}", "reviewer is of kind: codex; only kind: claude can review"),
        ("{kind: python, handler: 'turbo.testing:noop'}", "reviewer is of kind: python; only kind: claude can review"),
        ("{kind: claude, check: {command: [make]}}", "reviewer has a check itself"),
        ("{kind: claude, check: {executor: x}}", "reviewer has a check itself"),
        ("{kind: claude, check: {executor: reviewer}}", "reviews its own work"),
        ("{kind: claude, run_as: nobody}", "runs as nobody, but reads what the worker's user has written"),
        ("{kind: claude, command: [claude, --tools, Write]}", "--tools in command does not go with reviews"),
        ("{kind: claude, command: [claude, --mcp-config=/x]}", "--mcp-config in command does not go with reviews"),
        ("{kind: claude, disallowed_tools: ['*']}", "deny the tool StructuredOutput"),
    ],
)
def test_reviewer_that_cannot_review_is_refused(tmp_path: Path, reviewer: str, says: str) -> None:
    assert says in with_reviewer(tmp_path, reviewer)


def test_reviewer_that_can_review_is_taken(tmp_path: Path) -> None:
    assert (
        with_reviewer(
            tmp_path, "{kind: claude, model: opus, allowed_tools: [Write], command: [claude, --effort, high]}"
        )
        == ""
    )
    assert "no executor 'reviewr'" in with_reviewer(tmp_path, "{kind: claude}", check="{executor: reviewr}")
    schema = tmp_path / "schema.json"
    schema.write_text("{}")
    keys = ("output_schema: schema.json", "command: [claude, --json-schema, '{}']")
    assert "--json-schema in command does not go with output_schema" in with_reviewer(tmp_path, "{kind: claude}", *keys)
    assert with_reviewer(tmp_path, "{kind: claude}", keys[0]) == ""


def test_reviews_and_schemas_build_their_judges(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    assert with_reviewer(tmp_path, "{kind: claude, account: a}\naccounts: {a: {}}", f"output_schema: {schema}") == ""
    built = build_executors(load_worker_config(tmp_path / "worker.yaml"), Journal(tmp_path / "journal"))
    assert needs_of(built["x"]) == {"x", "a"}, "it is closed with its reviewer's account"
    assert needs_of(built["reviewer"]) == {"a"}


def test_executor_without_checks_loads_no_schema_library(tmp_path: Path) -> None:
    """A feature costs nothing where it is unused."""
    program = (
        "import sys; import turbo.executors.registry, turbo.executors.claude.executor, turbo.executors.command, turbo.cli.worker; "
        "sys.exit('jsonschema' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
