"""worker.yaml: the configuration of a worker. turbo.config.loader reads, expands and checks the file.

A password in a DSN in the file is an error. TURBO_DSN and TURBO_LISTEN_DSN may have one, because they are not stored in the file.
"""

import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from psycopg import ProgrammingError, conninfo
from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from turbo.config.executors import (
    ExecutorSection,
    Program,
    account_problems,
    problems_of,
    sandbox_warnings,
    warnings_of,
    with_schema,
)
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
    home,
    load,
    near,
    read,
)
from turbo.config.notify import NotifySection, notify_problems, notify_warnings, resolved
from turbo.config.sandbox import sandbox_problems
from turbo.config.scripts import code_from_directory
from turbo.config.telemetry import TelemetrySection
from turbo.config.web import WebSection
from turbo.domain.finding import Finding, fail
from turbo.domain.placement import STAY_SECONDS, Scalar, as_text
from turbo.domain.redact_patterns import PatternRefused, bounded_patterns
from turbo.domain.states import Level
from turbo.host.labels import host_labels

__all__ = ["ConfigError", "WorkerConfig", "load_worker_config"]

QUEUE_NAME = re.compile(r"[a-z0-9_-]{1,40}")
WORKER_NAME = re.compile(r"[A-Za-z0-9._-]+")
MOST_LABELS = 100
LABEL_CHARACTERS = 200

MOST_IN_ROUTE = 10

SHORTEST_SECONDS = 0.1
"""Between two statements of a worker that come by themselves: each of them costs the whole fleet's database."""


def queue_names(queues: list[str]) -> list[str]:
    """Checked. Raises ValueError."""
    for queue in queues:
        if not QUEUE_NAME.fullmatch(queue):
            raise ValueError(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -")
    if len(set(queues)) != len(queues):
        raise ValueError("lists a queue twice")
    return queues


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), f"a {type(value).__name__}")


class Database(Section):
    dsn: str = Field(default="", description="libpq connection string, without a password. Empty: the PG* variables.")
    listen_dsn: str = Field(
        default="",
        description="Where LISTEN and beats go, if dsn leads through a pooler in transaction mode. Empty: to dsn, as the rest.",
    )

    @field_validator("dsn", "listen_dsn")
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
    labels: dict[str, str] = Field(
        default={},
        description="What this worker has, for tasks that require it (requires). turbo fills in os, arch and host.",
    )
    stay_seconds: Real = Field(
        default=STAY_SECONDS,
        ge=0,
        le=LONGEST_SECONDS,
        description="How long a task waits for the host that has its conversation, before this worker takes it (if it can).",
    )

    # Absolute, because output_data.log names files in it.
    _expand = field_validator("state_dir", mode="after")(lambda v: os.path.abspath(home(v) or ""))  # noqa: PTH100

    @property
    def this_host(self) -> str:
        """This machine's name in accounts, workspaces and messages."""
        return self.host or socket.gethostname().split(".")[0]

    @property
    def all_labels(self) -> dict[str, str]:
        """The configured labels, and those that turbo fills in where they are not."""
        return host_labels(self.this_host) | self.labels

    @field_validator("labels", mode="before")
    @classmethod
    def _label_values(cls, labels: object) -> object:
        """Values as text: 16 and "16" are the same. What is no mapping is left to the type."""
        if not isinstance(labels, dict):
            return labels
        for name, value in labels.items():
            if not isinstance(value, Scalar):
                raise ValueError(f"{name!r} is {_kind(value)}: the value of a label is a text, a number, true or false")
        return {name: as_text(value) for name, value in labels.items()}

    @field_validator("labels")
    @classmethod
    def _label_names(cls, labels: dict[str, str]) -> dict[str, str]:
        if len(labels) > MOST_LABELS:
            raise ValueError(f"has {len(labels)} labels, more than {MOST_LABELS}")
        for name, value in labels.items():
            if not name.strip() or len(name) > LABEL_CHARACTERS or len(value) > LABEL_CHARACTERS:
                raise ValueError(
                    f"{name[:40]!r}: a label has a name, and name and value have at most {LABEL_CHARACTERS} characters"
                )
            if "\0" in name + value:
                raise ValueError(f"{name[:40]!r} contains a NUL character, which PostgreSQL cannot store")
        return labels

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
    _expand = field_validator("certfile", "keyfile", "client_ca", mode="after")(lambda v: home(v))


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
    leave_at: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="From this share of a window on, new tasks of an executor with several accounts go to another, if they can.",
    )
    start_every_seconds: Real = Field(
        default=0.0,
        ge=0,
        le=600,
        description="Time between two starts of such an executor's runs with this account, in one worker.",
    )
    last_resort: bool = Field(
        default=False, description="Such an executor uses it only while none of its other accounts is open."
    )
    _expand = field_validator("env_file", mode="after")(lambda v: home(v))


