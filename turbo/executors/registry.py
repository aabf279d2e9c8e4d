"""From a section of worker.yaml to an executor. A new kind is one file beside this one and one branch here."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from turbo.config.executors import (
    AcpSection,
    AgentSection,
    ClaudeSection,
    CodexSection,
    CommandSection,
    CopilotSection,
    ExecutorSection,
    Program,
    PythonSection,
)
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.domain.check import SCHEMA_ROUNDS, CheckPolicy, Requirement
from turbo.domain.question import AskPolicy
from turbo.executors.pool import AccountPool, PoolMember
from turbo.executors.protocol import Executor
from turbo.host.state_dir import locks_of, workspaces_of
from turbo.process.environment import EnvFile
from turbo.process.identity import Identity, IdentityRefused, checked_identity, identity_of
from turbo.process.journal import Journal
from turbo.workspaces.area import Exclusive, WorkArea, no_lock
from turbo.workspaces.record import Policy

if TYPE_CHECKING:
    from turbo.executors.agent.desk import HoldsCalls
    from turbo.executors.checks.judge import Judge
    from turbo.executors.checks.loop import Checks
    from turbo.executors.checks.reviewer import ReviewingAgent
    from turbo.executors.claude.answer_form import AnswerForm
    from turbo.executors.schemas.answer_schema import AnswerSchema
    from turbo.executors.schemas.fit import Fit
    from turbo.workspaces.at_remote import AsksEarlierWork
    from turbo.workspaces.worktrees import GoesOn


def build_executors(
    config: WorkerConfig,
    journal: Journal,
    exclusive: Exclusive = no_lock,
    workspaces: Callable[[], Path] | None = None,
    goes_on: "GoesOn | None" = None,
    earlier: "AsksEarlierWork | None" = None,
) -> dict[str, Executor]:
    """All executors of a configuration, by name. `exclusive` is for those with `exclusive_cwd`, and for workspaces.
    `workspaces`: where the worktrees are, once the database is known [default: at the top of the state directory].
    `goes_on`: whether another task of a conversation still needs its worktree [default: none does]. `earlier`: what earlier runs of it
    told of its worktree [default: nothing].

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
    problems: list[str] = []
    for name, section in config.executors.items():
        try:
            run_as = identities.of(section)
            work_area = _keeping(
                _work_area(name, section, config, journal, exclusive, workspaces, run_as, goes_on, earlier),
                section, exclusive, roots, run_as,
            )  # fmt: skip
            reviewer = _reviewer(section, config, journal, env_files, identities)

            build = partial(_build, name, section, journal, roots, exclusive, work_area, run_as, reviewer)
            built[name] = _with_accounts(name, section, env_files, build)
        except ValueError as error:  # EnvironmentRefused and IdentityRefused are
            problems.append(f"executors.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return built


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
        if identity is not None and (named := _git_config(section)) is not None and named[0].is_absolute():
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


def asking_problems(config: WorkerConfig) -> None:
    """Raises ConfigError for an `ask:` that its executor could not keep."""
    refused = []
    for name, section in config.executors.items():
        if isinstance(section, AcpSection) and section.ask is not None:
            try:
                _held(section.ask.policy)
            except ValueError as error:
                refused.append(f"executors.{name}: {error}")
        if not isinstance(section, ClaudeSection) or section.ask is None:
            continue
        from turbo.executors.claude.flags import check_asking

        try:
            policy = section.ask.policy
            check_asking(name, section.command, policy, section.permission_mode, _held(policy))
        except ValueError as error:
            refused.append(f"executors.{name}: {error}")
    if refused:
        raise ConfigError("\n".join(refused))


def answer_problems(config: WorkerConfig) -> None:
    """Raises ConfigError for an `output_schema:` that no answer can be judged by, and a reviewer that could do more than read."""
    refused = []
    for name, section in config.executors.items():
        try:
            if section.output_schema is not None:
                from turbo.executors.schemas.answer_schema import read_schema

                schema = read_schema(Path(section.output_schema))
                if isinstance(section, ClaudeSection):
                    _answer(name, section, schema)
            if isinstance(section, Program) and section.check is not None and section.check.executor is not None:
                from turbo.executors.claude.reviewing import check_reviewing

                reviewer = config.executors[section.check.executor]
                if isinstance(reviewer, ClaudeSection):
                    check_reviewing(section.check.executor, reviewer.command, reviewer.disallowed_tools)
        except ValueError as error:  # SchemaRefused is one
            refused.append(f"executors.{name}: {error}")
    if refused:
        raise ConfigError("\n".join(refused))


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
        if isinstance(section, Program) and (named := _git_config(section)) is not None:
            found[name] = named[0]
    return found


def _git_config(section: Program) -> tuple[Path, str] | None:
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


def _work_area(
    name: str,
    section: ExecutorSection,
    config: WorkerConfig,
    journal: Journal,
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
        exclusive=exclusive,
        env=section.env,
        grace_seconds=section.grace_seconds,
        run_as=run_as,
        goes_on=goes_on or goes_on_never,
        earlier=earlier or knows_no_earlier,
    )


def _keeping(
    area: WorkArea | None, section: ExecutorSection, exclusive: Exclusive, roots: list[Path], run_as: Identity | None
) -> WorkArea | None:
    """The same, with the files that are kept of it. None: the executor's own plain directories."""
    if not isinstance(section, Program) or (area is None and not section.files):
        return area
    from turbo.executors.directories import Directories
    from turbo.executors.keeping import KeepingArea

    if section.files and run_as is not None:
        raise ValueError("files cannot be read as the user of run_as: remove one of them")
    cwd = _path(section.cwd)
    fixed = cwd.expanduser().absolute() if cwd is not None else None
    locked = exclusive if section.exclusive_cwd else no_lock
    return KeepingArea(area or Directories(fixed, tuple(roots), locked, run_as), tuple(section.files))


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


def _build(
    name: str,
    section: ExecutorSection,
    journal: Journal,
    roots: list[Path],
    exclusive: Exclusive,
    work_area: WorkArea | None,
    run_as: Identity | None,
    reviewer: "ReviewingAgent | None",
    account: str | None,
    env_file: EnvFile | None,
    model: str | None,
) -> Executor:
    ask = section.ask.policy if section.ask is not None else None
    # Imported on use: a worker with python handlers only should not load the Claude executor.
    fit = _fit(section, journal)
    checks = _checks(name, section, journal, run_as, fit, reviewer) if isinstance(section, Program) else None
    if isinstance(section, ClaudeSection):
        from turbo.executors.claude.executor import ClaudeExecutor

        return ClaudeExecutor(
            name,
            section.command,
            journal=journal,
            account=account,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            model=model,
            permission_mode=section.permission_mode,
            allowed_tools=section.allowed_tools,
            disallowed_tools=section.disallowed_tools,
            max_turns=section.max_turns,
            max_budget_usd=section.max_budget_usd,
            resume=section.resume,
            trust_repository=section.trust_repository,
            silence_seconds=section.silence_seconds,
            grace_seconds=section.grace_seconds,
            cli_max_retries=section.cli_max_retries,
            run_as=run_as,
            ask=ask,
            held=_held(ask),
            checks=checks,
            answer=_answer(name, section, None if fit is None else fit.schema),
        )
    if isinstance(section, CodexSection):
        from turbo.executors.codex.answer import IN_WORDS, codex_answer
        from turbo.executors.codex.executor import CodexExecutor

        return CodexExecutor(
            name,
            section.command,
            journal=journal,
            account=account,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            model=model,
            sandbox_mode=section.sandbox,
            network=section.network,
            resume=section.resume,
            silence_seconds=section.silence_seconds,
            grace_seconds=section.grace_seconds,
            run_as=run_as,
            ask=ask,
            checks=checks,
            answer=IN_WORDS if fit is None else codex_answer(name, fit.schema, section.command),
        )
    if isinstance(section, AcpSection):
        from turbo.executors.acp.executor import AcpExecutor

        return AcpExecutor(
            name,
            section.command,
            journal=journal,
            profile=section.profile,
            permissions=section.permissions,
            account=account,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            model=model,
            mode=section.mode,
            resume=section.resume,
            silence_seconds=section.silence_seconds,
            grace_seconds=section.grace_seconds,
            run_as=run_as,
            ask=ask,
            held=_held(ask),
            checks=checks,
            schema=None if fit is None else fit.schema.text,
        )
    if isinstance(section, CopilotSection):
        from turbo.executors.agent.answer import in_words
        from turbo.executors.copilot.executor import CopilotExecutor
        from turbo.executors.copilot.permissions import CopilotPermissions

        return CopilotExecutor(
            name,
            section.command,
            journal=journal,
            account=account,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            model=model,
            permissions=CopilotPermissions(
                tuple(section.allowed_tools), tuple(section.disallowed_tools), section.any_path
            ),
            max_ai_credits=section.max_ai_credits,
            resume=section.resume,
            silence_seconds=section.silence_seconds,
            grace_seconds=section.grace_seconds,
            run_as=run_as,
            checks=checks,
            answer_words="" if fit is None else in_words(fit.schema.text),
        )
    if isinstance(section, CommandSection):
        from turbo.executors.command import CommandExecutor

        return CommandExecutor(
            name,
            section.command,
            journal=journal,
            cwd=_path(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            grace_seconds=section.grace_seconds,
            silence_seconds=section.silence_seconds,
            account=account,
            run_as=run_as,
            ask=ask,
            checks=checks,
        )
    handler = _handler(name, section, account, journal, env_file, ask)
    if fit is None:
        return handler
    from turbo.executors.checks.returned import ReturnsChecked
    from turbo.executors.checks.schema import SchemaJudge

    return ReturnsChecked(handler, SchemaJudge(fit, reads_text=False))


def _handler(
    name: str,
    section: PythonSection,
    account: str | None,
    journal: Journal,
    env_file: EnvFile | None,
    ask: AskPolicy | None,
) -> Executor:
    if section.isolation == "process":
        from turbo.executors.python_process import PythonProcess

        return PythonProcess(
            name,
            section.handler,
            journal=journal,
            env=section.env,
            env_file=env_file,
            grace_seconds=section.grace_seconds,
            account=account,
            ask=ask,
        )
    if section.isolation == "thread":
        from turbo.executors.python_thread import PythonThread

        return PythonThread(name, section.handler, grace_seconds=section.grace_seconds, account=account, ask=ask)
    from turbo.executors.python import PythonExecutor

    return PythonExecutor(name, section.handler, grace_seconds=section.grace_seconds, account=account, ask=ask)


def _answer(name: str, section: ClaudeSection, schema: "AnswerSchema | None") -> "AnswerForm":
    """How its agent answers. Raises ValueError."""
    if schema is None:
        from turbo.executors.claude.answer_form import IN_TEXT

        return IN_TEXT
    from turbo.executors.claude.flags import flags_of
    from turbo.executors.claude.structured import answer_form

    return answer_form(name, schema, section.disallowed_tools, flags_of(section.command))


def _fit(section: ExecutorSection, journal: Journal) -> "Fit | None":
    """What its answers must fit. Raises SchemaRefused, which is a ValueError."""
    if section.output_schema is None:
        return None
    from turbo.executors.schemas.fit import Fit

    return Fit.of_file(Path(section.output_schema), journal)


def _reviewer(
    section: ExecutorSection,
    config: WorkerConfig,
    journal: Journal,
    env_files: Mapping[str, EnvFile],
    identities: Identities,
) -> "ReviewingAgent | None":
    """The agent that reviews the work of an executor. Raises ValueError."""
    if not isinstance(section, Program) or section.check is None or section.check.executor is None:
        return None
    from turbo.executors.claude.reviewing import ClaudeReviewer

    name = section.check.executor
    reviewer = config.executors[name]
    if not isinstance(reviewer, ClaudeSection):
        raise ValueError(f"check.executor: {name} is of kind: {reviewer.kind}; only kind: claude can review")
    account = next(iter(reviewer.logins), None)  # it has one at most (turbo.config.executors)
    return ClaudeReviewer(
        name,
        reviewer.command,
        journal=journal,
        account=account,
        cwd=_path(reviewer.cwd),
        env=reviewer.env,
        env_file=env_files.get(account) if account else None,
        model=reviewer.model,
        allowed_tools=reviewer.allowed_tools,
        disallowed_tools=reviewer.disallowed_tools,
        max_turns=reviewer.max_turns,
        max_budget_usd=reviewer.max_budget_usd,
        silence_seconds=reviewer.silence_seconds,
        grace_seconds=reviewer.grace_seconds,
        cli_max_retries=reviewer.cli_max_retries,
        run_as=identities.of(reviewer),
    )


def _checks(
    name: str,
    section: Program,
    journal: Journal,
    run_as: Identity | None,
    fit: "Fit | None",
    reviewer: "ReviewingAgent | None",
) -> "Checks | None":
    """What the work of an executor must pass; None: a success counts as it is. Raises ValueError."""
    if section.check is None and fit is None:
        return None
    from turbo.executors.checks.command import CommandJudge
    from turbo.executors.checks.environment import CheckEnvironment
    from turbo.executors.checks.loop import Checks
    from turbo.executors.checks.reviewer import ReviewerJudge
    from turbo.executors.checks.schema import SchemaJudge
    from turbo.executors.checks.workspace import ProtectJudge, RequiresJudge

    policy = CheckPolicy(rounds=SCHEMA_ROUNDS) if section.check is None else section.check.policy
    judges: list[Judge] = [] if fit is None else [SchemaJudge(fit, reads_text=True)]
    if policy.requires:
        judges.append(RequiresJudge(policy.requires))
    if policy.protect:
        judges.append(ProtectJudge())
    command = None
    if policy.command:
        command = CommandJudge(
            name,
            policy.command,
            CheckEnvironment(section.env, owner=name, run_as=run_as),
            journal,
            seconds=policy.seconds,
            grace_seconds=section.grace_seconds,
            cwd=_path(section.cwd),
            run_as=run_as,
        )
        judges.append(command)
    if reviewer is not None:
        judges.append(ReviewerJudge(reviewer, seconds=policy.seconds))
    return Checks(
        tuple(judges),
        rounds=policy.rounds,
        converses=isinstance(section, AgentSection),
        baseline=command if policy.baseline else None,
        protect=policy.protect,
        counts_commits=Requirement.COMMIT in policy.requires,
        accounts=frozenset() if reviewer is None else frozenset({reviewer.account}),
        reads_answer=fit is not None,
    )


def _held(ask: AskPolicy | None) -> "HoldsCalls | None":
    """The calls that wait for a person's approval. Raises ValueError for a rule that cannot be kept."""
    if ask is None or not ask.approve:
        return None
    from turbo.executors.held_calls import HeldCalls

    return HeldCalls(ask.approve)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
