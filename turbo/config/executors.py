"""The sections of executors in worker.yaml, and what cannot work about one."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from turbo.config.acp import AcpProfile, Permissions, acp_problems, chosen_profile
from turbo.config.asking import AskSection, with_permission_mode, without_approvals
from turbo.config.checking import CheckSection, check_problems, check_warnings
from turbo.config.copilot import flag_problem, key_problem
from turbo.config.loader import LONGEST_SECONDS, Real, Section, Whole, home, near
from turbo.config.sandbox import NEEDS_NETWORK, NO_WALL, CodexSandbox, SandboxSection, as_codex_sandbox, sandbox_doors
from turbo.config.scripts import code_from_rows
from turbo.config.workspace import Workspace
from turbo.domain.finding import Finding, fail
from turbo.domain.kept import OWN_DIRECTORY
from turbo.domain.states import Level

MOST_ACCOUNTS = 50
"""Of one executor."""

HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def file_pattern(pattern: str) -> str:
    """Raises ValueError for one that names nothing below the directory of a run."""
    parts = pattern.removeprefix("!").split("/")
    if pattern.strip("!/") == "" or pattern.removeprefix("!").startswith(("/", "~")) or ".." in parts:
        raise ValueError(
            f"{pattern!r} must name files below the directory where the agent works, as report/*.html does"
        )
    if len(pattern) > 200 or not pattern.isprintable():
        raise ValueError("a pattern has at most 200 characters, and no control characters")
    if next(part for part in parts if part not in ("", ".")) == OWN_DIRECTORY:
        raise ValueError(f"{pattern!r}: {OWN_DIRECTORY} is turbo's own")
    return pattern


def _relative(command: Sequence[str]) -> str | None:
    program = os.path.expanduser(command[0])  # noqa: PTH111
    return program if "/" in program and not program.startswith("/") else None


class Program(Section):
    """Keys of every executor that starts a program."""

    account: str | None = Field(default=None, description="Login and limits to use: a name under accounts.")
    command: list[str] = Field(
        min_length=1,
        description="The program and its arguments; {input[key]}, {task_id} and {task_type} are replaced. A relative program "
        "counts from cwd, else from this file's directory.",
    )
    cwd: str | None = Field(default=None, description="Its working directory. null: one per task.")
    exclusive_cwd: bool = Field(default=False, description="One task at a time in its working directory, on this host.")
    workspace: Workspace | None = Field(default=None, description="A git worktree for each task, instead of cwd.")
    env: dict[str, str] = Field(default={}, description="Variables for the program, added to the few it inherits.")
    run_as: str | None = Field(
        default=None,
        description="User to run it as; the worker is root, or may sudo without a password. null: the worker's.",
    )
    sandbox: SandboxSection | None = Field(
        default=None,
        description="What its programs may touch: bubblewrap on Linux, sandbox-exec on macOS. null: all that its user may.",
    )
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=None, description="Stop the program after this long without output."
    )
    grace_seconds: Real = Field(default=5.0, gt=0, le=86_400, description="Time between TERM and KILL.")
    ask: AskSection | None = Field(default=None, description="Its runs may ask a person. null: questions are denied.")
    output_schema: str | None = Field(
        default=None,
        description="File with a JSON Schema that the answer must fit, relative to this file. The answer is then JSON.",
    )
    check: CheckSection | None = Field(
        default=None, description="What its work must pass before a task is completed. null: a success counts as it is."
    )
    files: list[Annotated[str, AfterValidator(file_pattern)]] = Field(
        default=[],
        max_length=50,
        description="Files of the directory where it worked that are kept in the database after each run: report/*.html, **/junit.xml.",
    )
    _expand = field_validator("cwd", "output_schema", mode="after")(lambda v: home(v))

    @property
    def logins(self) -> tuple[str, ...]:
        """The accounts that its runs may use."""
        return () if self.account is None else (self.account,)

    @property
    def enclosed(self) -> SandboxSection | None:
        """The sandbox that turbo makes around its programs."""
        return self.sandbox

    @property
    def checked(self) -> bool:
        """Whether its work is judged before a task is completed."""
        return self.check is not None or self.output_schema is not None

    @property
    def relative_program(self) -> str | None:
        """The program, if it is a relative path: never looked up in a directory that a row may choose."""
        return _relative(self.command)

    @property
    def relative_check(self) -> str | None:
        """The same of the check's command."""
        return _relative(self.check.command) if self.check is not None and self.check.command else None

    def resolved(self, directory: Path) -> Self:
        """Its relative program and its relative entries of PATH, made absolute: from `cwd`, else from the configuration's
        directory."""
        base = Path(self.cwd).absolute() if self.cwd is not None else directory
        changed: dict[str, object] = {}
        if (program := self.relative_program) is not None and self.workspace is None:
            changed["command"] = [os.path.normpath(base / program), *self.command[1:]]
        if (program := self.relative_check) is not None and self.workspace is None:
            assert self.check is not None
            assert self.check.command
            command = [os.path.normpath(base / program), *self.check.command[1:]]
            changed["check"] = self.check.model_copy(update={"command": command})
        if (path := self.env.get("PATH")) is not None:
            entries = [os.path.normpath(base / entry) for entry in path.split(os.pathsep) if entry]
            changed["env"] = {**self.env, "PATH": os.pathsep.join(entries)}
        return self.model_copy(update=changed)


