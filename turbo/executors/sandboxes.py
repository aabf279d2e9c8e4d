"""The sandboxes that executors run their programs in, each made of its section of worker.yaml and of what the worker must keep."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from psycopg import ProgrammingError, conninfo

from turbo.config.executors import ExecutorSection, Program
from turbo.config.sandbox import SandboxSection
from turbo.config.worker import WorkerConfig
from turbo.executors.identities import Identities
from turbo.host.state_dir import OF_A_DATABASE
from turbo.process.environment import EnvFile, EnvironmentRefused
from turbo.process.sandbox import Sandbox, SandboxRules, Trials

HOMES_OF_AGENTS = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "HOME")
"""Variables that say where an agent keeps its login."""

_FILES_OF_LIBPQ = ("PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY")


def build_sandboxes(
    config: WorkerConfig, identities: Identities | None = None, own_files: Iterable[Path] = ()
) -> dict[str, Sandbox]:
    """By executor; those without one are left out, and those whose user is refused: nothing of them is built.

    `own_files`: more of the worker's own, which stay hidden."""
    known = identities or Identities()
    trials = Trials()
    found = {}
    for name, section in config.executors.items():
        if section.enclosed is None:
            continue
        try:
            found[name] = Sandbox(_rules(name, section.enclosed, config, own_files), known.of(section), trials)
        except ValueError:  # IdentityRefused is one
            continue
    return found


def _rules(name: str, walls: SandboxSection, config: WorkerConfig, own_files: Iterable[Path]) -> SandboxRules:
    state_dir = Path(config.worker.state_dir)
    return SandboxRules(
        write=_paths(walls.write),
        read=_paths(walls.read),
        hidden=(*_paths(walls.deny_read), *_other_logins(name, config)),
        secrets=(state_dir, *own_files, *_secrets(config)),
        working=tuple(state_dir / part for part in (*OF_A_DATABASE, "databases") if part != "logs"),
        network=walls.network,
        required=walls.required,
    )


def _paths(written: list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, written))


def _secrets(config: WorkerConfig) -> Iterator[Path]:
    """Files with which a program could speak for the worker."""
    from turbo.embedded.server import default_data_dir  # most workers have no sandbox

    if config.file is not None:
        yield config.file
    if (written := os.environ.get("TURBO_CONFIG", "")).startswith("/"):
        yield Path(written)
    for account in config.accounts.values():
        if account.env_file is not None:
            yield Path(account.env_file).absolute()
    yield default_data_dir().absolute()
    for variable in _FILES_OF_LIBPQ:
        if (named := os.environ.get(variable, "")).startswith("/"):
            yield Path(named)
    for dsn in (config.database.dsn, os.environ.get("TURBO_DSN", "")):
        try:
            given = conninfo.conninfo_to_dict(dsn)
        except ProgrammingError:
            continue
        for keyword in ("passfile", "sslkey"):
            if (named := str(given.get(keyword) or "")).startswith("/"):
                yield Path(named)
        for host in str(given.get("host") or "").split(","):
            if host.startswith("/") and host not in ("/tmp", "/var/tmp"):  # noqa: S108 - each program has its own
                yield Path(host)


def _other_logins(name: str, config: WorkerConfig) -> Iterator[Path]:
    """Where the agents of other accounts keep their logins."""
    own = set(_homes(config, config.executors[name]))
    for other, section in config.executors.items():
        if other != name:
            yield from (home for home in _homes(config, section) if home not in own)


def _homes(config: WorkerConfig, section: ExecutorSection) -> Iterator[Path]:
    """Of one executor, as its `env` and the env files of its accounts name them."""
    sets: list[Mapping[str, str]] = [section.env]
    for account in section.logins:
        settings = config.accounts.get(account)
        if settings is not None and settings.env_file is not None:
            try:
                sets.append(EnvFile(Path(settings.env_file)).values())
            except EnvironmentRefused:  # reported where it is used
                continue
    for variables in sets:
        for variable in HOMES_OF_AGENTS:
            named = variables.get(variable, "")
            if named.startswith("/") and Path(named) != Path.home() and isinstance(section, Program):
                yield Path(named)
