"""`turbo reply` and `turbo tell`: go on with a task's conversation when its turn comes, or say something to it now."""

import shlex
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from turbo.cli import output, timestamps
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.client.timestamps import TimestampReader

Text = Annotated[
    str | None,
    typer.Argument(help="What to say; - reads standard input. [default: standard input]", show_default=False),
]


def reply(
    task_id: TaskId,
    text: Text = None,
    new_id: Annotated[str | None, typer.Option("--id", help="Id of the follow-up. [default: generated]")] = None,
    priority: Annotated[int | None, typer.Option("--priority", "-p", help="Higher runs first. [default: 5]")] = None,
    after: Annotated[
        str | None, typer.Option(help="Run no earlier than: 10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00.")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Hold it until a person releases it: turbo approve ID.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for the follow-up to end and print its result; exit 1 unless it completed."),
    ] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Go on with a task's conversation: insert a follow-up.

    It has the same directory. Follow-ups of one conversation run one at a time, in order. To say something to a
    task that is not over yet, use turbo tell.

    \b
    Examples:
      turbo reply my_task_1 "Now update the docs too"
      turbo reply my_task_1 --wait < review.txt
    """
    from turbo.cli.submit import hand_over
    from turbo.client.client import BadField

    said = _text(text, "reply", task_id)
    with connect(dsn) as client:
        whole = client.resolve(task_id)
        moment = None if after is None else timestamps.option(TimestampReader(client), "--after", after)
        try:
            made = client.reply(whole, said, new_id=new_id, priority=priority, run_after=moment, hold=hold)
        except BadField as error:
            raise typer.BadParameter(str(error)) from None
        hand_over(client, made.task_id, made.created, wait=wait, as_json=as_json)


def tell(
    task_id: TaskId,
    text: Text = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Give a message to a task that is not over.

    A running agent gets it where its CLI takes one, at its end at the latest; a task that has not started finds it in its
    prompt. Once a task is over, use turbo reply.

    \b
    Examples:
      turbo tell my_task_1 "Not that file: leave auth.py alone"
      turbo tell my_task_1 < note.txt
    """
    from turbo.client.client import BadField
    from turbo.client.graph import Refused, TaskIsOver

    said = _text(text, "tell", task_id)
    with connect(dsn) as client:
        whole = client.resolve(task_id)
        try:
            told = client.tell(whole, said)
        except TaskIsOver as error:
            instead = f"turbo reply {shlex.quote(whole)} TEXT"
            raise Refused(f"{error.said}. To go on with its conversation: {instead}") from None
        except BadField as error:
            raise typer.BadParameter(str(error)) from None
    if as_json:
        output.print_json(asdict(told))
    else:
        output.echo(f"{told.task_id}: told")


def _text(text: str | None, command: str, task_id: str) -> str:
    """The text of the argument, or standard input without the newline at its end. Raises BadParameter."""
    if text is not None and text != "-":
        return text
    how = f"write turbo {command} {shlex.quote(task_id)} TEXT, or give the text on standard input"
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter(f"there is no text: {how}")
    try:
        said = sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError:
        raise typer.BadParameter("standard input is not UTF-8 text") from None
    if not said.strip():
        raise typer.BadParameter(f"standard input is empty: {how}")
    return said
