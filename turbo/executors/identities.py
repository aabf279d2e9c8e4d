"""The users that executors run their programs as (`run_as`)."""

from turbo.config.executors import ExecutorSection, Program
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.executors.work_areas import git_config_of
from turbo.process.identity import Identity, IdentityRefused, checked_identity, identity_of


class Identities:
    """The users that executors name, each tried once."""

    def __init__(self) -> None:
        self._known: dict[str, Identity | None] = {}

    def of(self, section: ExecutorSection) -> Identity | None:
        """None: the worker's own. Raises IdentityRefused."""
        if not isinstance(section, Program) or section.run_as is None:
            return None
        if section.run_as not in self._known:
            self._known[section.run_as] = checked_identity(section.run_as)
        identity = self._known[section.run_as]
        if identity is not None and section.cwd is None:
            identity.require_home("" if section.workspace is not None else ", or set the executor's cwd")
        if identity is not None and (named := git_config_of(section)) is not None and named[0].is_absolute():
            identity.require_readable(*named)
        return identity


def user_problems(config: WorkerConfig) -> list[str]:
    """What this process could not do of what `run_as` asks for: another user may run the worker.

    Raises ConfigError for what no worker on this host can do."""
    refused, doubtful = [], []
    for name, section in config.executors.items():
        user = section.run_as if isinstance(section, Program) else None
        if user is None:
            continue
        try:
            identity_of(user)
        except IdentityRefused as error:
            refused.append(f"executors.{name}: {error}")
            continue
        try:
            Identities().of(section)
        except IdentityRefused as error:
            doubtful.append(f"executors.{name}: {error}")
    if refused:
        raise ConfigError("\n".join(refused))
    return doubtful
