"""What the executors need on this host: env files, programs, logins, and directories that are not shared by accident.

Checked in the environment that the worker would give a task's program (turbo.process.environment). It is derived from the
worker's environment, not from this shell's.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from turbo.config.executors import (
    AgentSection,
    ClaudeSection,
    CommandSection,
    ExecutorSection,
    Program,
)
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.doctor.agents import agent_finding
from turbo.doctor.check import Check
from turbo.doctor.surroundings import WorkerEnvironment, applied
from turbo.domain.finding import Finding, fail, ok, warn
from turbo.domain.states import Level
from turbo.domain.task import NO_TASK
from turbo.events.targets import build_targets
from turbo.executors.checks.notes import notes as check_notes
from turbo.executors.claude.notes import notes
from turbo.executors.identities import Identities
from turbo.executors.pool import AccountPool
from turbo.executors.protocol import Executor, NeedsProgram
from turbo.executors.registry import build_executors
from turbo.executors.sandboxes import build_sandboxes
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.journal import Journal
from turbo.process.launch import at_home


def checks(
    config: WorkerConfig, worker_env_file: Path | None, environment: Callable[[], WorkerEnvironment]
) -> list[Check]:
    checks_of_programs = []
    if worker_env_file is not None:
        checks_of_programs.append(Check("env file", partial(env_file, worker_env_file)))
    for account, settings in config.accounts.items():
        if settings.env_file is not None:
            path = Path(settings.env_file)
            checks_of_programs.append(Check(f"env file {account}", partial(env_file, path)))
    routed = {name for route in config.executors_by_type.values() for name in route}
    for name, executor in config.executors.items():
        if name not in routed:
            continue  # no route leads to it
        needs = tuple(f"env file {whose}" for whose in executor.logins if config.accounts[whose].env_file is not None)
        checks_of_programs.append(Check(f"executor {name}", partial(_executor, config, name, environment), needs))
        for note in notes(name, executor) if isinstance(executor, ClaudeSection) else ():
            checks_of_programs.append(Check(f"trust {name}", lambda note=note: note))  # type: ignore[misc]
        if isinstance(executor, Program) and executor.check is not None and executor.check.protect:
            checks_of_programs.append(Check(f"check {name}", partial(protected, name, executor)))
        if executor.enclosed is not None:
            checks_of_programs.append(Check(f"sandbox {name}", partial(sandbox, config, name, environment)))
        if is_agent(executor):
            checks_of_programs.append(Check(f"directory {name}", partial(directory, config, name)))
    checks_of_programs += [Check(f"target {name}", partial(target, config, name)) for name in config.notify]
    return checks_of_programs


def target(config: WorkerConfig, name: str) -> Finding:
    """Could it be reached from this host? Nothing is sent."""
    with tempfile.TemporaryDirectory(prefix="turbo-") as scratch:
        try:
            made = build_targets({name: config.notify[name]}, Journal(Path(scratch)), Path(scratch))[name]
        except ConfigError as error:
            return fail(str(error))
    if (why := made.missing()) is not None:
        return fail(why, "mend notify in worker.yaml, or what it names")
    return ok(f"turbo subscription test {name} --config FILE delivers a sample")


def protected(name: str, section: Program) -> Finding:
    """The patterns of `check.protect`. The first that matches nothing is told."""
    found = next(check_notes(name, section), None)
    return found or ok(f"check.protect: {', '.join(section.check.protect) if section.check is not None else 'none'}")


def env_file(path: Path) -> Finding:
    try:
        count = len(EnvFile(path).values())
    except EnvironmentRefused as error:
        what, _, do = str(error).partition(": run ")
        return fail(what.removeprefix("env_file "), do or "fix it: KEY=VALUE lines, owned by this user, mode 0600")
    return ok(f"{path}: mode 0600, {count} variable{'' if count == 1 else 's'}")


def _executor(config: WorkerConfig, name: str, find_environment: Callable[[], WorkerEnvironment]) -> Finding:
    environment = find_environment()
    with applied(environment), tempfile.TemporaryDirectory(prefix="turbo-doctor-") as scratch:
        alone = config.model_copy(update={"executors": {name: config.executors[name]}})
        try:
            executor = build_executors(alone, Journal(Path(scratch) / "journal"))[name]
        except (ConfigError, OSError) as error:
            return fail(str(error).removeprefix(f"executors.{name}: "), f"fix executors.{name} in the configuration")
        if isinstance(executor, NeedsProgram) and (missing := executor.missing()) is not None:
            what, _, do = missing.partition("; ")
            return fail(
                f"{what} ({environment.whose})",
                do or "install it, or use its absolute path in the executor's command",
            )
        section = config.executors[name]
        if (refused := _as_its_user(section)) is not None:
            return fail(refused, "let that user read the program and enter the directory, or name others")
        if isinstance(section, AgentSection):
            return _accounts_of_agent(executor, section, environment)
        program = section.command[0] if isinstance(section, CommandSection) else section.handler
        return ok(f"found {program} ({environment.whose})")


def sandbox(config: WorkerConfig, name: str, find_environment: Callable[[], WorkerEnvironment]) -> Finding:
    """Can one be made on this host? It is tried."""
    environment = find_environment()
    with applied(environment):
        alone = config.model_copy(update={"executors": {name: config.executors[name]}})
        made = build_sandboxes(alone).get(name)
        if made is None:
            return warn("the sandbox was not tried", f"fix executors.{name}")
        why = made.unavailable()
        if why is None:
            network = "the network of the host" if made.rules.network else "no network"
            if os.geteuid() == 0 and not _has_user(config.executors[name]):
                return warn(
                    f"{made.version()}, {network}; root runs it",
                    "set run_as: a user that can do little is a second wall",
                )
            return ok(f"{made.version()}, {network}")
    what, _, do = why.rpartition(": ")
    if made.rules.required:
        return fail(f"{what or why}; its tasks are left to other workers", do or "see docs/how-to/sandbox.md")
    return warn(f"{what or why}; its programs run without one", do or "see docs/how-to/sandbox.md")


def _has_user(section: ExecutorSection) -> bool:
    return isinstance(section, Program) and section.run_as is not None


def _as_its_user(section: ExecutorSection) -> str | None:
    """Why the user of `run_as` could not start the program, although this one could; None for the CLI of an agent, which is tried."""
    identity = Identities().of(section)
    if identity is None or not isinstance(section, CommandSection):
        return None
    path = ChildEnvironment(section.env).for_task(NO_TASK).get("PATH")
    return identity.obstacle(at_home(section.command)[0], path, Path(section.cwd) if section.cwd else None)


def _accounts_of_agent(executor: Executor, section: AgentSection, environment: WorkerEnvironment) -> Finding:
    """The first of its accounts that is not all right, else what holds for all of them."""
    if not isinstance(executor, AccountPool):
        return asyncio.run(agent_finding(executor, section, next(iter(section.logins), None), environment))
    if executor.unusable:
        account, why = next(iter(executor.unusable.items()))
        return fail(f"account {account}: {why}", "its tasks go to the other accounts until that is repaired")
    found = ok("")
    members = {one.account: one.executor for one in executor.members}
    for account, member in members.items():
        found = asyncio.run(agent_finding(member, section, account, environment))
        if found.level is not Level.OK:
            return found
    return replace(found, what=f"{found.what}, with {len(members)} accounts") if len(members) > 1 else found


def is_agent(section: object) -> bool:
    """Whether it is an agent that edits files: the CLI of one, or a command with an account."""
    return isinstance(section, AgentSection) or (isinstance(section, CommandSection) and bool(section.logins))


def directory(config: WorkerConfig, name: str) -> Finding:
    """Several agents in one checkout overwrite each other's work."""
    section = config.executors[name]
    assert isinstance(section, AgentSection | CommandSection)
    workspace = getattr(section, "workspace", None)
    if getattr(workspace, "kind", None) == "worktree":
        return ok("each task has its own git worktree")
    if section.cwd is None:
        return ok("each task has its own directory")
    if section.exclusive_cwd:
        return ok(f"one task at a time in {section.cwd}")
    if config.worker.slots == 1:
        return ok(f"{section.cwd}; the worker has one slot, but a second worker with this directory would share it")
    return warn(
        f"up to {config.worker.slots} agents at once in {section.cwd}: they will overwrite each other's work",
        "set workspace: {kind: worktree, repo: …}, or exclusive_cwd: true",
    )
