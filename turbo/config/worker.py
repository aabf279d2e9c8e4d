"""worker.yaml: the configuration of a worker. turbo.config.loader reads, expands and checks the file.

A password in a DSN in the file is an error. TURBO_DSN may have one, because it is not stored in the file.
"""

import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from psycopg import ProgrammingError, conninfo
from pydantic import Field, field_validator, model_validator

from turbo.config.asking import AskSection, with_permission_mode, without_approvals
from turbo.config.loader import (
    LONGEST_SECONDS,
    ConfigError,
    Document,
    Real,
    Section,
    Tree,
    Whole,
    expand,
    has_password,
    load,
    near,
    read,
)
from turbo.config.scripts import code_from_directory, code_from_rows
from turbo.config.workspace import Workspace
from turbo.domain.finding import Finding, fail
from turbo.domain.states import Level

__all__ = ["ConfigError", "WorkerConfig", "load_worker_config"]

QUEUE_NAME = re.compile(r"[a-z0-9_-]{1,40}")
WORKER_NAME = re.compile(r"[A-Za-z0-9._-]+")
HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

SHORTEST_SECONDS = 0.1
"""Between two statements of a worker that come by themselves: each of them costs the whole fleet's database."""


def _home(path: str | None) -> str | None:
    return None if path is None else os.path.expanduser(path)  # noqa: PTH111 - kept a string until it is used


def queue_names(queues: list[str]) -> list[str]:
    """Checked. Raises ValueError."""
    for queue in queues:
        if not QUEUE_NAME.fullmatch(queue):
            raise ValueError(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -")
    if len(set(queues)) != len(queues):
        raise ValueError("lists a queue twice")
    return queues


class Database(Section):
    dsn: str = Field(default="", description="libpq connection string, without a password. Empty: the PG* variables.")

    @field_validator("dsn")
    @classmethod
    def _readable(cls, dsn: str) -> str:
        try:
            conninfo.conninfo_to_dict(dsn)
        except ProgrammingError:
            raise ValueError("is not a connection string libpq can read (postgresql://user@host:port/db)") from None
        return dsn


class WorkerSection(Section):
    name: str | None = Field(default=None, description="Part of the worker id. null: the host's name.")
    host: str | None = Field(
        default=None, description="This machine's name in accounts and the fleet. null: its hostname."
    )
    slots: Whole = Field(default=10, ge=1, le=1000, description="How many tasks run at once.")
    queues: list[str] = Field(default=["default"], min_length=1, description="Queues this worker serves.")
    drain_seconds: Real = Field(
        default=30,
        ge=0,
        le=LONGEST_SECONDS,
        description="How long a shutdown waits for running tasks; 1800 suits agents.",
    )
    heartbeat_seconds: Real = Field(default=10, ge=SHORTEST_SECONDS, le=300, description="Time between two heartbeats.")
    lease_seconds: Real = Field(
        default=60,
        ge=2 * SHORTEST_SECONDS,
        le=LONGEST_SECONDS,
        description="Silence, counted in heartbeats, after which other workers rescue its tasks.",
    )
    poll_seconds: Real = Field(
        default=30,
        ge=SHORTEST_SECONDS,
        le=86_400,
        description="Interval of the fallback poll, in case a notification is lost.",
    )
    state_dir: str = Field(
        default="~/.local/state/turbo",
        validate_default=True,
        description="Directory of the journal, spool and logs: on a local disk, one per host.",
    )
    files_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=14,
        description="Days after a task's last run until its logs and working directories are deleted. null: never.",
    )
    files_gb: Annotated[Real, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="Size limit for these files; the longest unused are deleted first. null: none.",
    )
    allowed_roots: list[str] = Field(default=[], description="Directories that a task's input_data.cwd may be in.")
    max_input_mb: Real = Field(
        default=16,
        gt=0,
        le=200,
        description="Size limit of a task's description, and of its input_data, in million characters. A larger one fails at once.",
    )
    on_lost_lease: Literal["keep", "kill"] = Field(
        default="keep",
        description="What happens to running tasks when the worker is cut off for longer than its lease.",
    )
    labels: dict[str, str] = Field(default={}, description="Free-form labels, shown in agent_workers.")

    # Absolute, because output_data.log names files in it.
    _expand = field_validator("state_dir", mode="after")(lambda v: os.path.abspath(_home(v) or ""))  # noqa: PTH100

    @property
    def this_host(self) -> str:
        """This machine's name in accounts, workspaces and messages."""
        return self.host or socket.gethostname().split(".")[0]

    @field_validator("allowed_roots")
    @classmethod
    def _roots(cls, roots: list[str]) -> list[str]:
        return [os.path.expanduser(r) for r in roots]  # noqa: PTH111

    _queues = field_validator("queues")(lambda v: queue_names(v))

    @field_validator("name", "host")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not WORKER_NAME.fullmatch(name):
            raise ValueError(f"{name!r}: letters, digits, dot, _ and - only (it becomes a directory's name)")
        return name