class CommandSection(Program):
    kind: Literal["command"] = Field(description="A program that gets the task as JSON on standard input.")
    transcripts: bool = Field(default=False, description="Store what it prints in the database, without secrets.")


class AgentSection(Program):
    """Keys of every executor that runs the CLI of an agent."""

    accounts: list[str] = Field(
        default=[],
        max_length=MOST_ACCOUNTS,
        description="Several logins of one kind, names under accounts: each run takes one of those that are open. Instead of account.",
    )
    model: str | None = Field(default=None, description="Its model. null: the CLI's own choice.")
    fallback_models: list[str] = Field(
        default=[],
        max_length=10,
        description="Models to run with while the account, or each of accounts, has reached a limit of the models before. Needs model.",
    )
    resume: bool = Field(default=False, description="A retry resumes the agent's session.")
    transcripts: bool = Field(
        default=True,
        description="Store what its agents say and do in the database, without secrets: turbo logs shows it anywhere.",
    )

    @property
    def logins(self) -> tuple[str, ...]:
        """The accounts that its runs may use."""
        return tuple(self.accounts) or super().logins


class ClaudeSection(AgentSection):
    kind: Literal["claude"] = Field(description="The Claude Code CLI, headless.")
    command: list[str] = Field(default=["claude"], min_length=1, description="The CLI, and extra flags for every run.")
    permission_mode: str | None = Field(default=None, description="--permission-mode. null: the CLI's own default.")
    allowed_tools: list[str] = Field(default=[], description="--allowedTools.")
    disallowed_tools: list[str] = Field(default=[], description="--disallowedTools.")
    max_turns: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(default=None, description="--max-turns.")
    max_budget_usd: Annotated[Real, Field(gt=0, le=1_000_000)] | None = Field(
        default=None, description="--max-budget-usd, for one run."
    )
    trust_repository: bool = Field(
        default=False,
        description="Obey the settings, hooks and MCP servers in the working directory. false: only its CLAUDE.md is read.",
    )
    cli_max_retries: Whole = Field(
        default=2, ge=0, le=10, description="The CLI's own retries of an overloaded service, within one run."
    )
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=600, description="Stop the program after this long without output."
    )


_CODEX_SANDBOX = "set sandbox of the executor instead"
_CODEX_FLAGS = {
    "exec": "turbo adds it, after the words of command",
    "resume": "turbo adds it; set resume of the executor instead",
    "-s": _CODEX_SANDBOX,
    "--sandbox": _CODEX_SANDBOX,
    "--dangerously-bypass-approvals-and-sandbox": _CODEX_SANDBOX,
    "--yolo": _CODEX_SANDBOX,
    "-a": "nobody is there to approve; the agent's commands are bounded by sandbox",
    "--ask-for-approval": "nobody is there to approve; the agent's commands are bounded by sandbox",
    "-C": "set cwd or workspace of the executor instead",
    "--cd": "set cwd or workspace of the executor instead",
    "-m": "set model of the executor instead",
    "--model": "set model of the executor instead",
}
"""Words of `command` that do not go with what turbo passes, and what to do."""


