"""What commands about schedules, budgets, limits and subscriptions have in common: rows that people name."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from turbo.cli import output
from turbo.cli.options import LOCK_SECONDS, connect

if TYPE_CHECKING:
    from turbo.client.client import Client


def change_each(
    kind: str,
    dsn: str | None,
    names: Sequence[str],
    change: "Callable[[Client, str], tuple[bool, str]]",
    *,
    as_json: bool,
) -> None:
    """One line per name, at once; exit 1 if one could not be changed. `kind`: their command, as in schedule. `change`: whether it did
    something, and what to say."""
    import psycopg

    from turbo.client.budget import UnknownBudget
    from turbo.client.limit import UnknownLimit
    from turbo.client.schedule import UnknownSchedule
    from turbo.client.subscription import UnknownSubscription

    changed: list[str] = []
    refused: dict[str, str] = {}
    with connect(dsn) as client:
        for name in dict.fromkeys(names):
            try:
                done, said = change(client, name)
            except (UnknownSchedule, UnknownBudget, UnknownLimit, UnknownSubscription):
                refused[name] = f"no such {kind}; `turbo {kind} list` lists them"
            except psycopg.errors.LockNotAvailable:
                refused[name] = (
                    f"not changed after {LOCK_SECONDS:g} s: another transaction, which is not finished, has locked it"
                )
            else:
                changed += [name] if done else []
                if not as_json:
                    output.echo(f"{name}: {said}")
    if as_json:
        output.print_json({"changed": changed, "refused": refused})
    else:
        for name, why in refused.items():
            output.notice(f"{name}: {why}")
    if refused:
        raise typer.Exit(1)


def is_served(client: "Client", queue: str) -> bool | None:
    """Whether a live worker serves the queue. None: this role may not see workers."""
    import psycopg

    try:
        return client.served(queue)[0]
    except psycopg.errors.InsufficientPrivilege:
        return None
