"""One executor, from its section of worker.yaml and what was built for it. A new kind is one room beside this and one branch here."""

from pathlib import Path
from typing import TYPE_CHECKING

from turbo.config.executors import (
    AcpSection,
    ClaudeSection,
    CodexSection,
    CommandSection,
    CopilotSection,
    ExecutorSection,
    Program,
    PythonSection,
)
from turbo.domain.question import AskPolicy
from turbo.executors.judging import answer_of, checks_of, fit_of, held_calls_of
from turbo.executors.protocol import Executor
from turbo.executors.work_areas import path_of
from turbo.process.environment import EnvFile
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.workspaces.area import Exclusive, WorkArea, no_lock

if TYPE_CHECKING:
    from turbo.executors.checks.reviewer import ReviewingAgent


def build_executor(
    name: str,
    section: ExecutorSection,
    journal: Journal,
    inside: Journal,
    roots: list[Path],
    exclusive: Exclusive,
    work_area: WorkArea | None,
    run_as: Identity | None,
    reviewer: "ReviewingAgent | None",
    account: str | None,
    env_file: EnvFile | None,
    model: str | None,
) -> Executor:
    """`inside`: the journal of what runs in the executor's sandbox: its own program, and the checks of its work."""
    ask = section.ask.policy if section.ask is not None else None
    # Imported on use: a worker with python handlers only should not load the Claude executor.
    fit = fit_of(section, journal)
    checks = checks_of(name, section, inside, run_as, fit, reviewer) if isinstance(section, Program) else None
    if isinstance(section, ClaudeSection):
        from turbo.executors.claude.executor import ClaudeExecutor

        return ClaudeExecutor(
            name,
            section.command,
            journal=inside,
            account=account,
            cwd=path_of(section.cwd),
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
            held=held_calls_of(ask),
            checks=checks,
            answer=answer_of(name, section, None if fit is None else fit.schema),
        )
    if isinstance(section, CodexSection):
        from turbo.executors.codex.answer import IN_WORDS, codex_answer
        from turbo.executors.codex.executor import CodexExecutor

        return CodexExecutor(
            name,
            section.command,
            journal=inside,
            account=account,
            cwd=path_of(section.cwd),
            exclusive=exclusive if section.exclusive_cwd else no_lock,
            env=section.env,
            env_file=env_file,
            allowed_roots=roots,
            work_area=work_area,
            model=model,
            sandbox_mode=section.sandbox.mode,
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
            journal=inside,
            profile=section.profile,
            permissions=section.permissions,
            account=account,
            cwd=path_of(section.cwd),
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
            held=held_calls_of(ask),
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
            journal=inside,
            account=account,
            cwd=path_of(section.cwd),
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
            journal=inside,
            cwd=path_of(section.cwd),
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
    handler = _handler(name, section, account, inside, env_file, ask)
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
