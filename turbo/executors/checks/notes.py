"""What an operator should know about an executor's check, for `turbo config check` and `turbo doctor`."""

from collections.abc import Iterator
from pathlib import Path

from turbo.config.executors import Program
from turbo.domain.finding import Finding
from turbo.domain.states import Level
from turbo.process.launch import SpawnFailed
from turbo.workspaces.git import GitFailed
from turbo.workspaces.patterns import unmatched


def notes(name: str, section: Program) -> Iterator[Finding]:
    """Protected patterns that match nothing. None where the repository cannot be read from here: other checks tell of that."""
    if section.check is None or not section.check.protect or section.workspace is None or section.run_as is not None:
        return
    workspace = section.workspace
    config = Path(workspace.git_config) if workspace.git_config else None
    try:
        found = unmatched(Path(workspace.repo), workspace.ref, section.check.protect, config)
    except (GitFailed, SpawnFailed, OSError, ValueError):
        return
    for pattern in found:
        what = f"executor {name}: check.protect {pattern!r} matches no file of {workspace.ref} in {workspace.repo}"
        yield Finding(Level.WARN, what, do="correct the pattern, unless such files are yet to come")
