"""`turbo db`: run the embedded PostgreSQL by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from turbo.cli import output

if TYPE_CHECKING:
    from turbo import embedded

app = typer.Typer(no_args_is_help=True, help="The embedded PostgreSQL: start, stop, url, psql.", rich_markup_mode=None)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Data directory. [default: a directory of the current user]")
]


@app.command()
def start(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. [default: any free port]")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the server and leave it running.

    The last line of output is the DSN. It names the file with the password. Starting a running server is safe.

    \b
    Example:
      export TURBO_DSN=$(turbo db start)
    """
    from turbo import embedded

    server = embedded.start(
        data_dir or embedded.default_data_dir(), port=port, report=lambda line: output.echo(line, err=True)
    )
    output.echo(server.dsn)


@app.command()
def stop(
    mode: Annotated[str, typer.Option(help="fast, or immediate (like a crash).")] = "fast",
    data_dir: DataDir = None,
) -> None:
    """Stop the server. Safe to repeat.

    \b
    Example:
      turbo db stop
    """
    from turbo import embedded

    if mode not in ("fast", "immediate"):
        raise typer.BadParameter(f"--mode {mode!r}: must be fast or immediate")
    chosen: Literal["fast", "immediate"] = "fast" if mode == "fast" else "immediate"
    server = embedded.running(data_dir or embedded.default_data_dir())
    if server is None:
        output.echo(f"not running{_elsewhere(data_dir)}")
        return
    server.stop(chosen)
    output.echo("stopped")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]}
)
def psql(context: typer.Context, data_dir: DataDir = None) -> None:
    """Open psql on the running server. Other arguments are passed to psql.

    \b
    Example:
      turbo db psql -c "SELECT task_id, status FROM agent_tasks"
    """
    import os

    server = _running(data_dir)
    program = str(server.bin_dir / "psql")
    os.execv(program, [program, "--dbname", server.dsn, *context.args])  # noqa: S606 - it becomes psql


@app.command()
def url(data_dir: DataDir = None) -> None:
    """Print the DSN of the running server.

    \b
    Example:
      psql "$(turbo db url)"
    """
    output.echo(_running(data_dir).dsn)


def _running(data_dir: Path | None) -> "embedded.Server":
    from turbo import embedded

    where = data_dir or embedded.default_data_dir()
    server = embedded.running(where)
    if server is None:
        else_start = _elsewhere(data_dir) or ": start it with `turbo db start`"
        raise embedded.EmbeddedError(f"no server is running in {where}{else_start}")
    return server


def _elsewhere(data_dir: Path | None) -> str:
    """Where the embedded server runs that TURBO_DSN names, if no directory was given: its DSN names a file in it."""
    import os
    import shlex

    from turbo import embedded
    from turbo.db.dsn import UnreadableDsn, parse

    try:
        passfile = Path(parse(os.environ.get("TURBO_DSN", "")).get("passfile") or "")
        if data_dir is None and passfile.is_file() and embedded.running(passfile.parent) is not None:
            return (
                f"; TURBO_DSN names the one in {passfile.parent}: give --data-dir {shlex.quote(str(passfile.parent))}"
            )
    except (UnreadableDsn, embedded.EmbeddedError, OSError):
        pass
    return ""