class CodexSection(AgentSection):
    kind: Literal["codex"] = Field(description="The Codex CLI, headless.")
    command: list[str] = Field(
        default=["codex"], min_length=1, description="The CLI, and extra flags for every run, which stand before exec."
    )
    sandbox: Annotated[CodexSandbox, BeforeValidator(as_codex_sandbox)] = Field(
        default=CodexSandbox(mode="workspace-write"),
        description="The mode of the CLI's own: workspace-write, read-only or danger-full-access. With a section, turbo's around it.",
    )
    network: bool = Field(default=True, description="The agent's commands may use the network, in a sandbox.")
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=900,
        description="Stop the program after this long without output. The CLI is silent while a command runs.",
    )

    @property
    def enclosed(self) -> SandboxSection | None:
        return self.sandbox if self.sandbox.around else None

    @model_validator(mode="after")
    def _one_sandbox(self) -> "CodexSection":
        if self.sandbox.mode == "danger-full-access" and not self.network:
            raise ValueError("network: false needs a sandbox, which danger-full-access is not: choose another sandbox")
        return self

    @field_validator("command")
    @classmethod
    def _not_turbos(cls, command: list[str]) -> list[str]:
        for word in command[1:]:
            flag = word.split("=", 1)[0]
            if (instead := _CODEX_FLAGS.get(flag)) is not None:
                raise ValueError(f"contains {flag}: {instead}")
        return command


class AcpSection(AgentSection):
    kind: Literal["acp"] = Field(description="Any agent that speaks the Agent Client Protocol.")
    profile: Annotated[AcpProfile | None, BeforeValidator(chosen_profile)] = Field(
        default=None,
        description="What turbo knows of the agent: opencode, gemini, qwen, or a section as turbo agents probe prints it. "
        "null: nothing, so check decides what counts as done.",
    )
    command: list[str] = Field(
        min_length=1, description="The agent and its arguments, [opencode, acp]. Without it, as its profile says."
    )
    mode: str | None = Field(default=None, description="The agent's own mode. null: as it starts.")
    permissions: Permissions = Field(
        default=Permissions(), description="What becomes of its requests for permission, by the kind of the call."
    )
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=900, description="Stop the program after this long without output."
    )

    @model_validator(mode="before")
    @classmethod
    def _started_as_known(cls, section: Any) -> Any:
        """Without a command of its own, the profile's."""
        if not isinstance(section, dict) or section.get("command") is not None:
            return section
        profile = section.get("profile")
        try:
            known = chosen_profile(profile)
        except ValueError:
            return {**section, "command": ["agent"]}  # the profile is the problem
        command = known.get("command") if isinstance(known, dict) else getattr(known, "command", None)
        return {**section, "command": command} if command else section


class CopilotSection(AgentSection):
    kind: Literal["copilot"] = Field(description="The GitHub Copilot CLI, headless.")
    command: list[str] = Field(default=["copilot"], min_length=1, description="The CLI, and extra flags for every run.")
    allowed_tools: list[str] = Field(
        default=[], description="--allow-tool, such as `shell(git:*)` or `write`. Empty: every tool may be used."
    )
    disallowed_tools: list[str] = Field(default=[], description="--deny-tool, which comes before what is allowed.")
    any_path: bool = Field(
        default=False,
        description="The agent's tools may use files anywhere. false: in its directory and the system's temporary directory.",
    )
    max_ai_credits: Annotated[Whole, Field(ge=30, le=1_000_000)] | None = Field(
        default=None, description="--max-ai-credits, for one session. A response may go beyond it."
    )
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=900,
        description="Stop the program after this long without output. The CLI is silent while a command runs.",
    )

    @model_validator(mode="before")
    @classmethod
    def _can_have(cls, section: Any) -> Any:
        if isinstance(section, Mapping) and (problem := key_problem(section)) is not None:
            raise ValueError(problem)
        return section

    @field_validator("command")
    @classmethod
    def _not_turbos(cls, command: list[str]) -> list[str]:
        if (problem := flag_problem(command[1:])) is not None:
            raise ValueError(problem)
        return command


