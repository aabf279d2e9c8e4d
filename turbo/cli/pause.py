"""`turbo pause` and `turbo resume`: a queue, or an account."""

from typing import Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, Json, connect

QueueName = Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")]
AccountName = Annotated[str | None, typer.Option("--account", "-a", help="The account, on every host.")]


def pause(
    queue: QueueName = None,
    account: AccountName = None,
    reason: Annotated[str | None, typer.Option(help="Shown to whoever looks.")] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Claim nothing more of a queue, or for an account.

    What runs goes on.

    \b
    Example:
      turbo pause --queue night --reason "the backup runs"
    """
    _change(dsn, queue, account, pausing=True, reason=reason, as_json=as_json)


def resume(queue: QueueName = None, account: AccountName = None, as_json: Json = False, dsn: Dsn = None) -> None:
    """Claim again.

    An account is resumed whatever paused it.

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
        typer.echo(f"{'paused' if pausing else 'resumed'} {what} {name}")
    else:
        typer.echo(f"{what} {name} was {'paused already' if pausing else 'not paused'}")
    if not known:
        output.notice(
            f"no live worker {'serves' if what == 'queue' else 'uses'} {what} {name} now; is the name right? (turbo status)"
        )
