"""`turbo pause` and `turbo resume`, for a queue or an account."""

from typing import Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, Json, connect

QueueName = Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")]
AccountName = Annotated[str | None, typer.Option("--account", "-a", help="The account, on every host.")]


def pause(
    queue: QueueName = None,
    account: AccountName = None,
    reason: Annotated[str | None, typer.Option(help="Shown in `turbo status`.")] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Stop claiming tasks of a queue, or of an account.

    Running tasks continue.

    \b
    Example:
      turbo pause --queue night --reason "the backup runs"
    """
    _change(dsn, queue, account, pausing=True, reason=reason, as_json=as_json)


def resume(queue: QueueName = None, account: AccountName = None, as_json: Json = False, dsn: Dsn = None) -> None:
    """Start claiming again.

    An account is resumed whether a user or turbo paused it.

    \b
    Example:
      turbo resume --account alpha-max
    """
    _change(dsn, queue, account, pausing=False, reason=None, as_json=as_json)


def _change(
    dsn: str | None, queue: str | None, account: str | None, *, pausing: bool, reason: str | None, as_json: bool
) -> None:
    import psycopg

    if (queue is None) == (account is None):
        raise typer.BadParameter("give either --queue or --account")
    with connect(dsn) as client:
        try:
            if queue is not None:
                changed = client.pause_queue(queue, reason) if pausing else client.resume_queue(queue)
                known = client.served(queue)[0]
            else:
                changed = True
                if pausing:
                    client.pause_account(account or "", reason)
                else:
                    changed = client.resume_account(account or "")
                known = client.account_used(account or "")
        except psycopg.errors.CheckViolation:
            raise typer.BadParameter(f"{queue!r} is not a queue name: 1 to 40 of a-z 0-9 _ -") from None
    what, name = ("queue", queue) if queue is not None else ("account", account or "")
    if as_json:
        output.print_json({what: name, "paused": pausing, "changed": changed})
    elif changed:
        output.echo(f"{'paused' if pausing else 'resumed'} {what} {name}")
    else:
        output.echo(f"{what} {name} was {'already paused' if pausing else 'not paused'}")
    if not known:
        output.notice(
            f"no live worker {'serves' if what == 'queue' else 'uses'} {what} {name}; check the name with turbo status"
        )