class PythonSection(Section):
    kind: Literal["python"] = Field(description="A Python function; an async one, unless isolation says otherwise.")
    handler: str = Field(description="module:function, found on PYTHONPATH.")
    account: str | None = Field(default=None, description="Limits to use: a name under accounts.")
    isolation: Literal["loop", "thread", "process"] = Field(
        default="loop",
        description="Where it runs: on the worker's event loop (it must never block), in a thread or in a process of its own.",
    )
    env: dict[str, str] = Field(
        default={}, description="With isolation: process, variables for it, added to the few it inherits."
    )
    grace_seconds: Real = Field(default=5.0, gt=0, le=86_400, description="Time that a cancelled function has to end.")
    sandbox: SandboxSection | None = Field(
        default=None, description="With isolation: process, what it may touch. null: all that the worker may."
    )
    ask: AskSection | None = Field(default=None, description="Its runs may ask a person. null: questions are denied.")
    output_schema: str | None = Field(
        default=None,
        description="File with a JSON Schema that the answer must fit, relative to this file. What it returns must fit.",
    )
    _expand = field_validator("output_schema", mode="after")(lambda v: home(v))

    @model_validator(mode="before")
    @classmethod
    def _no_user(cls, section: Any) -> Any:
        if isinstance(section, dict) and "run_as" in section:
            raise ValueError(
                "run_as is for programs: a Python handler runs with the worker's rights; make it a command with a program of its own"
            )
        if isinstance(section, dict) and "transcripts" in section:
            raise ValueError(
                "transcripts is for agents and programs: a Python handler has no output of its own; remove it"
            )
        if isinstance(section, dict) and section.get("check") is not None:
            raise ValueError(
                "check is for programs, which work in a directory: a Python handler has none; make it a command, or let the handler "
                "raise what is wrong"
            )
        return section

    @property
    def logins(self) -> tuple[str, ...]:
        """The accounts that its runs may use."""
        return () if self.account is None else (self.account,)

    @property
    def enclosed(self) -> SandboxSection | None:
        """The sandbox that turbo makes around its processes."""
        return self.sandbox

    @property
    def checked(self) -> bool:
        """Whether what it returns is judged."""
        return self.output_schema is not None

    @field_validator("handler")
    @classmethod
    def _form(cls, handler: str) -> str:
        if not HANDLER.fullmatch(handler):
            raise ValueError(f"{handler!r}: write module:function")
        return handler


ExecutorSection = Annotated[
    CommandSection | ClaudeSection | CodexSection | AcpSection | CopilotSection | PythonSection,
    Field(discriminator="kind"),
]


def problems_of(name: str, executors: Mapping[str, ExecutorSection]) -> Iterator[Finding]:
    """What cannot work about one of the executors; `subject` is the key path."""
    section, at = executors[name], f"executors.{name}"
    yield from _workspace_problems(at, section)
    yield from _model_problems(at, section)
    yield from _asking_problems(at, name, section)
    if isinstance(section, Program) and section.check is not None:
        kinds = {known: one.kind for known, one in executors.items()}
        yield from check_problems(at, section.check, kinds, workspace=section.workspace is not None)
        yield from _reviewer_problems(at, name, section, executors)
    if isinstance(section, PythonSection) and section.env and section.isolation != "process":
        what = "is for isolation: process; otherwise the handler has the worker's own environment"
        yield fail(what, subject=f"{at}.env")
    if isinstance(section, PythonSection) and section.sandbox is not None and section.isolation != "process":
        what = "is for isolation: process; otherwise the handler runs within the worker itself"
        yield fail(what, subject=f"{at}.sandbox")
    if isinstance(section, AgentSection) and (walls := section.enclosed) is not None and not walls.network:
        yield fail(NEEDS_NETWORK, subject=f"{at}.sandbox.network")


