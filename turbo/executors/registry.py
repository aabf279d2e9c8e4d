"""From a section of worker.yaml to an executor. A new kind is one file beside this one and one branch here."""

from pathlib import Path

from turbo.config import ClaudeExecutor as ClaudeSection
from turbo.config import CommandExecutor as CommandSection
from turbo.config import ConfigError, ExecutorSection, WorkerConfig
from turbo.environment import EnvFile
from turbo.executors.base import Executor
from turbo.executors.working_directory import Exclusive, shared
from turbo.journal import Journal


def build_executors(config: WorkerConfig, journal: Journal, exclusive: Exclusive = shared) -> dict[str, Executor]:
    """All executors of a configuration, by name. Raises ConfigError: a handler that is not there, an env file with wrong
    modes, an argument that cannot be used. `exclusive` is for those with `exclusive_cwd`."""
    env_files = {
        name: EnvFile(Path(account.env_file))
        for name, account in config.accounts.items()
        if account.env_file is not None
    }
    roots = [Path(root) for root in config.worker.allowed_roots]
    built: dict[str, Executor] = {}
    problems: list[str] = []
    for name, section in config.executors.items():
        env_file = env_files.get(section.account) if section.account else None
        try:
            built[name] = _build(name, section, journal, env_file, roots, exclusive)
        except ValueError as error:  # EnvironmentRefused is one
            problems.append(f"executors.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return built


def exclusive_directories(config: WorkerConfig) -> dict[str, Path]:
    """The fixed directories of executors with `exclusive_cwd`, by executor."""
    return {
        name: Path(section.cwd)
        for name, section in config.executors.items()
        if isinstance(section, CommandSection | ClaudeSection) and section.exclusive_cwd and section.cwd is not None
    }


def _build(
    name: str,
    section: ExecutorSection,
    journal: Journal,
    env_file: EnvFile | None,
    roots: list[Path],
    exclusive: Exclusive,
) -> Executor:
    # Imported when used: a worker of python handlers needs no CLI classifier in its memory.
    if isinstance(section, ClaudeSection):
        from turbo.executors.claude import ClaudeExecutor

        return ClaudeExecutor(
            name,
            section.command,
            journal=journal,
            account=section.account,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else shared,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            model=section.model,
            permission_mode=section.permission_mode,
            allowed_tools=section.allowed_tools,
            disallowed_tools=section.disallowed_tools,
            max_turns=section.max_turns,
            max_budget_usd=section.max_budget_usd,
            resume=section.resume,
            silence_seconds=section.silence_seconds,
            grace_seconds=section.grace_seconds,
            cli_max_retries=section.cli_max_retries,
        )
    if isinstance(section, CommandSection):
        from turbo.executors.command import CommandExecutor

        return CommandExecutor(
            name,
            section.command,
            journal=journal,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else shared,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            grace_seconds=section.grace_seconds,
            silence_seconds=section.silence_seconds,
            account=section.account,
        )
    from turbo.executors.python import PythonExecutor

    return PythonExecutor(name, section.handler, grace_seconds=section.grace_seconds, account=section.account)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
