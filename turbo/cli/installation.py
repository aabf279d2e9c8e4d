"""`turbo self`: what this installation consists of, and the example files that came with it."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, Json
from turbo.domain.states import Level

app = typer.Typer(no_args_is_help=True, help="Check this installation, or copy its examples.", rich_markup_mode=None)

NAME_WIDTH = 11
LEVELS = (Level.OK, Level.WARN, Level.FAIL, Level.SKIP)
EXAMPLES = ("config", "monitoring", "launchd")


@app.command()
def check(as_json: Json = False, dsn: Dsn = None) -> None:
    """Print the versions of turbo's parts, and what is missing.

    Prints one line per part: ok, warn, fail, or skip for an optional part that is not there. Exits 1 if any part fails. A database
    is asked only if one is named. Needs no configuration; `turbo doctor` checks a worker's.

    \b
    Examples:
      turbo self check
      turbo self check --json | jq -r '.parts[] | select(.level == "ok") | "\\(.name) \\(.version)"'
    """
    from turbo.doctor.installation import examine_installation
    from turbo.observability.log import scrub

    named = dsn is not None or any(os.environ.get(name) for name in ("PGHOST", "PGSERVICE", "PGDATABASE"))
    parts = []
    for part in examine_installation((dsn or "") if named else None):
        parts.append(part)
        if not as_json:
            output.mark(part.level.value, scrub(part.what), part.do, name=part.name, width=NAME_WIDTH)
    count = Counter(part.level for part in parts)
    if as_json:
        output.print_json(
            {
                "healthy": not count[Level.FAIL],
                **{level.value: count[level] for level in LEVELS},
                "parts": [
                    {"name": p.name, "level": p.level, "version": p.version, "what": scrub(p.what), "do": p.do}
                    for p in parts
                ],
            }
        )
    else:
        output.notice(", ".join(f"{count[level]} {level}" for level in LEVELS if count[level]))
    if count[Level.FAIL]:
        raise typer.Exit(1)


@app.command()
def examples(
    directory: Annotated[Path, typer.Argument(help="Where to write them; made if it is missing.")] = Path(
        "turbo-examples"
    ),
) -> None:
    """Copy the example files into DIRECTORY: config/, monitoring/ and launchd/.

    They are worker.yaml and fleet.yaml, Prometheus rules, Grafana dashboards, and what
    fleet.yaml renders to. A file that is there already stays as it is, and is named.

    \b
    Example:
      turbo self examples ~/turbo
    """
    from turbo.doctor.installation import examples_directory

    source = examples_directory()
    written = 0
    for file in sorted(file for name in EXAMPLES for file in (source / name).rglob("*") if file.is_file()):
        there = directory / file.relative_to(source)
        there.parent.mkdir(parents=True, exist_ok=True)
        try:
            with there.open("xb") as copy, file.open("rb") as original:
                shutil.copyfileobj(original, copy)
        except FileExistsError:
            output.notice(f"{there} is there already, and stays as it is")
            continue
        written += 1
    output.echo(f"{output.many(written, 'file')} written to {directory}")
