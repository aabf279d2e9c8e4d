"""Options that several commands share, and the words they may be given."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from turbo.client.client import Client


def _statuses(incomplete: str) -> list[str]:
    from turbo.domain.states import TaskState

    return [s.value for s in TaskState if s.value.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    from turbo.domain.outcome import FailureKind

    return [k.value for k in FailureKind if k.value.startswith(incomplete)]


def _ids(incomplete: str) -> list[str]:
    """The newest tasks whose ids begin so. Whatever goes wrong, a Tab must not print it."""
    try:
        with connect(os.environ.get("TURBO_DSN")) as client:
            return client.newest_ids(incomplete)
    except Exception:
        return []


Dsn = Annotated[
    str | None,
    typer.Option("--dsn", envvar="TURBO_DSN", show_envvar=True, help="Connection string; else libpq's PG* variables."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

Status = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        "-s",
        autocompletion=_statuses,
        help="scheduled, pending, running, completed, failed or cancelled; several with commas, or given again.",
    ),
]
QueueOption = Annotated[str | None, typer.Option("--queue", "-q", help="Tasks of this queue.")]
TypeOption = Annotated[str | None, typer.Option("--type", "-t", help="Tasks of this task_type.")]
WorkerOption = Annotated[str | None, typer.Option("--worker", "-w", help="A worker's id, or a part of it: alpha.")]
KindOption = Annotated[
    str | None,
    typer.Option("--failure-kind", autocompletion=_kinds, help="As error, timed_out, auth, poison; see `turbo show`."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Became runnable, started or ended since: 1h, 2d, 2026-12-01T09:00.")
]
TextOption = Annotated[str | None, typer.Option("--text", help="A part of the description or the error.")]


TaskId = Annotated[str, typer.Argument(autocompletion=_ids, help="Its id, or enough of its beginning to be unique.")]
TaskIds = Annotated[
    list[str] | None,
    typer.Argument(autocompletion=_ids, help="Ids, or enough of their beginnings to be unique.", show_default=False),
]


def connect(dsn: str | None) -> "Client":
    from turbo.client.client import Client

    return Client(dsn or "")


def use_env_file(path: Path) -> None:
    """Take a 0600 file's variables into this process's environment, over what is there. Raises ConfigError."""
    from turbo.config.worker import ConfigError
    from turbo.process.environment import EnvFile, EnvironmentRefused

    try:
        os.environ.update(EnvFile(path).values())
    except EnvironmentRefused as error:
        raise ConfigError(str(error)) from None


def on_the_command_line(context: typer.Context, dsn: str | None) -> str | None:
    """--dsn where it was given: an env file is stronger than TURBO_DSN of the environment, and weaker than the option."""
    source = context.get_parameter_source("dsn")
    return dsn if source is not None and source.name == "COMMANDLINE" else None
