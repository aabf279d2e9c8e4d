"""worker.yaml: read, expanded, checked. One message tells everything that is wrong, each with its place.

    file ──YAML──▶ tree ──${VAR}──▶ tree ──pydantic──▶ WorkerConfig (frozen)

Variables expand after the YAML was parsed, so a value cannot become structure: `${VAR}`, `${VAR:-default}`, `$$` is a
dollar, a lone `$` is text. Unknown keys are errors, with the nearest known one. A password in a DSN written in the file is
an error; one that TURBO_DSN brings in is the operator's runtime business.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from psycopg import ProgrammingError, conninfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

QUEUE_NAME = re.compile(r"[a-z0-9_-]{1,40}")
WORKER_NAME = re.compile(r"[A-Za-z0-9._-]+")
HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class ConfigError(Exception):
    """The configuration cannot be used. The message names file, key path, what was found and what is allowed."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=False)


def _home(path: str | None) -> str | None:
    return None if path is None else os.path.expanduser(path)  # noqa: PTH111 - kept a string until it is used


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
    heartbeat_seconds: float = Field(default=10, gt=0, le=300)
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
    labels: dict[str, str] = Field(default={})

    _expand = field_validator("state_dir", mode="after")(lambda v: _home(v))

    @field_validator("allowed_roots")
    @classmethod
    def _roots(cls, roots: list[str]) -> list[str]:
        return [os.path.expanduser(r) for r in roots]  # noqa: PTH111

    @field_validator("queues")
    @classmethod
    def _queue_names(cls, queues: list[str]) -> list[str]:
        for queue in queues:
            if not QUEUE_NAME.fullmatch(queue):
                raise ValueError(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -")
        if len(set(queues)) != len(queues):
            raise ValueError("names a queue twice")
        return queues

    @field_validator("name", "host")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not WORKER_NAME.fullmatch(name):
            raise ValueError(f"{name!r}: letters, digits, dot, _ and - only (it becomes a directory's name)")
        return name


class Tls(Section):
    certfile: str
    keyfile: str
    client_ca: str | None = Field(default=None, description="Scrapers must present a certificate that this one signed.")


class MetricsSection(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535, description="0: a free one, in the log and in agent_workers.")
    tls: Tls | None = None


class Account(Section):
    env_file: str | None = Field(default=None, description="KEY=VALUE lines with its secrets, mode 0600.")
    _expand = field_validator("env_file", mode="after")(lambda v: _home(v))


class Retry(Section):
    base_seconds: float = Field(default=2.0, ge=0)
    max_seconds: float = Field(default=300.0, ge=0)


class Program(Section):
    """What executors that start a program have in common."""

    account: str | None = None
    command: list[str] = Field(min_length=1)
    cwd: str | None = Field(default=None, description="Its working directory. null: one per task.")
    exclusive_cwd: bool = Field(default=False, description="One task at a time in its working directory, on this host.")
    env: dict[str, str] = Field(default={})
    silence_seconds: float | None = Field(default=None, gt=0, description="Ended after so long without output.")
    grace_seconds: float = Field(default=5.0, gt=0, description="TERM to KILL.")
    _expand = field_validator("cwd", mode="after")(lambda v: _home(v))


class CommandExecutor(Program):
    kind: Literal["command"]


class ClaudeExecutor(Program):
    kind: Literal["claude"]
    command: list[str] = Field(default=["claude"], min_length=1)
    model: str | None = None
    permission_mode: str | None = None
    allowed_tools: list[str] = []
    disallowed_tools: list[str] = []
    max_turns: int | None = Field(default=None, ge=1)
    max_budget_usd: float | None = Field(default=None, gt=0)
    resume: bool = Field(default=False, description="A retry goes on with the agent's session.")
    cli_max_retries: int = Field(default=2, ge=0, le=10)
    silence_seconds: float | None = Field(default=600, gt=0)


class PythonExecutor(Section):
    kind: Literal["python"]
    handler: str
    account: str | None = None
    grace_seconds: float = Field(default=5.0, gt=0)

    @field_validator("handler")
    @classmethod
    def _form(cls, handler: str) -> str:
        if not HANDLER.fullmatch(handler):
            raise ValueError(f"{handler!r}: write module:function")
        return handler


ExecutorSection = Annotated[CommandExecutor | ClaudeExecutor | PythonExecutor, Field(discriminator="kind")]


class RetentionSection(Section):
    """Days after which the leader deletes; null keeps for ever."""

    completed_days: float | None = Field(default=None, ge=1, description="Completed tasks, since their end.")
    failed_days: float | None = Field(default=None, ge=1, description="Failed tasks, since their end.")
    cancelled_days: float | None = Field(default=None, ge=1, description="Cancelled tasks, since their end.")
    actions_days: float | None = Field(default=None, ge=1, description="The trail of finished and deleted tasks.")


class WorkerConfig(Section):
    """worker.yaml. Seconds and counts; paths expand ~."""

    database: Database = Database()
    worker: WorkerSection = WorkerSection()
    metrics: MetricsSection = MetricsSection()
    accounts: dict[str, Account] = {}
    executors: dict[str, ExecutorSection] = Field(min_length=1)
    routes: dict[str, str] = Field(default={}, description="task_type → executor; default is for all others.")
    retry: Retry = Retry()
    retention: RetentionSection = RetentionSection()

    def problems(self) -> list[tuple[str, str]]:
        """What no single key shows: (key path, message)."""
        found = []
        for task_type, executor in self.routes.items():
            if executor not in self.executors:
                found.append((f"routes.{task_type}", f"no executor {executor!r}{_near(executor, self.executors)}"))
        for name, section in self.executors.items():
            if section.account is not None and section.account not in self.accounts:
                path = f"executors.{name}.account"
                found.append((path, f"no account {section.account!r}{_near(section.account, self.accounts)}"))
        if self.worker.lease_seconds < 2 * self.worker.heartbeat_seconds:
            found.append(
                ("worker.lease_seconds", "must be at least twice heartbeat_seconds: one late beat is no death")
            )
        return found


def load_worker_config(path: Path, overrides: Mapping[str, Any] | None = None) -> WorkerConfig:
    """Read and check a worker.yaml. `overrides` maps key paths ("worker.slots") to values of the command line.

    Raises ConfigError: one message, a line per problem.
    """
    tree, lines = _read(path)
    errors: list[tuple[str, str]] = []
    written_dsn = tree.get("database", {}).get("dsn") if isinstance(tree.get("database"), dict) else None
    if isinstance(written_dsn, str) and _has_password(written_dsn):
        errors.append(
            (
                "database.dsn",
                "holds a password; put it into ~/.pgpass (mode 0600), a service file, or TURBO_DSN in an --env-file",
            )
        )
    tree = _expand(tree, "", errors)
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        target = tree.setdefault(section, {})
        if isinstance(target, dict):
            target[name] = value
    config = None
    try:
        config = WorkerConfig.model_validate(tree)
        errors += config.problems()
    except ValidationError as error:
        errors += [_explain(e) for e in error.errors()]
    if errors or config is None:
        raise ConfigError(
            "\n".join(f"{path}{_line(lines, where)}: {where or '(top level)'}: {what}" for where, what in errors)
        )
    return config


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        if node is not None:
            _walk(node, "", lines, path)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(tree, dict):
        kind = "empty" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(
            f"{path}: is {kind}; expected the sections database, worker, metrics, accounts, executors, routes"
        )
    return tree, lines


def _walk(node: yaml.Node, at: str, lines: dict[str, int], path: Path) -> None:
    """Remember the line of every key, and refuse a key that stands twice."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            where = f"{at}.{key.value}" if at else str(key.value)
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(f"{path}:{line}: {where}: stands twice; keep one")
            seen.add(key.value)
            lines[where] = line
            _walk(value, where, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            where = f"{at}.{i}"
            lines[where] = value.start_mark.line + 1
            _walk(value, where, lines, path)


def _line(lines: Mapping[str, int], where: str) -> str:
    while where:
        if where in lines:
            return f":{lines[where]}"
        where = where.rpartition(".")[0]
    return ""


def _expand(value: Any, at: str, errors: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, f"{at}.{k}" if at else str(k), errors) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, f"{at}.{i}", errors) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            errors.append(
                (at, f"the variable {match['name']} is not set; set it, or write ${{{match['name']}:-default}}")
            )
            return ""
        return found

    return _VARIABLE.sub(one, value)


def _has_password(dsn: str) -> bool:
    try:
        return bool(conninfo.conninfo_to_dict(_VARIABLE.sub("", dsn)).get("password"))
    except ProgrammingError:
        return False


def _explain(error: Any) -> tuple[str, str]:
    """One pydantic error, in our words."""
    kinds = ("command", "claude", "python")
    place = [str(p) for p in error["loc"]]
    if len(place) > 2 and place[0] == "executors" and place[2] in kinds:
        del place[2]  # the discriminator is no key
    where = ".".join(place)
    if error["type"] == "extra_forbidden":
        return where, f"unknown key{_near(place[-1], _keys_beside(error['loc']))}"
    if error["type"] == "missing":
        return where, "is missing"
    if error["type"] == "union_tag_not_found":
        return where, f"kind is missing: one of {', '.join(kinds)}"
    if error["type"] == "union_tag_invalid":
        tag = str(error.get("ctx", {}).get("tag", ""))
        return f"{where}.kind", f"{tag!r} is no kind of executor: one of {', '.join(kinds)}"
    message = error["msg"].removeprefix("Value error, ")
    found = error.get("input")
    shown = (
        ""
        if isinstance(found, dict | list) or "dsn" in where or error["type"] == "value_error"
        else f" (found {found!r})"
    )
    return where, f"{message[0].lower()}{message[1:]}{shown}"


def _keys_beside(loc: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[Section]] = {
        "database": Database,
        "worker": WorkerSection,
        "metrics": MetricsSection,
        "retry": Retry,
        "retention": RetentionSection,
    }
    executors: dict[str, type[Section]] = {
        "command": CommandExecutor,
        "claude": ClaudeExecutor,
        "python": PythonExecutor,
    }
    if len(loc) == 1:
        return list(WorkerConfig.model_fields)
    if loc[0] == "executors" and len(loc) > 2:
        return list(executors.get(str(loc[2]), Program).model_fields)
    if loc[0] == "accounts":
        return list(Account.model_fields)
    model = sections.get(str(loc[0]))
    return list(model.model_fields) if model else []


def _near(found: str, known: Any) -> str:
    names = [str(k) for k in known]
    close = difflib.get_close_matches(found, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