def account_problems(
    executors: Mapping[str, ExecutorSection], env_files: Mapping[str, str | None]
) -> Iterator[Finding]:
    """What cannot work about the accounts of executors. `env_files`: of all accounts of the file."""
    kinds: dict[str, dict[str, str]] = {}
    for name, section in executors.items():
        for account in section.logins:
            kinds.setdefault(account, {}).setdefault(section.kind, name)
    for name, section in executors.items():
        several = section.accounts if isinstance(section, AgentSection) else []
        at = f"executors.{name}.{'accounts' if several else 'account'}"
        if several and section.account is not None:
            yield fail(
                "cannot be set together with accounts: put all of them in accounts", subject=f"executors.{name}.account"
            )
            continue
        same: dict[str | None, str] = {}
        for account in dict.fromkeys(section.logins):
            if account not in env_files:
                yield fail(f"no account {account!r}{near(account, env_files)}", subject=at)
            elif (other := same.setdefault(env_files[account], account)) != account:
                what = f"env_file {env_files[account]}" if env_files[account] else "no env_file"
                yield fail(f"{account} is the same login as {other}: both have {what}", subject=at)
            elif isinstance(section, AgentSection) and (other_kind := _other_agent(kinds[account], section.kind)):
                what = (
                    f"{account} is also the account of executors.{kinds[account][other_kind]}, which is of kind: {other_kind}; "
                    "an account is one login of one kind of agent"
                )
                yield fail(what, subject=at)
            elif several.count(account) > 1:
                yield fail(f"names {account} twice", subject=at)
            elif len(several) > 1 and (others := kinds[account].keys() - {section.kind}):
                kind = min(others)
                what = (
                    f"{account} is also the account of executors.{kinds[account][kind]}, which is of kind: {kind}; "
                    "the accounts of a pool are logins of one kind of agent"
                )
                yield fail(what, subject=at)


_AGENTS = ("claude", "codex", "copilot", "acp")


def _other_agent(kinds: Mapping[str, str], own: str) -> str | None:
    """Of two kinds with one account, the first has it."""
    return next((kind for kind in _AGENTS[: _AGENTS.index(own)] if kind in kinds), None)


def warnings_of(name: str, section: ExecutorSection) -> Iterator[Finding]:
    """What works, and may be more, or less, than its author has meant."""
    at = f"executors.{name}"
    if isinstance(section, CommandSection):
        for what in code_from_rows(section.command):
            yield Finding(Level.WARN, what, subject=f"{at}.command")
    if isinstance(section, Program) and section.check is not None:
        yield from check_warnings(at, section.check, converses=isinstance(section, AgentSection))
    if isinstance(section, AgentSection) and section.enclosed is None and section.run_as is None:
        for key, setting in _unbounded(section):
            yield Finding(Level.WARN, f"{setting}: its agent {NO_WALL}", subject=f"{at}.{key}")


def _unbounded(section: AgentSection) -> Iterator[tuple[str, str]]:
    """Settings that leave nothing between the agent and the host, by key."""
    if isinstance(section, ClaudeSection):
        if section.permission_mode == "bypassPermissions":
            yield "permission_mode", "bypassPermissions"
        if "--dangerously-skip-permissions" in section.command:
            yield "command", "--dangerously-skip-permissions"
    elif isinstance(section, CodexSection) and section.sandbox.mode == "danger-full-access":
        yield "sandbox", "danger-full-access"
    elif isinstance(section, CopilotSection) and section.any_path:
        yield "any_path", "any_path"
    elif isinstance(section, AcpSection) and section.permissions.execute == "allow":
        yield "permissions.execute", "allow"