class Tls(Section):
    certfile: str = Field(description="The endpoint's certificate, PEM.")
    keyfile: str = Field(description="Its key, PEM.")
    client_ca: str | None = Field(default=None, description="CA that must have signed the scraper's certificate.")
    _expand = field_validator("certfile", "keyfile", "client_ca", mode="after")(lambda v: _home(v))


class MetricsSection(Section):
    host: str = Field(default="127.0.0.1", description="The address the metrics endpoint listens on.")
    port: Whole = Field(
        default=9464,
        ge=0,
        le=65535,
        description="Port of the endpoint. 0: any free port, shown in the log and in agent_workers.",
    )
    tls: Tls | None = Field(default=None, description="Serve HTTPS; null: plain HTTP.")


class Account(Section):
    env_file: str | None = Field(default=None, description="File of KEY=VALUE lines with its secrets, mode 0600.")
    _expand = field_validator("env_file", mode="after")(lambda v: _home(v))


class Retry(Section):
    base_seconds: Real = Field(
        default=2.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="Longest wait before the first retry; it doubles with each retry.",
    )
    max_seconds: Real = Field(default=300.0, ge=0, le=LONGEST_SECONDS, description="Longest wait before any retry.")


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
    silence_seconds: Annotated[Real, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        default=None, description="Stop the program after this long without output."
    )
    grace_seconds: Real = Field(default=5.0, gt=0, le=86_400, description="Time between TERM and KILL.")
    ask: AskSection | None = Field(default=None, description="Its runs may ask a person. null: questions are denied.")
    _expand = field_validator("cwd", mode="after")(lambda v: _home(v))

    @property
    def relative_program(self) -> str | None:
        """The program, if it is a relative path: never looked up in a directory that a row may choose."""
        program = os.path.expanduser(self.command[0])  # noqa: PTH111
        return program if "/" in program and not program.startswith("/") else None

    def resolved(self, directory: Path) -> Self:
        """Its relative program and its relative entries of PATH, made absolute: from `cwd`, else from the configuration's
        directory."""
        base = Path(self.cwd).absolute() if self.cwd is not None else directory
        changed: dict[str, object] = {}
        if (program := self.relative_program) is not None and self.workspace is None:
            changed["command"] = [os.path.normpath(base / program), *self.command[1:]]
        if (path := self.env.get("PATH")) is not None:
            entries = [os.path.normpath(base / entry) for entry in path.split(os.pathsep) if entry]
            changed["env"] = {**self.env, "PATH": os.pathsep.join(entries)}
        return self.model_copy(update=changed)


class CommandSection(Program):
    kind: Literal["command"] = Field(description="A program that gets the task as JSON on standard input.")


class ClaudeSection(Program):
    kind: Literal["claude"] = Field(description="The Claude Code CLI, headless.")
    command: list[str] = Field(default=["claude"], min_length=1, description="The CLI, and extra flags for every run.")
    model: str | None = Field(default=None, description="--model. null: the CLI's own choice.")
    permission_mode: str | None = Field(default=None, description="--permission-mode. null: the CLI's own default.")
    allowed_tools: list[str] = Field(default=[], description="--allowedTools.")
    disallowed_tools: list[str] = Field(default=[], description="--disallowedTools.")
    max_turns: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(default=None, description="--max-turns.")
    max_budget_usd: Annotated[Real, Field(gt=0, le=1_000_000)] | None = Field(
        default=None, description="--max-budget-usd, for one run."
    )
    resume: bool = Field(default=False, description="A retry resumes the agent's session.")
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
    ask: AskSection | None = Field(default=None, description="Its runs may ask a person. null: questions are denied.")

    @model_validator(mode="before")
    @classmethod
    def _no_user(cls, section: Any) -> Any:
        if isinstance(section, dict) and "run_as" in section:
            raise ValueError(
                "run_as is for programs: a Python handler runs with the worker's rights; make it a command with a program of its own"
            )
        return section

    @field_validator("handler")
    @classmethod
    def _form(cls, handler: str) -> str:
        if not HANDLER.fullmatch(handler):
            raise ValueError(f"{handler!r}: write module:function")
        return handler


ExecutorSection = Annotated[CommandSection | ClaudeSection | PythonSection, Field(discriminator="kind")]


class RetentionSection(Section):
    """Days after which the leader deletes rows; null keeps them forever."""

    completed_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Completed tasks, since their end."
    )
    failed_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Failed tasks, since their end."
    )
    cancelled_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Cancelled tasks, since their end."
    )
    actions_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="The audit trail of finished and deleted tasks."
    )


