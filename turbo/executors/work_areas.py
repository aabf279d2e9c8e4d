"""Where the runs of each executor work, from its section of worker.yaml: plain directories, worktrees, and what is kept of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from turbo.config.executors import AgentSection, CommandSection, ExecutorSection, Program
from turbo.config.worker import WorkerConfig
from turbo.host.state_dir import locks_of, workspaces_of
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.workspaces.area import Exclusive, WorkArea, no_lock
from turbo.workspaces.record import Policy

if TYPE_CHECKING:
    from turbo.workspaces.at_remote import AsksEarlierWork
    from turbo.workspaces.worktrees import GoesOn


def work_area_of(
    name: str,
    section: ExecutorSection,
    config: WorkerConfig,
    journal: Journal,
    inside: Journal,
    exclusive: Exclusive,
    workspaces: Callable[[], Path] | None,
    run_as: Identity | None,
    goes_on: "GoesOn | None",
    earlier: "AsksEarlierWork | None",
) -> WorkArea | None:
    if not isinstance(section, Program) or section.workspace is None:
        return None
    from turbo.workspaces.at_remote import knows_no_earlier
    from turbo.workspaces.worktrees import Worktrees, WorktreeSettings, goes_on_never

    workspace = section.workspace
    state_dir = Path(config.worker.state_dir).absolute()
    return Worktrees(
        name,
        WorktreeSettings(
            repo=Path(workspace.repo),
            ref=workspace.ref,
            refs=tuple(workspace.refs),
            branch=workspace.branch,
            fetch=workspace.fetch,
            setup=tuple(workspace.setup),
            setup_seconds=workspace.setup_seconds,
            git_config=None if workspace.git_config is None else Path(workspace.git_config),
            from_needs=workspace.from_ == "needs",
            push=workspace.push,
            policy=_policy(section),
        ),
        root=workspaces or workspaces_of(state_dir),
        locks=locks_of(state_dir),
        host=config.worker.this_host,
        journal=journal,
        inside=inside,
        exclusive=exclusive,
        env=section.env,
        grace_seconds=section.grace_seconds,
        run_as=run_as,
        goes_on=goes_on or goes_on_never,
        earlier=earlier or knows_no_earlier,
    )


def kept_area(
    area: WorkArea | None, section: ExecutorSection, exclusive: Exclusive, roots: list[Path], run_as: Identity | None
) -> WorkArea | None:
    """The same, with the files that are kept of it. None: the executor's own plain directories."""
    if not isinstance(section, Program) or (area is None and not section.files):
        return area
    from turbo.executors.directories import Directories
    from turbo.executors.keeping import KeepingArea

    if section.files and run_as is not None:
        raise ValueError("files cannot be read as the user of run_as: remove one of them")
    cwd = path_of(section.cwd)
    locked = exclusive if section.exclusive_cwd else no_lock
    return KeepingArea(area or Directories.at(cwd, roots, locked, run_as), tuple(section.files))


def exclusive_directories(config: WorkerConfig) -> dict[str, Path]:
    """The fixed directories of executors with `exclusive_cwd`, by executor."""
    return {
        name: Path(section.cwd)
        for name, section in config.executors.items()
        if isinstance(section, CommandSection | AgentSection) and section.exclusive_cwd and section.cwd is not None
    }


def workspace_policies(config: WorkerConfig) -> dict[str, Policy]:
    """The worktree policy of each executor that has a workspace."""
    return {
        name: _policy(section)
        for name, section in config.executors.items()
        if isinstance(section, Program) and section.workspace is not None
    }


def pushing(config: WorkerConfig) -> list[str]:
    """The executors that push the branches of their workspaces."""
    return [
        name
        for name, section in config.executors.items()
        if isinstance(section, Program) and section.workspace is not None and section.workspace.push is not None
    ]


def workspace_git_configs(config: WorkerConfig) -> dict[str, Path]:
    """The configuration file that turbo's own git reads, for each executor whose workspace has one."""
    found = {}
    for name, section in config.executors.items():
        if isinstance(section, Program) and (named := git_config_of(section)) is not None:
            found[name] = named[0]
    return found


def git_config_of(section: Program) -> tuple[Path, str] | None:
    """The configuration file of turbo's own git for an executor, and the key that names it."""
    if section.workspace is None:
        return None
    if section.workspace.git_config:
        return Path(section.workspace.git_config), "workspace.git_config"
    named = section.env.get("GIT_CONFIG_GLOBAL")
    return (Path(named), "env.GIT_CONFIG_GLOBAL") if named else None


def _policy(section: Program) -> Policy:
    workspace = section.workspace
    assert workspace is not None
    return Policy(
        keep=workspace.keep,
        keep_days=workspace.keep_days,
        max_bytes=None if workspace.max_gb is None else int(workspace.max_gb * 1e9),
        sweep_unmerged=workspace.sweep_unmerged,
    )


def path_of(text: str | None) -> Path | None:
    return None if text is None else Path(text)
