"""A protected pattern that matches nothing is told before any task runs: by `turbo config check` and by `turbo doctor`."""

from pathlib import Path

import pytest
import yaml

from tests.support.repositories import commit, repository
from tests.support.shell import Shell
from turbo.config.executors import Program
from turbo.config.worker import load_worker_config
from turbo.doctor.programs import protected
from turbo.domain.states import Level
from turbo.workspaces.patterns import unmatched

PATTERNS = ["tests/**", "spec/**", "**/a.py", "*.lock", "!nothing/**", "src/"]
SLIPS = ["spec/**", "*.lock"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = repository(tmp_path / "project")
    for name in ("tests/deep/a.py", "src/b.py", "src/c.lock"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    commit(made, "code")
    (made / "spec").mkdir()
    (made / "spec" / "untracked").touch()
    return made


def config(path: Path, repo: Path, patterns: list[str], ref: str = "main") -> Path:
    workspace = {"kind": "worktree", "repo": str(repo), "ref": ref}
    executor = {"kind": "command", "command": ["true"], "workspace": workspace, "check": {"protect": patterns}}
    file = path / "worker.yaml"
    file.write_text(yaml.safe_dump({"executors": {"x": executor}, "routes": {"default": "x"}}))
    return file


def test_slips_are_found_in_the_ref_and_not_in_the_checkout(repo: Path) -> None:
    assert unmatched(repo, "main", PATTERNS) == SLIPS
    (repo / ".git" / "config").write_text("[core]\n\tfsmonitor = touch " + str(repo / "ran") + "\n")
    assert unmatched(repo, "main", PATTERNS) == SLIPS
    assert not (repo / "ran").exists(), "nothing that the repository names is run"


@pytest.mark.parametrize("ref", ["main", "no-such-branch"])
def test_slip_is_told_before_a_task_runs(shell: Shell, tmp_path: Path, repo: Path, ref: str) -> None:
    done = shell("config", "check", str(config(tmp_path, repo, PATTERNS, ref)))
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "matches no file" in line]
    assert len(said) == (2 if ref == "main" else 0), "a ref that is not there is another finding"
    if ref == "main":
        assert f"executor x: check.protect 'spec/**' matches no file of main in {repo}" in said[0]


def test_doctor_tells_of_the_first_slip(tmp_path: Path, repo: Path) -> None:
    for patterns, level in ((PATTERNS, Level.WARN), (["tests/**"], Level.OK)):
        section = load_worker_config(config(tmp_path, repo, patterns)).executors["x"]
        assert isinstance(section, Program)
        assert protected("x", section).level is level
