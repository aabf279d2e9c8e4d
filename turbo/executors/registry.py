"""From worker.yaml to its executors, each with its logins and models (turbo.executors.kinds builds one)."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from turbo.config.executors import AgentSection, ExecutorSection
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.executors.identities import Identities
from turbo.executors.judging import reviewer_of
from turbo.executors.kinds import build_executor
from turbo.executors.pool import AccountPool, PoolMember
from turbo.executors.protocol import Executor
from turbo.executors.sandboxes import build_sandboxes
from turbo.executors.work_areas import kept_area, work_area_of
from turbo.process.environment import EnvFile
from turbo.process.journal import Journal
from turbo.process.sandbox import Sandbox
from turbo.workspaces.area import Exclusive, no_lock

if TYPE_CHECKING:
    from turbo.workspaces.at_remote import AsksEarlierWork
    from turbo.workspaces.worktrees import GoesOn


def build_executors(
    config: WorkerConfig,
    journal: Journal,
    exclusive: Exclusive = no_lock,
    workspaces: Callable[[], Path] | None = None,
    goes_on: "GoesOn | None" = None,
    earlier: "AsksEarlierWork | None" = None,
    sandboxes: Mapping[str, Sandbox] | None = None,
) -> dict[str, Executor]:
    """All executors of a configuration, by name. `exclusive` is for those with `exclusive_cwd`, and for workspaces.
    `workspaces`: where the worktrees are, once the database is known [default: at the top of the state directory].
    `goes_on`: whether another task of a conversation still needs its worktree [default: none does]. `earlier`: what earlier runs of it
    told of its worktree [default: nothing]. `sandboxes`: by executor (turbo.executors.sandboxes) [default: as configured].

    Raises ConfigError: for example a handler that does not exist, an env file with a wrong mode, an invalid argument.
    """
    env_files = {
        name: EnvFile(Path(account.env_file))
        for name, account in config.accounts.items()
        if account.env_file is not None
    }
    roots = [Path(root) for root in config.worker.allowed_roots]
    built: dict[str, Executor] = {}
    identities = Identities()
    walls = build_sandboxes(config, identities) if sandboxes is None else sandboxes
    problems: list[str] = []
    for name, section in config.executors.items():
        try:
            run_as = identities.of(section)
            inside = journal.within(walls.get(name))
            work_area = kept_area(
                work_area_of(name, section, config, journal, inside, exclusive, workspaces, run_as, goes_on, earlier),
                section, exclusive, roots, run_as,
            )  # fmt: skip
            reviewer = reviewer_of(section, config, journal, walls, env_files, identities)

            build = partial(
                build_executor, name, section, journal, inside, roots, exclusive, work_area, run_as, reviewer
            )
            built[name] = _with_accounts(name, section, env_files, build)
        except ValueError as error:  # EnvironmentRefused and IdentityRefused are
            problems.append(f"executors.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return built


def _with_accounts(
    name: str,
    section: ExecutorSection,
    env_files: Mapping[str, EnvFile],
    build: Callable[[str | None, EnvFile | None, str | None], Executor],
) -> Executor:
    """The executor with its account and model; with several, one for each."""
    logins: tuple[str | None, ...] = section.logins or (None,)
    models = (section.model, *section.fallback_models) if isinstance(section, AgentSection) else (None,)
    members = [
        PoolMember(account or name, model, build(account, env_files.get(account) if account else None, model))
        for model in models
        for account in logins
    ]
    return AccountPool(name, members) if len(members) > 1 else members[0].executor
