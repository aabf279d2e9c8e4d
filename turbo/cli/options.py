"""Options that every command shares."""

from typing import Annotated

import typer

Dsn = Annotated[
    str | None,
    typer.Option("--dsn", envvar="TURBO_DSN", show_envvar=True, help="Connection string; else libpq's PG* variables."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