class PriceSection(Section):
    """US dollars for a million tokens of a model."""

    input: Real = Field(ge=0, le=1_000_000, description="Input that was not read from a cache.")
    output: Real = Field(ge=0, le=1_000_000, description="Output.")
    cache_read: Annotated[Real, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Input read from a cache. null: as input."
    )
    cache_write: Annotated[Real, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Input written to a cache. null: as input."
    )


class Retry(Section):
    base_seconds: Real = Field(
        default=2.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="Longest wait before the first retry; it doubles with each retry.",
    )
    max_seconds: Real = Field(default=300.0, ge=0, le=LONGEST_SECONDS, description="Longest wait before any retry.")


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
        default=None, description="The audit trail of finished and deleted tasks, and agent_events."
    )
    usage_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="What runs used (agent_usage)."
    )
    transcript_days: Annotated[Real, Field(ge=1, le=36_500)] | None = Field(
        default=None,
        description="What agents said and did (agent_transcripts), of conversations that are over.",
    )


def _route(route: object) -> object:
    """One error where pydantic would give one for each form."""
    if isinstance(route, str) or (isinstance(route, list) and all(isinstance(name, str) for name in route)):
        return route
    raise ValueError("names no executor: write one, or a list of several, [claude, codex]")


class WorkerConfig(Document):
    """worker.yaml. Seconds and counts. `~/` begins a path, or a word of a command, in the worker's home; dsn and env keep it."""

    database: Database = Field(default=Database(), description="Which database.")
    worker: WorkerSection = Field(default=WorkerSection(), description="This process.")
    metrics: MetricsSection = Field(default=MetricsSection(), description="The endpoint that Prometheus reads.")
    telemetry: TelemetrySection = Field(default=TelemetrySection(), description="Traces of tasks, for OpenTelemetry.")
    web: WebSection = Field(default=WebSection(), description="The web page: turbo web, and links to it.")
    accounts: dict[str, Account] = Field(default={}, description="Logins that executors share, by name.")
    executors: dict[str, ExecutorSection] = Field(min_length=1, description="Ways to run a task, by name.")
    routes: dict[str, Annotated[str | list[str], BeforeValidator(_route)]] = Field(
        default={},
        description="task_type → executor, or a list of them: the first that is open. The key default matches every other type.",
    )
    retry: Retry = Field(default=Retry(), description="Waits between attempts: exponential, with full jitter.")
    prices: dict[str, PriceSection] = Field(
        default={}, description="US dollars for a million tokens, by model; used where an agent reports no cost."
    )
    redact: list[str] = Field(
        default=[], description="Regular expressions of secrets, each of bounded length: taken out of transcripts."
    )
    retention: RetentionSection = Field(default=RetentionSection(), description="What is deleted, and when.")
    notify: dict[str, NotifySection] = Field(
        default={}, description="Who may be told what happened, by name: the targets of subscriptions."
    )

    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """Where it was read."""
        return self._file

    @classmethod
    def other_kind(cls, keys: Collection[str], path: Path) -> str | None:
        if "hosts" not in keys or "executors" in keys:
            return None
        return (
            f"is a fleet file: turbo fleet render --file {path}; a worker's file has executors "
            "(config/worker.yaml is an example)"
        )

    def problems(self) -> list[Finding]:
        findings: list[Finding] = []
        for task_type, route in self.executors_by_type.items():
            findings += self._route_problems(f"routes.{task_type}", route)
        findings += account_problems(self.executors, {name: one.env_file for name, one in self.accounts.items()})
        for name in self.executors:
            findings += problems_of(name, self.executors)
            if (walls := self.executors[name].enclosed) is not None:
                findings += sandbox_problems(f"executors.{name}.sandbox", walls, self._own_places())
        findings += notify_problems(self.notify)
        named = self.worker.labels.get("host")
        if named is not None and named != self.worker.this_host:
            what = f"is {named!r}, and this host is {self.worker.this_host!r}: to give it another name, set worker.host"
            findings.append(fail(what, subject="worker.labels.host"))
        try:
            bounded_patterns(self.redact)
        except PatternRefused as problem:
            findings.append(fail(str(problem), subject="redact"))
        if self.worker.lease_seconds < 2 * self.worker.heartbeat_seconds:
            what = (
                "must be at least twice heartbeat_seconds, so that one late heartbeat does not look like a dead worker"
            )
            findings.append(fail(what, subject="worker.lease_seconds"))
        return findings

    def _own_places(self) -> Iterator[tuple[str, str]]:
        """What no sandbox may open, with the key that names it."""
        yield self.worker.state_dir, "worker.state_dir"
        for name, account in self.accounts.items():
            if account.env_file is not None:
                yield str(Path(account.env_file).absolute()), f"accounts.{name}.env_file"

    def _route_problems(self, at: str, route: Sequence[str]) -> Iterator[Finding]:
        if not 1 <= len(route) <= MOST_IN_ROUTE:
            yield fail(f"lists {len(route)} executors: name 1 to {MOST_IN_ROUTE}", subject=at)
        for name in route:
            if (executor := self.executors.get(name)) is None:
                yield fail(f"no executor {name!r}{near(name, self.executors)}", subject=at)
            elif len(route) > 1 and getattr(executor, "exclusive_cwd", False) and getattr(executor, "cwd", None):
                what = (
                    f"{name} has exclusive_cwd, which does not go with a list of executors: give it a workspace instead"
                )
                yield fail(what, subject=at)
        if len(set(route)) < len(route):
            yield fail("names an executor twice", subject=at)

    @property
    def executors_by_type(self) -> dict[str, tuple[str, ...]]:
        """The executors of each route, the first choice first."""
        return {t: (route,) if isinstance(route, str) else tuple(route) for t, route in self.routes.items()}

    def warnings(self) -> list[Finding]:
        """What works, and gives a row more power than its author may have meant; `subject` is the key path."""
        found: list[Finding] = list(notify_warnings(self.notify))
        for name, section in self.executors.items():
            found += warnings_of(name, section)
            found += sandbox_warnings(name, self.executors, self.worker.state_dir)
            if isinstance(section, Program) and section.workspace is None and self.worker.allowed_roots:
                for what in code_from_directory(section.command):
                    found.append(Finding(Level.WARN, what, subject=f"executors.{name}.command"))
        return found


