"""Checks of work for tests: what an executor's work must pass, and what it was judged by."""

from pathlib import Path
from typing import Any

from turbo.domain.check import Requirement
from turbo.domain.outcome import Outcome
from turbo.executors.checks.command import CommandJudge
from turbo.executors.checks.environment import CheckEnvironment
from turbo.executors.checks.judge import Judge
from turbo.executors.checks.loop import Checks
from turbo.executors.checks.workspace import ProtectJudge, RequiresJudge
from turbo.process.journal import Journal


def checks(
    home: Path,
    script: str = "",
    *,
    rounds: int = 3,
    seconds: float = 60.0,
    converses: bool = True,
    baseline: bool = False,
    requires: tuple[str, ...] = (),
    protect: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
) -> Checks:
    """A check by a shell script, which is put into `home`, or by a command."""
    judges: list[Judge] = []
    if requires:
        judges.append(RequiresJudge([Requirement(name) for name in requires]))
    if protect:
        judges.append(ProtectJudge())
    judge = None
    if script or command:
        home.mkdir(exist_ok=True)
        (home / "check.sh").write_text(script)
        argv = command or ("sh", str(home / "check.sh"))
        environment = CheckEnvironment(env or {}, owner="x")
        judge = CommandJudge("x", argv, environment, Journal(home / "journal"), seconds=seconds, grace_seconds=0.5)
        judges.append(judge)
    return Checks(
        tuple(judges),
        rounds,
        converses,
        judge if baseline else None,
        protect=protect,
        counts_commits="commit" in requires,
    )


def check_of(outcome: Outcome) -> dict[str, Any]:
    """`output_data.check`."""
    assert outcome.checked is not None, outcome
    return outcome.checked.document()


def results(outcome: Outcome) -> list[str]:
    """What each check found."""
    assert outcome.checked is not None, outcome
    return [check.result.value for check in outcome.checked.checks]
