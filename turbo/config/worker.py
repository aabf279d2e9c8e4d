"""worker.yaml: what a worker is told. How the file is read, expanded and checked: turbo.config.loader.

A password in a DSN written in the file is an error; one that TURBO_DSN brings in is the operator's runtime business.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from psycopg import ProgrammingError, conninfo
from pydantic import Field, field_validator

from turbo.config.loader import ConfigError, Document, Section, Tree, has_password, load, near
from turbo.config.workspace import Workspace
from turbo.domain.finding import Finding, fail

__all__ = ["ConfigError", "WorkerConfig", "load_worker_config"]

QUEUE_NAME = re.compile(r"[a-z0-9_-]{1,40}")
WORKER_NAME = re.compile(r"[A-Za-z0-9._-]+")
HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _home(path: str | None) -> str | None:
    return None if path is None else os.path.expanduser(path)  # noqa: PTH111 - kept a string until it is used


def queue_names(queues: list[str]) -> list[str]:
    """Checked. Raises ValueError."""
    for queue in queues:
        if not QUEUE_NAME.fullmatch(queue):
            raise ValueError(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -")
    if len(set(queues)) != len(queues):
        raise ValueError("names a queue twice")
    return queues


class Database(Section):
    dsn: str = Field(
        default="", description="libpq connection string; empty means the PG* variables. No password in it."
    )

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
        default=None, description="This machine, as accounts and the fleet know it. null: its name."
    )
    slots: int = Field(default=10, ge=1, le=1000, description="Runs at once.")
    queues: list[str] = Field(default=["default"], min_length=1, description="Queues this worker serves.")
    drain_seconds: float = Field(default=30, ge=0, description="How long a drain waits for runs; 1800 suits agents.")
    heartbeat_seconds: float = Field(default=10, gt=0, le=300, description="Between two beats.")
    lease_seconds: float = Field(default=60, gt=0, description="Silence, in counted beats, after which others rescue.")
    poll_seconds: float = Field(default=30, gt=0, le=86_400, description="The fallback poll.")
    state_dir: str = Field(
        default="~/.local/state/turbo", description="Journal, spool and logs; local disk, one per host."
    )
    files_days: float | None = Field(
        default=14, ge=1, description="Logs and working directories of a task go so long after its last run."
    )
    files_gb: float | None = Field(default=None, gt=0, description="Above this, those untouched for longest go first.")
    allowed_roots: list[str] = Field(default=[], description="Where a row's input_data.cwd may point.")
    on_lost_lease: Literal["keep", "kill"] = Field(
        default="keep", description="When cut off for longer than the lease."
    )
    labels: dict[str, str] = Field(default={}, description="Shown in agent_workers; yours to choose.")

    # Absolute: output_data.log names files in it, to be found from anywhere.
    _expand = field_validator("state_dir", mode="after")(lambda v: os.path.abspath(_home(v) or ""))  # noqa: PTH100

    @property
    def this_host(self) -> str:
        """This machine's name, as accounts, workspaces and people know it."""
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
    client_ca: str | None = Field(default=None, description="Scrapers must present a certificate that this one signed.")


class MetricsSection(Section):
    host: str = Field(default="127.0.0.1", description="The address the metrics endpoint listens on.")
    port: int = Field(default=9464, ge=0, le=65535, description="0: a free one, in the log and in agent_workers.")
    tls: Tls | None = Field(default=None, description="Serve HTTPS; null: plain HTTP.")


class Account(Section):
    env_file: str | None = Field(default=None, description="KEY=VALUE lines with its secrets, mode 0600.")
    _expand = field_validator("env_file", mode="after")(lambda v: _home(v))


class Retry(Section):
    base_seconds: float = Field(default=2.0, ge=0, description="The longest wait before the first retry; it doubles.")
    max_seconds: float = Field(default=300.0, ge=0, description="The longest wait before any retry.")


class Program(Section):
    """What executors that start a program have in common."""

    account: str | None = Field(default=None, description="Whose login and limits it uses: a name under accounts.")
    command: list[str] = Field(
        min_length=1, description="The program and its arguments; {input[key]}, {task_id} and {task_type} are replaced."
    )
    cwd: str | None = Field(default=None, description="Its working directory. null: one per task.")
    exclusive_cwd: bool = Field(default=False, description="One task at a time in its working directory, on this host.")
    workspace: Workspace | None = Field(default=None, description="A git worktree for each task, instead of cwd.")
    env: dict[str, str] = Field(default={}, description="Set for the program, over the few variables it inherits.")
    silence_seconds: float | None = Field(default=None, gt=0, description="Ended after so long without output.")
    grace_seconds: float = Field(default=5.0, gt=0, description="TERM to KILL.")
    _expand = field_validator("cwd", mode="after")(lambda v: _home(v))