def sandbox_warnings(name: str, executors: Mapping[str, ExecutorSection], state_dir: str) -> Iterator[Finding]:
    """The doors that a sandbox leaves open."""
    section, at = executors[name], f"executors.{name}"
    walls = section.enclosed
    repositories = {one.workspace.repo for one in executors.values() if isinstance(one, Program) and one.workspace}
    if walls is not None:
        yield from sandbox_doors(f"{at}.sandbox", walls, state_dir, sorted(repositories))
    if walls is None or not isinstance(section, Program) or section.check is None or section.check.executor is None:
        return
    reviewer = executors.get(section.check.executor)
    if reviewer is not None and reviewer.enclosed is None:
        what = f"{section.check.executor} has no sandbox, and reads what an agent in one has written: give it one, too"
        yield Finding(Level.WARN, what, subject=f"{at}.check.executor")


def _model_problems(at: str, section: ExecutorSection) -> Iterator[Finding]:
    if not isinstance(section, AgentSection) or not section.fallback_models:
        return
    models = [section.model, *section.fallback_models]
    if section.model is None:
        yield fail("needs model: name the one that is used first", subject=f"{at}.fallback_models")
    elif "" in models or len(set(models)) < len(models):
        yield fail("names a model twice, or none: each is tried once", subject=f"{at}.fallback_models")


def _workspace_problems(at: str, section: ExecutorSection) -> Iterator[Finding]:
    if not isinstance(section, Program) or section.workspace is None:
        return
    if section.cwd is not None:
        what = "cannot be set together with workspace, which gives each task its own directory; remove one of them"
        yield fail(what, subject=f"{at}.cwd")
    if (program := section.relative_program) is not None:
        what = (
            f"{program!r} would be a file of the task's worktree, which a task may have changed: write an absolute path, or "
            f"[sh, {program}] if the worktree's own file is meant"
        )
        yield fail(what, subject=f"{at}.command")
    if (program := section.relative_check) is not None:
        what = f"{program!r} would be a file of the task's worktree: write an absolute path, or [sh, {program}] if that is meant"
        yield fail(what, subject=f"{at}.check.command")
    if section.exclusive_cwd:
        what = "is for a directory that tasks share; with workspace, each task has its own"
        yield fail(what, subject=f"{at}.exclusive_cwd")
    if (problem := section.workspace.problem_of_fetch()) is not None:
        yield fail(problem, subject=f"{at}.workspace.fetch")


def _reviewer_problems(
    at: str, name: str, section: Program, executors: Mapping[str, ExecutorSection]
) -> Iterator[Finding]:
    """What keeps the executor of `check.executor` from reviewing."""
    at = f"{at}.check.executor"
    reviewer = executors.get(named) if section.check is not None and (named := section.check.executor) else None
    if reviewer is None:
        return
    if named == name:
        yield fail("reviews its own work: name another executor", subject=at)
    elif not isinstance(reviewer, ClaudeSection):
        yield fail(f"{named} is of kind: {reviewer.kind}; only kind: claude can review", subject=at)
    elif len(reviewer.logins) > 1:
        yield fail(f"{named} has several accounts; give a reviewer one account, with which it reads", subject=at)
    elif reviewer.check is not None:
        what = f"{named} has a check itself; a review is not checked again, so use an executor without check"
        yield fail(what, subject=at)
    elif reviewer.run_as != section.run_as:
        ours, theirs = (one.run_as or "the worker's user" for one in (section, reviewer))
        what = f"{named} runs as {theirs}, but reads what {ours} has written: give both the same run_as"
        yield fail(what, subject=at)


def _asking_problems(at: str, name: str, section: ExecutorSection) -> Iterator[Finding]:
    if isinstance(section, ClaudeSection):
        yield from with_permission_mode(at, name, section.ask, section.permission_mode, section.command)
    elif isinstance(section, AcpSection):
        approves = section.ask is not None and bool(section.ask.approve)
        sets = {"model": section.model, "mode": section.mode}
        asks = section.ask is not None
        yield from acp_problems(at, section.profile, checked=section.checked, asks=asks, approves=approves, sets=sets)
    else:
        yield from without_approvals(at, name, section.kind, section.ask)


def with_schema(section: ExecutorSection, directory: Path) -> ExecutorSection:
    """The section with the path of its schema made absolute."""
    if section.output_schema is None:
        return section
    return section.model_copy(update={"output_schema": os.path.normpath(directory / section.output_schema)})
