"""How the work of each executor is judged, from its section of worker.yaml: its answer's form, its checks, its reviewer, held calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from turbo.config.executors import AcpSection, AgentSection, ClaudeSection, ExecutorSection, Program
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.domain.check import SCHEMA_ROUNDS, CheckPolicy, Requirement
from turbo.domain.question import AskPolicy
from turbo.executors.identities import Identities
from turbo.executors.work_areas import path_of
from turbo.process.environment import EnvFile
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.sandbox import Sandbox

if TYPE_CHECKING:
    from turbo.executors.agent.desk import HoldsCalls
    from turbo.executors.checks.judge import Judge
    from turbo.executors.checks.loop import Checks
    from turbo.executors.checks.reviewer import ReviewingAgent
    from turbo.executors.claude.answer_form import AnswerForm
    from turbo.executors.schemas.answer_schema import AnswerSchema
    from turbo.executors.schemas.fit import Fit


def asking_problems(config: WorkerConfig) -> None:
    """Raises ConfigError for an `ask:` that its executor could not keep."""
    refused = []
    for name, section in config.executors.items():
        if isinstance(section, AcpSection) and section.ask is not None:
            try:
                held_calls_of(section.ask.policy)
            except ValueError as error:
                refused.append(f"executors.{name}: {error}")
        if not isinstance(section, ClaudeSection) or section.ask is None:
            continue
        from turbo.executors.claude.flags import check_asking

        try:
            policy = section.ask.policy
            check_asking(name, section.command, policy, section.permission_mode, held_calls_of(policy))
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
                    answer_of(name, section, schema)
            if isinstance(section, Program) and section.check is not None and section.check.executor is not None:
                from turbo.executors.claude.reviewing import check_reviewing

                reviewer = config.executors[section.check.executor]
                if isinstance(reviewer, ClaudeSection):
                    check_reviewing(section.check.executor, reviewer.command, reviewer.disallowed_tools)
        except ValueError as error:  # SchemaRefused is one
            refused.append(f"executors.{name}: {error}")
    if refused:
        raise ConfigError("\n".join(refused))


def answer_of(name: str, section: ClaudeSection, schema: "AnswerSchema | None") -> "AnswerForm":
    """How its agent answers. Raises ValueError."""
    if schema is None:
        from turbo.executors.claude.answer_form import IN_TEXT

        return IN_TEXT
    from turbo.executors.claude.flags import flags_of
    from turbo.executors.claude.structured import answer_form

    return answer_form(name, schema, section.disallowed_tools, flags_of(section.command))


def fit_of(section: ExecutorSection, journal: Journal) -> "Fit | None":
    """What its answers must fit. Raises SchemaRefused, which is a ValueError."""
    if section.output_schema is None:
        return None
    from turbo.executors.schemas.fit import Fit

    return Fit.of_file(Path(section.output_schema), journal)


def reviewer_of(
    section: ExecutorSection,
    config: WorkerConfig,
    journal: Journal,
    sandboxes: Mapping[str, Sandbox],
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
        journal=journal.within(sandboxes.get(name)),
        account=account,
        cwd=path_of(reviewer.cwd),
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


def checks_of(
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
            cwd=path_of(section.cwd),
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


def held_calls_of(ask: AskPolicy | None) -> "HoldsCalls | None":
    """The calls that wait for a person's approval. Raises ValueError for a rule that cannot be kept."""
    if ask is None or not ask.approve:
        return None
    from turbo.executors.held_calls import HeldCalls

    return HeldCalls(ask.approve)
