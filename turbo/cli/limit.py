"""`turbo limit`: how many tasks of a concurrency key run at a time."""

from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.named_rows import change_each
from turbo.cli.options import Dsn, Json, LimitKey, LimitKeys, connect
from turbo.cli.output import Column

if TYPE_CHECKING:
    from turbo.client.client import Client
    from turbo.client.limit import KeyLimit

app = typer.Typer(
    no_args_is_help=True,
    help="How many tasks of a concurrency key run at a time.",
    rich_markup_mode=None,
)

COLUMNS = (
    Column("KEY", flexible=True, least=14),
    Column("RUNNING", right=True),
    Column("LIMIT", right=True),
    Column("WAITING", right=True),
)


@app.command("set")
def set_(
    key: LimitKey,
    running: Annotated[int, typer.Argument(metavar="N", help="How many run at a time, 1 to 1000.")],
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Let N tasks of a concurrency key run at a time, instead of one.

    \b
    Examples:
      turbo submit "Try the new driver" --concurrency-key gpu
      turbo limit set gpu 3

    Tasks that wait for the key start at once. A lower limit stops nothing: no further task of the key starts until fewer run.
    """
    from turbo.client.client import BadField
    from turbo.client.limit import LimitRefused, MayNotLimit

    with connect(dsn) as client:
        try:
            written = client.limits.set(key, running)
        except MayNotLimit:
            raise
        except (BadField, LimitRefused) as error:
            raise typer.BadParameter(str(error)) from None
    output.print_json(output.columns(written)) if as_json else output.echo(f"{key}: {_said(written)}")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many.")] = 500,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the limits, with what runs and what waits of each key.

    \b
    Examples:
      turbo limit list
      turbo limit list --json | jq -r '.[] | select(.running >= .limit) | .concurrency_key'
    """
    with connect(dsn) as client:
        found = client.limits.list(limit)
    if as_json:
        output.print_json([output.columns(one) for one in found])
        return
    if not found:
        output.notice("no limits: one task of a key runs at a time; turbo limit set --help shows how to write one")
        return
    output.table(COLUMNS, [(one.concurrency_key, one.running, one.limit, one.shown_waiting) for one in found])
    if len(found) == limit:
        output.notice(f"showing the first {limit}; use --limit for more")


@app.command()
def remove(keys: LimitKeys, as_json: Json = False, dsn: Dsn = None) -> None:
    """Remove limits: one task of the key runs at a time again. What runs goes on.

    \b
    Example:
      turbo limit remove gpu
    """

    def removed(client: "Client", key: str) -> tuple[bool, str]:
        client.limits.remove(key)
        return True, "removed"

    change_each("limit", dsn, keys, removed, as_json=as_json)


def _said(one: "KeyLimit") -> str:
    """`3 at a time, 2 running, 7 waiting`."""
    return f"{one.limit} at a time, {one.running} running, {one.shown_waiting} waiting"
