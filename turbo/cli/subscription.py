"""`turbo subscription`: who is told what happened."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output, timestamps
from turbo.cli.named_rows import change_each, is_served
from turbo.cli.options import Dsn, Json, SubscriptionNames, connect, use_env_file
from turbo.cli.output import Column

if TYPE_CHECKING:
    from turbo.client.client import Client
    from turbo.client.subscription import Subscription
    from turbo.config.worker import WorkerConfig

app = typer.Typer(no_args_is_help=True, help="Who is told what happened: events, and targets.", rich_markup_mode=None)

COLUMNS = (
    Column("SUBSCRIPTION", flexible=True, least=14),
    Column("STATE"),
    Column("TARGET", flexible=True, least=10),
    Column("EVENTS", flexible=True, least=20),
    Column("DELIVERED", right=True, drop=2),
    Column("LAST", right=True, drop=3),
    Column("WAITS", right=True, drop=1),
)


def _events(incomplete: str) -> list[str]:
    from turbo.domain.event import EventName

    *before, last = incomplete.split(",")
    return [",".join([*before, name]) for name in EventName if name.startswith(last) and name not in before]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A short name, as in phone.")],
    target: Annotated[
        str, typer.Option("--target", help="Where to: a name under notify in the worker.yaml of some workers.")
    ],
    events: Annotated[
        list[str],
        typer.Option("--events", "-e", autocompletion=_events, help="Which, comma-separated or repeated; see below."),
    ],
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Of tasks: only those of this queue.")] = None,
    task_type: Annotated[str | None, typer.Option("--type", "-t", help="Of tasks: only those of this type.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Change the one of this name to just this, if there is one.")
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Deliver events to a target, from now on.

    \b
    Examples:
      turbo subscription add phone --target ntfy --events asked,failed
      turbo subscription add nights --target slack --queue nightly -e completed -e failed -e cancelled

    \b
    Events of tasks: asked, reminded, completed, failed, cancelled.
    Others: account_paused, account_resumed, budget_warned, budget_spent, schedule_failed, worker_died.

    The target is in worker.yaml (docs/how-to/notifications.md); turbo subscription test tries it.
    """
    from turbo.client.client import BadField
    from turbo.client.subscription import MayNotSubscribe, SubscriptionExists, SubscriptionRefused

    chosen = [event.strip() for words in events for event in words.split(",") if event.strip()]
    with connect(dsn) as client:
        try:
            added = client.subscriptions.add(name, target, chosen, queue=queue, task_type=task_type, replace=replace)
        except MayNotSubscribe:
            raise
        except SubscriptionExists:
            raise typer.BadParameter(
                f"there is a subscription {name} already; --replace changes it, turbo subscription list shows it"
            ) from None
        except (BadField, SubscriptionRefused) as error:
            raise typer.BadParameter(str(error)) from None
        served = None if queue is None else is_served(client, queue)
    output.print_json(_document(added)) if as_json else output.echo(
        f"{name}: {', '.join(added.events)} → {target}{_of(added)}"
    )
    if served is False:
        output.notice(f"no live worker serves queue {queue}; check the name with turbo status")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many.")] = 500,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the subscriptions, with what waits to be delivered.

    \b
    Examples:
      turbo subscription list
      turbo subscription list --json | jq -r '.[] | select(.state == "failing") | [.name, .error] | @tsv'
    """
    with connect(dsn) as client:
        found = client.subscriptions.list(limit)
    if as_json:
        output.print_json([_document(one) for one in found])
        return
    if not found:
        output.notice("no subscriptions; turbo subscription add --help shows how to write one")
        return
    output.table(COLUMNS, [_row(one) for one in found])
    for one in found:
        if one.error is not None:
            output.notice(f"{one.name}: {one.error}")
    if len(found) == limit:
        output.notice(f"showing the first {limit}; use --limit for more")


@app.command()
def pause(names: SubscriptionNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Deliver nothing more. What happens meanwhile waits, for a week at least.

    \b
    Example:
      turbo subscription pause phone
    """

    def paused(client: "Client", name: str) -> tuple[bool, str]:
        changed = client.subscriptions.pause(name)
        return changed, "paused" if changed else "it was already paused"

    change_each("subscription", dsn, names, paused, as_json=as_json)


