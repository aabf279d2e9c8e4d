"""The CLI of an agent: its version, whether it has a login, and what else it needs on this host. No request is sent."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from turbo.config.executors import AcpSection, AgentSection, CodexSection, CopilotSection
from turbo.doctor.surroundings import WorkerEnvironment
from turbo.domain.finding import Finding, fail, ok, warn
from turbo.executors.protocol import Executor, Versioned

OLDEST_MEASURED = (2, 1, 197)
OLDEST_CODEX = (0, 169, 0)
OLDEST_COPILOT = (1, 0, 102)


async def _nothing() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class _AgentCli:
    """`logged_in`: None: it does not tell. `ask`: how a person finds out. `log_in`: how to, `{whose}` is the account. `obstacle`: why
    its agents could not work here, and `remedy` what to do."""

    name: str
    oldest: tuple[int, ...]
    logged_in: Callable[[], Awaitable[bool | None]]
    ask: str
    log_in: str
    obstacle: Callable[[], Awaitable[str | None]] = _nothing
    remedy: str = ""


async def agent_finding(
    executor: Executor, section: AgentSection, account: str | None, environment: WorkerEnvironment
) -> Finding:
    """Of one login of an executor."""
    assert isinstance(executor, Versioned)
    if isinstance(section, AcpSection):
        return await _over_acp(executor, environment)
    cli = _cli(executor, section)
    version = await executor.version()
    if version is None:
        return fail(f"the {cli.name} does not respond to --version", "run it by hand, or install it again")
    logged_in = await cli.logged_in()
    if logged_in is None:
        return warn(f"{cli.name} {version} does not report whether it is logged in", cli.ask)
    if not logged_in:
        whose = f" of account {account}" if account else ""
        return fail(f"{cli.name} {version} is not logged in ({environment.whose})", cli.log_in.format(whose=whose))
    if (why := await cli.obstacle()) is not None:
        return fail(f"{cli.name} {version}: {why}", cli.remedy)
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if numbers < cli.oldest:
        oldest = ".".join(map(str, cli.oldest))
        return warn(f"{cli.name} {version} is older than any version tested with turbo ({oldest})", "upgrade it")
    return ok(f"{cli.name} {version}, logged in ({environment.whose})")


async def _over_acp(executor: Executor, environment: WorkerEnvironment) -> Finding:
    """The agent's version. Whether it has a login, only a turn shows: the protocol has no question for it."""
    from turbo.executors.acp.executor import AcpExecutor

    assert isinstance(executor, AcpExecutor)
    version = await executor.version()
    if version is None:
        return warn("the agent does not respond to --version", "run: turbo agents probe, with the executor's command")
    return ok(f"{executor.session_kind.removeprefix('acp:')} {version} ({environment.whose})")


def _cli(executor: Executor, section: AgentSection) -> _AgentCli:
    if isinstance(section, CodexSection):
        from turbo.executors.codex.executor import CodexExecutor

        assert isinstance(executor, CodexExecutor)

        async def sandbox() -> str | None:
            why = await executor.sandboxed()
            return None if why is None else f"its sandbox cannot be made on this host: {why}"

        return _AgentCli(
            "Codex CLI",
            OLDEST_CODEX,
            executor.logged_in,
            "run: codex login status",
            "run codex login with a CODEX_HOME of its own, and put CODEX_HOME=… in the env_file{whose}; or put CODEX_API_KEY=… there",
            sandbox,
            "allow user namespaces, or set sandbox: danger-full-access where a container is the wall",
        )
    if isinstance(section, CopilotSection):
        from turbo.executors.copilot.executor import CopilotExecutor

        assert isinstance(executor, CopilotExecutor)
        return _AgentCli(
            "GitHub Copilot CLI",
            OLDEST_COPILOT,
            executor.logged_in,
            "put COPILOT_GITHUB_TOKEN=… in the account's env_file (mode 0600); a login stored by copilot login works too, but only "
            "a run shows whether there is one",
            "",
        )
    from turbo.executors.claude.executor import ClaudeExecutor

    assert isinstance(executor, ClaudeExecutor)
    return _AgentCli(
        "Claude CLI",
        OLDEST_MEASURED,
        executor.auth_status,
        "run: claude auth status",
        "run claude setup-token, and put CLAUDE_CODE_OAUTH_TOKEN=… in the env_file{whose} (mode 0600)",
    )