class WorkerConfig(Document):
    """worker.yaml. Seconds and counts. `~/` begins a path, or a word of a command, in the worker's home; dsn and env keep it."""

    database: Database = Field(default=Database(), description="Which database.")
    worker: WorkerSection = Field(default=WorkerSection(), description="This process.")
    metrics: MetricsSection = Field(default=MetricsSection(), description="The endpoint that Prometheus reads.")
    accounts: dict[str, Account] = Field(default={}, description="Logins that executors share, by name.")
    executors: dict[str, ExecutorSection] = Field(min_length=1, description="Ways to run a task, by name.")
    routes: dict[str, str] = Field(
        default={}, description="task_type → executor; the key default matches every other type."
    )
    retry: Retry = Field(default=Retry(), description="Waits between attempts: exponential, with full jitter.")
    retention: RetentionSection = Field(default=RetentionSection(), description="What is deleted, and when.")

    @classmethod
    def other_kind(cls, keys: Collection[str], path: Path) -> str | None:
        if "hosts" not in keys or "executors" in keys:
            return None
        return (
            f"is a fleet file: turbo fleet render --file {path}; a worker's file has executors "
            "(config/worker.yaml is an example)"
        )

    def problems(self) -> list[Finding]:
        findings = []
        for task_type, executor in self.routes.items():
            if executor not in self.executors:
                what = f"no executor {executor!r}{near(executor, self.executors)}"
                findings.append(fail(what, subject=f"routes.{task_type}"))
        for name, section in self.executors.items():
            if section.account is not None and section.account not in self.accounts:
                what = f"no account {section.account!r}{near(section.account, self.accounts)}"
                findings.append(fail(what, subject=f"executors.{name}.account"))
            findings += _workspace_problems(f"executors.{name}", section)
            findings += _asking_problems(f"executors.{name}", name, section)
            if isinstance(section, PythonSection) and section.env and section.isolation != "process":
                what = "is for isolation: process; otherwise the handler has the worker's own environment"
                findings.append(fail(what, subject=f"executors.{name}.env"))
        if self.worker.lease_seconds < 2 * self.worker.heartbeat_seconds:
            what = (
                "must be at least twice heartbeat_seconds, so that one late heartbeat does not look like a dead worker"
            )
            findings.append(fail(what, subject="worker.lease_seconds"))
        return findings

    def warnings(self) -> list[Finding]:
        """What works, and gives a row more power than its author may have meant; `subject` is the key path."""
        found = []
        for name, section in self.executors.items():
            if isinstance(section, CommandSection):
                for what in code_from_rows(section.command):
                    found.append(Finding(Level.WARN, what, subject=f"executors.{name}.command"))
            if isinstance(section, Program) and section.workspace is None and self.worker.allowed_roots:
                for what in code_from_directory(section.command):
                    found.append(Finding(Level.WARN, what, subject=f"executors.{name}.command"))
        return found


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
    if section.exclusive_cwd:
        what = "is for a directory that tasks share; with workspace, each task has its own"
        yield fail(what, subject=f"{at}.exclusive_cwd")
    if (problem := section.workspace.problem_of_fetch()) is not None:
        yield fail(problem, subject=f"{at}.workspace.fetch")


def _asking_problems(at: str, name: str, section: ExecutorSection) -> Iterator[Finding]:
    if isinstance(section, ClaudeSection):
        yield from with_permission_mode(at, name, section.ask, section.permission_mode, section.command)
    else:
        yield from without_approvals(at, name, section.kind, section.ask)


def load_worker_config(path: Path, overrides: Mapping[str, Any] | None = None) -> WorkerConfig:
    """Read and check a worker.yaml. `overrides` maps key paths ("worker.slots") to values of the command line.

    Relative programs are resolved here, once. Raises ConfigError: one message, one line per problem.
    """
    config = load(path, WorkerConfig, overrides, _written_password)
    directory = path.expanduser().absolute().parent
    executors = {
        name: section.resolved(directory) if isinstance(section, Program) else section
        for name, section in config.executors.items()
    }
    return config.model_copy(update={"executors": executors})


def database_dsn(path: Path, environment: Mapping[str, str]) -> str:
    """`database.dsn` of a worker.yaml as it would be in another environment. Raises ConfigError."""
    section = read(path, WorkerConfig)[0].get("database")
    dsn = section.get("dsn") if isinstance(section, dict) else None
    return expand(dsn, environment) if isinstance(dsn, str) else ""


def _written_password(tree: Tree) -> Iterator[Finding]:
    section = tree.get("database")
    dsn = section.get("dsn") if isinstance(section, dict) else None
    if isinstance(dsn, str) and has_password(dsn):
        what = "contains a password; put it in ~/.pgpass (mode 0600), a service file, or TURBO_DSN in an --env-file"
        yield fail(what, subject="database.dsn")
