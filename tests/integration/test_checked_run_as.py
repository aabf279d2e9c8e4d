"""A check of an executor with `run_as`: it is that user's, and sees that user's worktree."""

from pathlib import Path

import pytest

from tests.support import users
from tests.support.checks import check_of, results
from turbo.domain.check import Requirement
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.checks.command import CommandJudge
from turbo.executors.checks.environment import CheckEnvironment
from turbo.executors.checks.loop import Checks
from turbo.executors.checks.workspace import ProtectJudge, RequiresJudge
from turbo.executors.command import CommandExecutor
from turbo.host.state_dir import StateDir
from turbo.process.identity import identity_of
from turbo.process.journal import Journal
from turbo.workspaces.area import no_lock
from turbo.workspaces.worktrees import Worktrees, WorktreeSettings

GIT = "git config --global user.name A; git config --global user.email a@example.org"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo done > work; git add -A; git commit -qm work", ["passed"]),
        ("echo done > work; echo easy > tests/a; git update-index --assume-unchanged tests/a", ["unmet"]),
        ("echo done > work; git add -A; git commit -qm work; touch tests/b", ["protected"]),
        ("echo done > work; git add -A; git commit -qm work; git init -q tests; touch tests/.git/b", ["protected"]),
    ],
)
async def test_check_runs_as_the_agents_user(tmp_path: Path, script: str, found: list[str]) -> None:
    with users.a_user("checked") as agents:
        agents.run(
            f"{GIT}; git init -q -b main project; cd project; mkdir tests; echo 1 >tests/a; git add .; git commit -qm first"
        )
        state, journal, identity = StateDir(tmp_path / "state"), Journal(tmp_path / "journal"), identity_of(agents.name)
        assert identity is not None
        environment = CheckEnvironment({}, owner="x", run_as=identity)
        command = CommandJudge("x", ["id", "-un"], environment, journal, seconds=60.0, run_as=identity)
        judges = (RequiresJudge([Requirement.COMMIT]), ProtectJudge(), command)
        area = Worktrees(
            "x",
            WorktreeSettings(agents.home / "project"),
            root=state.workspaces,
            locks=state.locks,
            host="here",
            journal=journal,
            exclusive=no_lock,
            run_as=identity,
        )
        executor = CommandExecutor(
            "x",
            ["/bin/sh", "-ec", script],
            journal=journal,
            work_area=area,
            run_as=identity,
            checks=Checks(judges, 0, converses=False, protect=["tests/**"], counts_commits=True),
        )
        assert executor.missing() is None
        task = Task("t", "x", "x", timeout_seconds=60.0, fencing_token=1)
        outcome: Outcome = await executor.run(Run(task, tmp_path / "work", tmp_path / "log"))
        assert results(outcome) == found, check_of(outcome)
        assert (outcome.kind is OutcomeKind.SUCCEEDED) is (found == ["passed"])
        if found == ["passed"]:
            assert check_of(outcome)["output"] == agents.name