@app.command()
def resume(names: SubscriptionNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Deliver again, and first what has waited.

    To begin with what happens from now on instead, remove it and add it again.

    \b
    Example:
      turbo subscription resume phone
    """

    def resumed(client: "Client", name: str) -> tuple[bool, str]:
        changed = client.subscriptions.resume(name)
        return changed, "resumed" if changed else "it was not paused"

    change_each("subscription", dsn, names, resumed, as_json=as_json)


@app.command()
def remove(names: SubscriptionNames, as_json: Json = False, dsn: Dsn = None) -> None:
    """Remove subscriptions. What waits is not delivered.

    \b
    Example:
      turbo subscription remove phone
    """

    def removed(client: "Client", name: str) -> tuple[bool, str]:
        client.subscriptions.remove(name)
        return True, "removed"

    change_each("subscription", dsn, names, removed, as_json=as_json)


@app.command("test")
def try_(
    name: Annotated[str, typer.Argument(help="A target under notify, or a subscription that names one.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The worker's YAML file. [default: TURBO_CONFIG]")
    ] = None,
    event: Annotated[
        str, typer.Option("--event", "-e", autocompletion=_events, help="Which event the sample is.")
    ] = "completed",
    env_file: Annotated[
        Path | None, typer.Option(help="The file that `turbo worker --env-file` will read; mode 0600.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the body instead of delivering it.")] = False,
    dsn: Dsn = None,
) -> None:
    """Deliver a sample event to a target now, from this host. Exit 1 if it does not arrive.

    Needs no database, unless NAME is a subscription.

    \b
    Examples:
      turbo subscription test ntfy --config worker.yaml
      turbo subscription test phone --config worker.yaml --event failed
    """
    import asyncio
    import os
    import tempfile
    import time

    from turbo.config.loader import ConfigError
    from turbo.config.worker import load_worker_config
    from turbo.domain.event import EventName, sample
    from turbo.domain.visible import visible_json
    from turbo.events.targets import DeliveryFailed, build_targets
    from turbo.process.journal import Journal

    if event not in list(EventName):
        raise typer.BadParameter(f"no event {event}: write one of {', '.join(EventName)}")
    if env_file is not None:
        use_env_file(env_file)
    path = config or (Path(os.environ["TURBO_CONFIG"]) if os.environ.get("TURBO_CONFIG") else None)
    if path is None:
        raise ConfigError("no configuration: give --config FILE, or set TURBO_CONFIG")
    loaded = load_worker_config(path)
    target_name = _target_of(name, loaded, path, dsn)
    made = sample(name, event, web_url=loaded.web.url)
    if show:
        output.echo_lines(visible_json(made.body, indent=2))
        return
    with tempfile.TemporaryDirectory(prefix="turbo-") as scratch:
        chosen = {target_name: loaded.notify[target_name]}
        targets = build_targets(chosen, Journal(Path(scratch) / "journal"), Path(scratch))
        began = time.monotonic()
        try:
            asyncio.run(targets[target_name].deliver(made))
        except DeliveryFailed as error:
            output.notice(f"{target_name}: not delivered: {error}")
            raise typer.Exit(1) from None
    output.echo(f"{target_name}: delivered in {timestamps.duration(time.monotonic() - began)}: {made.summary}")


def _target_of(name: str, config: "WorkerConfig", path: Path, dsn: str | None) -> str:
    """The target that NAME means."""
    if name in config.notify:
        return name
    known = f"{path} has {', '.join(sorted(config.notify)) or 'none'}"
    from turbo.client.subscription import UnknownSubscription

    try:
        with connect(dsn) as client:
            target = client.subscriptions.get(name).target
    except UnknownSubscription:
        raise typer.BadParameter(f"{name} is no target, and no subscription: {known}") from None
    if target not in config.notify:
        raise typer.BadParameter(f"subscription {name} has the target {target}: {known}")
    return target


def _document(one: "Subscription") -> dict[str, object]:
    return {"name": one.name, "state": one.state, **output.columns(one)}


def _of(one: "Subscription") -> str:
    scope = [f"queue {one.queue}"] if one.queue is not None else []
    scope += [f"type {one.task_type}"] if one.task_type is not None else []
    return f" ({', '.join(scope)})" if scope else ""


def _row(one: "Subscription") -> tuple[object, ...]:
    def ago(moment: datetime | None) -> str:
        return timestamps.duration(timestamps.seconds_between(moment, one.now))

    return (
        one.name,
        one.state,
        one.target,
        ", ".join(one.events) + _of(one),
        one.delivered,
        f"{ago(one.delivered_at)} ago" if one.delivered_at is not None else "",
        ago(one.waiting_since),
    )
