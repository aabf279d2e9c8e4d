"""`turbo config`: check a configuration file, or print its JSON Schema for an editor."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Check a configuration file, or print its schema.", rich_markup_mode=None)


class Kind(StrEnum):
    WORKER = "worker"


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A worker.yaml.")]) -> None:
    """Read FILE as a worker would; a line per problem, exit 2.

    \b
    Example:
      turbo config check config/worker.yaml
    """
    from turbo.config import load_worker_config

    config = load_worker_config(file)
    typer.echo(f"{file}: good: {len(config.executors)} executors, queues {', '.join(config.worker.queues)}")


@app.command()
def schema(kind: Annotated[Kind, typer.Argument()] = Kind.WORKER) -> None:
    """Print the JSON Schema, for an editor's completion.

    \b
    Example:
      turbo config schema worker > worker.schema.json
    """
    from turbo.config import WorkerConfig

    del kind
    typer.echo(json.dumps(WorkerConfig.model_json_schema(), indent=2))
