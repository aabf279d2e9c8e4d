"""`turbo doctor`: one line per check, with the remedy."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import LONGEST_SECONDS, Dsn, Json, finite, listen_dsn, on_the_command_line
from turbo.domain.states import Level

if TYPE_CHECKING:
    from turbo.doctor import Finding

NAME_WIDTH = 18
LEVELS = (Level.OK, Level.WARN, Level.FAIL, Level.SKIP)


def doctor(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The worker's YAML file; needed to check this host. [default: TURBO_CONFIG]"
        ),
    ] = None,
    env_file: Annotated[
        Path | None, typer.Option(help="The file that `turbo worker --env-file` reads, if any.")
    ] = None,
    old_transaction: Annotated[
        float,
        typer.Option(
            min=0,
            max=LONGEST_SECONDS,
            callback=finite,
            help="Warn about transactions open for longer than this many seconds.",
        ),
    ] = 300.0,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Find problems before they stop work, and how to fix them.

    Prints one line per check: ok, warn, fail, or skip for a check that could not run. Exits 1 if any check fails.
    Changes nothing. Run it on each host, as the worker's user.

    \b
    Examples:
      turbo doctor --config ~/turbo/worker.yaml
      turbo doctor --json | jq -r '.checks[] | select(.level == "fail") | .what'
    """
    from turbo.config.worker import ConfigError, load_worker_config
    from turbo.doctor import examine
    from turbo.process.environment import EnvFile, EnvironmentRefused

    path = config or (Path(os.environ["TURBO_CONFIG"]) if os.environ.get("TURBO_CONFIG") else None)
    if env_file is not None:
        try:
            os.environ.update(EnvFile(env_file).values())
        except EnvironmentRefused as error:
            if not env_file.is_file():
                raise ConfigError(str(error)) from None  # otherwise a check reports it
    settings = None if path is None else load_worker_config(path)
    where = (
        on_the_command_line(context, dsn)
        or os.environ.get("TURBO_DSN")
        or (settings.database.dsn if settings is not None else "")
    )
    listen = listen_dsn(settings)
    findings = examine(
        where,
        settings,
        listen_dsn="" if listen == where else listen,
        env_file=env_file,
        old_transaction_seconds=old_transaction,
    )
    results = list(findings) if as_json else _printed(findings)
    count = Counter(finding.level for finding in results)
    if as_json:
        output.print_json(
            {
                "healthy": not count[Level.FAIL],
                **{level.value: count[level] for level in LEVELS},
                "checks": [{"name": f.subject, "level": f.level, "what": f.what, "do": f.do} for f in results],
            }
        )
    else:
        output.notice(", ".join(f"{count[level]} {level}" for level in LEVELS if count[level]))
    if count[Level.FAIL]:
        raise typer.Exit(1)


def _printed(findings: "Iterable[Finding]") -> "list[Finding]":
    """Print each finding as it arrives. Checks skipped for the same reason share a line."""
    printed: list[Finding] = []
    skipped: list[Finding] = []

    def print_skipped() -> None:
        if skipped:
            names = ", ".join(f.subject for f in skipped)
            if len(skipped) == 1:
                output.mark("skip", skipped[0].what, name=names, width=NAME_WIDTH)
            else:
                output.mark("skip", f"{skipped[0].what}; not checked: {names}")
            skipped.clear()

    for finding in findings:
        printed.append(finding)
        if finding.level is Level.SKIP and (not skipped or skipped[0].what == finding.what):
            skipped.append(finding)
            continue
        print_skipped()
        if finding.level is Level.SKIP:
            skipped.append(finding)
        else:
            output.mark(finding.level.value, finding.what, finding.do, name=finding.subject, width=NAME_WIDTH)
    print_skipped()
    return printed
