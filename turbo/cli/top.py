"""`turbo top`: the live fleet at a terminal, or a single frame anywhere."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, finite

if TYPE_CHECKING:
    from turbo.cli.live.feed import Frame


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit; works in a pipe too.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=60, callback=finite, help="Seconds between refreshes.")] = 1.0,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="The worker's state directory, for its logs. [default: as in TURBO_CONFIG, else ~/.local/state/turbo]"
        ),
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Watch the fleet live.

    Shows running tasks with their last lines, workers, queues, accounts and rates; `?` lists the keys. It sends four
    short statements a second at most, however many tasks there are.

    \b
    Examples:
      turbo top
      turbo top --once | head -20
    """
    import asyncio

    from turbo.cli.live.feed import Feed, View

    if not once and (why := _no_terminal()):
        raise typer.BadParameter(f"{why}: use `turbo top --once` for one frame, `turbo status --json` in programs")

    async def first(feed: Feed) -> None:
        try:
            await feed.refresh(View.RUNNING)
        finally:
            await feed.close()  # the application has its own event loop

    feed = Feed(dsn or "")
    asyncio.run(first(feed))
    if once:
        _print(feed.frame)
        return

    from turbo.cli import run_log
    from turbo.cli.live.app import Top

    app = Top(feed, dsn or "", run_log.state_dir(state_dir), interval)
    app.run()
    raise typer.Exit(app.return_code or 0)


def _no_terminal() -> str:
    """Why the screen cannot be drawn here; '' when it can."""
    if not sys.stdout.isatty():
        return "standard output is not a terminal"
    if not sys.stdin.isatty():
        return "standard input is not a terminal"
    if os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return f"the terminal cannot move its cursor (TERM={os.environ.get('TERM', '')})"
    return ""


def _more(left_out: int) -> str:
    return f" ({left_out} more are not listed)" if left_out else ""


def _print(frame: "Frame") -> None:
    from turbo.cli.live import format as words

    names = words.worker_names(frame)
    width = output.console().width if output.at_terminal() else 200
    for line in (words.summary(frame), words.problem(frame), words.rates(frame, width)):
        output.console().print(line, soft_wrap=True) if output.at_terminal() else output.echo(line.plain)
    for title, columns, rows in (
        (
            words.title(frame, len(frame.tasks), ""),
            words.TASKS[frame.view],
            [words.task_row(t, names) for t in frame.tasks],
        ),
        (
            f"Workers{_more(frame.status.more_workers)}",
            words.WORKERS,
            [words.worker_row(w) for w in frame.status.workers],
        ),
        ("Queues", words.QUEUES, [words.queue_row(q) for q in frame.status.queues]),
        (
            f"Accounts{_more(frame.status.more_accounts)}",
            words.ACCOUNTS,
            [words.account_row(a) for a in frame.status.shown_accounts],
        ),
    ):
        if rows:
            output.echo()
            output.heading(title)
            output.table(columns, [row.cells for row in rows])
