"""Options that several commands share, and the values they accept."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from turbo.client.client import Client
    from turbo.config.worker import WorkerConfig
    from turbo.process.environment import EnvFile


def _statuses(incomplete: str) -> list[str]:
    from turbo.domain.states import TaskState

    return [s.value for s in TaskState if s.value.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    from turbo.domain.outcome import FailureKind

    return [k.value for k in FailureKind if k.value.startswith(incomplete)]


HARMLESS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}", re.ASCII)
"""Ids that mean nothing to a shell, and are no option. The scripts of zsh evaluate what is offered, those of bash split and
expand it, and put it on the line without quotes."""


def _harmless(found: "Callable[[Client], Iterable[str]]") -> list[str]:
    """What is found of ids or names, each whole, but for those that a shell would read. Completion must never print an error."""
    try:
        with connect(os.environ.get("TURBO_DSN")) as client:
            return [one for one in found(client) if HARMLESS_ID.fullmatch(one)]
    except Exception:
        return []


def _ids(incomplete: str) -> list[str]:
    """The newest task ids with this prefix."""
    return _harmless(lambda client: client.newest_ids(incomplete))


def _question_kinds(incomplete: str) -> list[str]:
    from turbo.domain.question import QuestionKind

    return [k.value for k in QuestionKind if k.value.startswith(incomplete)]


def _waiting_ids(incomplete: str) -> list[str]:
    """Ids of tasks that wait for a person, the longest first."""
    return _harmless(lambda client: client.waiting_ids(incomplete, None))


def _yes_or_no_ids(incomplete: str) -> list[str]:
    """Of those that wait for an approval or for their release."""
    return _harmless(lambda client: client.waiting_ids(incomplete, ["approval", "hold"]))


def _schedule_names(incomplete: str) -> list[str]:
    """The names of schedules with this prefix."""
    return _harmless(lambda client: client.schedules.names(incomplete))


def _budget_names(incomplete: str) -> list[str]:
    """The names of budgets with this prefix."""
    return _harmless(lambda client: client.budgets.names(incomplete))


def _subscription_names(incomplete: str) -> list[str]:
    """The names of subscriptions with this prefix."""
    return _harmless(lambda client: client.subscriptions.names(incomplete))


def _limit_keys(incomplete: str) -> list[str]:
    """Keys with a limit that have this prefix."""
    return _harmless(lambda client: client.limits.keys(incomplete))


def zones(incomplete: str) -> list[str]:
    """Time zones with this prefix, for completion."""
    from zoneinfo import available_timezones

    return sorted(z for z in available_timezones() if z.startswith(incomplete) and HARMLESS_ID.fullmatch(z))


LOCK_SECONDS = 10.0
"""A command that waits so long for a lock of another session fails, and names that session if it can."""

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn", envvar="TURBO_DSN", show_envvar=True, help="Connection string. [default: libpq's PG* variables]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

Status = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        "-s",
        autocompletion=_statuses,
        help="scheduled, pending, blocked, running, waiting, completed, failed or cancelled; comma-separated or repeated.",
    ),
]
QueueOption = Annotated[str | None, typer.Option("--queue", "-q", help="Only tasks of this queue.")]
TypeOption = Annotated[str | None, typer.Option("--type", "-t", help="Only tasks of this task_type.")]
WorkerOption = Annotated[
    str | None, typer.Option("--worker", "-w", help="Only tasks of workers whose id contains this text.")
]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--failure-kind", autocompletion=_kinds, help="Only this kind of failure: error, timed_out, auth, poison, …"
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="Only tasks that became runnable, started or ended since: 1h, 2d, 2026-12-01T09:00."),
]
TextOption = Annotated[
    str | None, typer.Option("--text", help="Only tasks whose description or error contains this text.")
]


SinceAskedOption = Annotated[
    str | None, typer.Option("--since", help="Only tasks that asked since: 1h, 2d, 2026-12-01T09:00.")
]
QuestionKinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        "-k",
        autocompletion=_question_kinds,
        help="Only what waits for this: question, approval or hold; comma-separated or repeated.",
    ),
]
WaitingId = Annotated[
    str, typer.Argument(autocompletion=_waiting_ids, help="Id of a task that waits, or a unique prefix of it.")
]
WaitingIds = Annotated[
    list[str] | None,
    typer.Argument(
        autocompletion=_yes_or_no_ids, help="Ids of tasks that wait, or unique prefixes of them.", show_default=False
    ),
]
TaskId = Annotated[str, typer.Argument(autocompletion=_ids, help="Task id, or a unique prefix of it.")]
TaskIds = Annotated[
    list[str] | None,
    typer.Argument(autocompletion=_ids, help="Task ids, or unique prefixes of them.", show_default=False),
]

ScheduleName = Annotated[str, typer.Argument(autocompletion=_schedule_names, help="Name of the schedule.")]
ScheduleNames = Annotated[list[str], typer.Argument(autocompletion=_schedule_names, help="Names of schedules.")]
BudgetName = Annotated[str, typer.Argument(autocompletion=_budget_names, help="Name of the budget, as in daily.")]
BudgetNames = Annotated[list[str], typer.Argument(autocompletion=_budget_names, help="Names of budgets.")]
SubscriptionNames = Annotated[
    list[str], typer.Argument(autocompletion=_subscription_names, help="Names of subscriptions.")
]
LimitKey = Annotated[
    str, typer.Argument(autocompletion=_limit_keys, help="The concurrency key, as tasks have it in concurrency_key.")
]
LimitKeys = Annotated[list[str], typer.Argument(autocompletion=_limit_keys, help="Concurrency keys that have a limit.")]
ZoneOption = Annotated[
    str | None,
    typer.Option(
        "--timezone", "-z", autocompletion=zones, help="Whose clock counts, as in Europe/Berlin. [default: UTC]"
    ),
]

NeedsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--needs", autocompletion=_ids, help="Ids of tasks that must complete first; comma-separated or repeated."
    ),
]
RequiresOption = Annotated[
    list[str] | None,
    typer.Option(
        "--requires", help="Labels that its worker must have: os=macos,xcode=16; comma-separated or repeated."
    ),
]
ContinuesOption = Annotated[
    str | None,
    typer.Option(
        "--continues",
        autocompletion=_ids,
        help="Go on with the conversation and directory of this task; as turbo reply.",
    ),
]
ParentOption = Annotated[
    str | None, typer.Option("--parent", autocompletion=_ids, help="Id of the task that this one comes from.")
]


LONGEST_SECONDS = 1_000_000_000


def finite(value: float | None) -> float | None:
    """For options with a fraction: click's ranges let `nan` pass. Raises BadParameter."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number of seconds")
    return value


def connect(dsn: str | None) -> "Client":
    from turbo.client.client import Client

    return Client(dsn or "", lock_seconds=LOCK_SECONDS)


def use_env_file(path: Path) -> "EnvFile":
    """Set the variables of a file with mode 0600 in this process's environment. Raises ConfigError."""
    from turbo.config.worker import ConfigError
    from turbo.process.environment import EnvFile, EnvironmentRefused

    try:
        file = EnvFile(path)
        os.environ.update(file.values())
    except EnvironmentRefused as error:
        raise ConfigError(str(error)) from None
    return file


def listen_dsn(settings: "WorkerConfig | None") -> str:
    """Where LISTEN goes: TURBO_LISTEN_DSN, else database.listen_dsn; '' for the same way as the rest. It is no option."""
    return os.environ.get("TURBO_LISTEN_DSN") or (settings.database.listen_dsn if settings is not None else "")


def on_the_command_line(context: typer.Context, dsn: str | None) -> str | None:
    """--dsn if it was given as an option. Precedence: the option, then an env file, then TURBO_DSN of the environment."""
    source = context.get_parameter_source("dsn")
    return dsn if source is not None and source.name == "COMMANDLINE" else None
