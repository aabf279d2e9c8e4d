"""`turbo config`: check a configuration file, or print its JSON Schema for an editor."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from turbo.cli import output
from turbo.cli.options import use_env_file

app = typer.Typer(no_args_is_help=True, help="Check a configuration file, or print its schema.", rich_markup_mode=None)


class Kind(StrEnum):
    WORKER = "worker"
    FLEET = "fleet"


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A worker.yaml or a fleet.yaml.")],
    env_file: Annotated[
        Path | None, typer.Option(help="The file that `turbo worker --env-file` will read; mode 0600.")
    ] = None,
) -> None:
    """Check FILE as turbo will read it. Prints one line per problem and exits 2.

    \b
    Examples:
      turbo config check config/worker.yaml
      turbo config check config/fleet.yaml
    """
    from turbo.config.executors import ClaudeSection, Program
    from turbo.config.loader import in_file
    from turbo.config.worker import ConfigError, load_worker_config
    from turbo.executors.checks.notes import notes as check_notes
    from turbo.executors.claude.notes import notes
    from turbo.executors.identities import user_problems
    from turbo.executors.judging import answer_problems, asking_problems
    from turbo.observability.endpoint import CLOSE_IT, exposed

    if _kind(file) is Kind.FLEET:
        from turbo.fleet.model import load_fleet

        fleet = load_fleet(file)
        for note in (note for host in fleet.hosts for note in host.notes):
            output.notice(note)
        workers = sum(len(host.instances) for host in fleet.hosts)
        hosts = ", ".join(host.name for host in fleet.hosts)
        output.echo(f"{file}: valid: {output.many(workers, 'worker')} on {hosts}")
        return
    if env_file is not None:
        use_env_file(env_file)
    config = load_worker_config(file)
    for warning in config.warnings():
        output.notice(f"{file}: warning: {warning.subject}: {warning.what}")
    if open_to := exposed(config.metrics.host, config.metrics.tls and config.metrics.tls.client_ca):
        output.notice(f"{file}: warning: {open_to}; {CLOSE_IT}")
    for name, section in config.executors.items():
        for finding in notes(name, section) if isinstance(section, ClaudeSection) else ():
            output.notice(f"{file}: warning: {finding.what}; {finding.do}")
        for finding in check_notes(name, section) if isinstance(section, Program) else ():
            output.notice(f"{file}: warning: {finding.what}; {finding.do}")
    try:
        asking_problems(config)
        answer_problems(config)
        for note in user_problems(config):
            output.notice(f"{file}: warning: {note}")
    except ConfigError as error:
        raise in_file(error, file) from None
    queues = ", ".join(config.worker.queues)
    output.echo(f"{file}: valid: {output.many(len(config.executors), 'executor')}, queues {queues}")


@app.command()
def schema(kind: Annotated[Kind, typer.Argument()] = Kind.WORKER) -> None:
    """Print the JSON Schema, for completion in an editor.

    \b
    Example:
      turbo config schema fleet > fleet.schema.json
    """
    from turbo.config.worker import WorkerConfig
    from turbo.fleet.model import FleetConfig

    model = FleetConfig if kind is Kind.FLEET else WorkerConfig
    output.echo_lines(json.dumps(model.model_json_schema(), indent=2))


def _kind(file: Path) -> Kind:
    """A fleet file has hosts, a worker file executors. If a file has neither, its name decides."""
    from turbo.config.loader import read
    from turbo.config.worker import WorkerConfig
    from turbo.fleet.model import FleetConfig

    keys = set(read(file, FleetConfig if "fleet" in file.name else WorkerConfig)[0])
    fleet, worker = (len(keys & set(model.model_fields)) for model in (FleetConfig, WorkerConfig))
    return Kind.FLEET if fleet > worker or (fleet == worker and "fleet" in file.name) else Kind.WORKER