class CommandSection(Program):
    kind: Literal["command"] = Field(description="A program: the task as JSON on its standard input.")


class ClaudeSection(Program):
    kind: Literal["claude"] = Field(description="The Claude Code CLI, headless.")
    command: list[str] = Field(
        default=["claude"], min_length=1, description="The CLI, and flags of yours that go with every run."
    )
    model: str | None = Field(default=None, description="--model. null: the CLI's own choice.")
    permission_mode: str | None = Field(default=None, description="--permission-mode. null: the CLI's own default.")
    allowed_tools: list[str] = Field(default=[], description="--allowedTools.")
    disallowed_tools: list[str] = Field(default=[], description="--disallowedTools.")
    max_turns: int | None = Field(default=None, ge=1, description="--max-turns.")
    max_budget_usd: float | None = Field(default=None, gt=0, description="--max-budget-usd, for one run.")
    resume: bool = Field(default=False, description="A retry goes on with the agent's session.")
    cli_max_retries: int = Field(
        default=2, ge=0, le=10, description="The CLI's own retries of an overloaded service, within one run."
    )
    silence_seconds: float | None = Field(default=600, gt=0, description="Ended after so long without output.")


class PythonSection(Section):
    kind: Literal["python"] = Field(description="An async function, in the worker's own process.")
    handler: str = Field(description="module:function, found on PYTHONPATH.")
    account: str | None = Field(default=None, description="Whose limits it uses: a name under accounts.")
    grace_seconds: float = Field(default=5.0, gt=0, description="Cancelled, and so long to end.")

    @field_validator("handler")
    @classmethod
    def _form(cls, handler: str) -> str:
        if not HANDLER.fullmatch(handler):
            raise ValueError(f"{handler!r}: write module:function")
        return handler


ExecutorSection = Annotated[CommandSection | ClaudeSection | PythonSection, Field(discriminator="kind")]


class RetentionSection(Section):
    """Days after which the leader deletes; null keeps for ever."""

    completed_days: float | None = Field(default=None, ge=1, description="Completed tasks, since their end.")
    failed_days: float | None = Field(default=None, ge=1, description="Failed tasks, since their end.")
    cancelled_days: float | None = Field(default=None, ge=1, description="Cancelled tasks, since their end.")
    actions_days: float | None = Field(default=None, ge=1, description="The trail of finished and deleted tasks.")


class WorkerConfig(Document):
    """worker.yaml. Seconds and counts; paths expand ~."""

    database: Database = Field(default=Database(), description="Which database.")
    worker: WorkerSection = Field(default=WorkerSection(), description="This process.")
    metrics: MetricsSection = Field(default=MetricsSection(), description="The endpoint that Prometheus reads.")
    accounts: dict[str, Account] = Field(default={}, description="Logins that executors share, by name.")
    executors: dict[str, ExecutorSection] = Field(min_length=1, description="Ways to run a task, by name.")
    routes: dict[str, str] = Field(default={}, description="task_type → executor; default is for all others.")
    retry: Retry = Field(default=Retry(), description="Waits between tries: exponential, with full jitter.")
    retention: RetentionSection = Field(default=RetentionSection(), description="What is deleted, and when.")

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
        if self.worker.lease_seconds < 2 * self.worker.heartbeat_seconds:
            what = "must be at least twice heartbeat_seconds: one late beat is no death"
            findings.append(fail(what, subject="worker.lease_seconds"))
        return findings


def _workspace_problems(at: str, section: ExecutorSection) -> Iterator[Finding]:
    if not isinstance(section, Program) or section.workspace is None:
        return
    if section.cwd is not None:
        what = "cannot be set together with workspace, which gives each task its own directory; remove one of them"
        yield fail(what, subject=f"{at}.cwd")
    if section.exclusive_cwd:
        what = "is for a directory that tasks share; with workspace, each task has its own"
        yield fail(what, subject=f"{at}.exclusive_cwd")
    if (problem := section.workspace.problem_of_fetch()) is not None:
        yield fail(problem, subject=f"{at}.workspace.fetch")


def load_worker_config(path: Path, overrides: Mapping[str, Any] | None = None) -> WorkerConfig:
    """Read and check a worker.yaml. `overrides` maps key paths ("worker.slots") to values of the command line.

    Raises ConfigError: one message, a line per problem.
    """
    return load(path, WorkerConfig, overrides, _written_password)


def _written_password(tree: Tree) -> Iterator[Finding]:
    section = tree.get("database")
    dsn = section.get("dsn") if isinstance(section, dict) else None
    if isinstance(dsn, str) and has_password(dsn):
        what = "holds a password; put it into ~/.pgpass (mode 0600), a service file, or TURBO_DSN in an --env-file"
        yield fail(what, subject="database.dsn")
