"""`turbo fleet`: one YAML names the hosts and workers; these commands render, install, start, stop, restart and watch them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import LONGEST_SECONDS, Dsn, Json, finite

if TYPE_CHECKING:
    from turbo.fleet.instance import Host
    from turbo.fleet.model import Fleet
    from turbo.fleet.operate import Operator

app = typer.Typer(
    no_args_is_help=True,
    help="Install, start, stop, restart and watch many workers.",
    rich_markup_mode=None,
)

PLACES = ("fleet.yaml", "config/fleet.yaml")

File = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help="The fleet file. [default: TURBO_FLEET, else ./fleet.yaml or ./config/fleet.yaml]"
    ),
]
OnHost = Annotated[list[str] | None, typer.Option("--host", "-H", help="Only this host of the file; repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the commands without running them.")]


@app.command()
def render(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory to write to. [default: print to standard output]")
    ] = None,
    file: File = None,
    host: OnHost = None,
) -> None:
    """Write the plists, units and Prometheus targets of the fleet.

    \b
    Example:
      turbo fleet render --out launchd
    """
    from turbo.fleet import render as files

    fleet, hosts = _load(file, host)
    for note in (note for each in hosts for note in each.notes):
        output.notice(note)
    made = files.rendered(fleet, hosts)
    if out is None:
        for name, text in made.items():
            output.echo_lines(f"==> {name} <==\n{text}")
        return
    written = files.write(made, out)
    for name in written:
        output.echo(f"{out / name}")
    output.notice(f"{len(made)} files, {len(written)} of them new or changed")
    for name in files.left_over(made, hosts, out):
        output.notice(f"{out / name} is no longer in {fleet.file}: delete it")


@app.command()
def install(
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop and remove services with the fleet's label that are not in the file.")
    ] = False,
    file: File = None,
    host: OnHost = None,
    dry_run: DryRun = False,
) -> None:
    """Install the service files on their hosts.

    Workers start with `turbo fleet start`, and from then on at every login (launchd) or boot (systemd).

    \b
    Examples:
      turbo fleet install --host beta
      turbo fleet install --dry-run
    """
    _operator(file, host, dry_run).install(prune=prune)


@app.command()
def uninstall(file: File = None, host: OnHost = None, dry_run: DryRun = False) -> None:
    """Stop the workers and remove their service files. Logs and state stay.

    \b
    Example:
      turbo fleet uninstall --host gamma
    """
    _operator(file, host, dry_run).uninstall()


@app.command()
def start(file: File = None, host: OnHost = None, dry_run: DryRun = False) -> None:
    """Start the workers that are not running.

    \b
    Example:
      turbo fleet start
    """
    _operator(file, host, dry_run).start()


@app.command()
def stop(file: File = None, host: OnHost = None, dry_run: DryRun = False) -> None:
    """Drain and stop the workers.

    They stay down until `turbo fleet start`, or until the next login or boot.

    \b
    Example:
      turbo fleet stop --host beta
    """
    _operator(file, host, dry_run).stop()


@app.command()
def restart(
    file: File = None,
    host: OnHost = None,
    dry_run: DryRun = False,
    up_within: Annotated[
        float,
        typer.Option(
            min=0, max=LONGEST_SECONDS, callback=finite, help="Seconds that a started worker may take to come up."
        ),
    ] = 60.0,
    dsn: Dsn = None,
) -> None:
    """Restart the workers one at a time.

    Each is drained, started, and must be up in agent_workers before the next one stops. The first failure ends the command.

    \b
    Examples:
      turbo fleet restart
      turbo fleet restart --host alpha --up-within 120
    """
    from turbo.fleet.presence import Presence
    from turbo.fleet.rolling_restart import RollingRestart

    operator = _operator(file, host, dry_run)
    if dry_run:
        RollingRestart(operator, None, up_within).run()
        return
    with Presence(dsn or "") as presence:
        RollingRestart(operator, presence, up_within).run()


@app.command()
def status(
    file: File = None, host: OnHost = None, dry_run: DryRun = False, as_json: Json = False, dsn: Dsn = None
) -> None:
    """Show the workers, and where their sources differ.

    The sources are the service manager, agent_workers and /metrics. Exits 1 if they differ.

    \b
    Examples:
      turbo fleet status
      turbo fleet status --json | jq -r '.problems[].what'
    """
    import psycopg

    from turbo.cli import fleet_screen
    from turbo.fleet.presence import Presence
    from turbo.fleet.status_report import fleet_report

    operator = _operator(file, host, dry_run)
    rows, unreachable = None, None
    if not dry_run:
        try:
            with Presence(dsn or "") as presence:
                rows = presence.rows()
        except psycopg.Error as error:
            unreachable = error
    report = fleet_report(operator, rows)
    if not dry_run:
        raise typer.Exit(fleet_screen.show(report, unreachable, as_json=as_json))


def _load(file: Path | None, host: list[str] | None) -> "tuple[Fleet, tuple[Host, ...]]":
    from turbo.config.worker import ConfigError
    from turbo.fleet.model import load_fleet
    from turbo.fleet.operate import chosen

    given = file or (Path(os.environ["TURBO_FLEET"]) if os.environ.get("TURBO_FLEET") else None)
    path = given or next((Path(place) for place in PLACES if Path(place).is_file()), None)
    if path is None:
        raise ConfigError(f"no fleet file: give --file FILE, or set TURBO_FLEET; tried {' and '.join(PLACES)}")
    fleet = load_fleet(path)
    try:
        return fleet, chosen(fleet, host or [])
    except LookupError as error:
        raise typer.BadParameter(str(error)) from None


def _operator(file: Path | None, host: list[str] | None, dry_run: bool) -> "Operator":
    from turbo.fleet.operate import Operator

    _, hosts = _load(file, host)
    try:
        return Operator(hosts, output.echo_lines, dry=dry_run)
    except LookupError as error:
        raise typer.BadParameter(str(error)) from None