def load_worker_config(path: Path, overrides: Mapping[str, Any] | None = None) -> WorkerConfig:
    """Read and check a worker.yaml. `overrides` maps key paths ("worker.slots") to values of the command line.

    Relative programs are resolved here, once. Raises ConfigError: one message, one line per problem.
    """
    config = load(path, WorkerConfig, overrides, _written_password)
    directory = path.expanduser().absolute().parent
    executors = {
        name: with_schema(section.resolved(directory) if isinstance(section, Program) else section, directory)
        for name, section in config.executors.items()
    }
    notify = {name: resolved(target, directory) for name, target in config.notify.items()}
    known = config.model_copy(update={"executors": executors, "notify": notify})
    known._file = path.expanduser().absolute()
    return known


def database_dsn(path: Path, environment: Mapping[str, str], key: str = "dsn") -> str:
    """`database.dsn` of a worker.yaml, or another key there, as it would be in another environment. Raises ConfigError."""
    section = read(path, WorkerConfig)[0].get("database")
    dsn = section.get(key) if isinstance(section, dict) else None
    return expand(dsn, environment) if isinstance(dsn, str) else ""


def _written_password(tree: Tree) -> Iterator[Finding]:
    section = tree.get("database")
    for key, variable in (("dsn", "TURBO_DSN"), ("listen_dsn", "TURBO_LISTEN_DSN")):
        dsn = section.get(key) if isinstance(section, dict) else None
        if isinstance(dsn, str) and has_password(dsn):
            what = (
                f"contains a password; put it in ~/.pgpass (mode 0600), a service file, or {variable} in an --env-file"
            )
            yield fail(what, subject=f"database.{key}")
