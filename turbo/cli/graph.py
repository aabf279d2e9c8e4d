"""`turbo graph`: the tasks that hang together with one task, with their states."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.client import drawing

if TYPE_CHECKING:
    from rich.text import Text

    from turbo.client.client import Graph

WIDEST_NAME = 60
"""Of the column of names: one long id does not push the states of all others out of sight."""


def graph(
    task_id: TaskId,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart, for a page.")] = False,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=1, max=1_000_000, help="Show at most this many tasks, the nearest first."),
    ] = 500,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Draw what a task needs, and what needs it.

    Its conversation is part of it. Each task stands below the last of its needs.

    \b
    Examples:
      turbo graph my_task_1
      turbo graph my_task_1 --mermaid > graph.mmd
      turbo graph my_task_1 --json | jq -r '.nodes[] | select(.status == "failed").task_id'
    """
    if mermaid and as_json:
        raise typer.BadParameter("give either --mermaid or --json")
    with connect(dsn) as client:
        found = client.graph(client.resolve(task_id), nodes=limit)
    if as_json:
        output.print_json(asdict(found))
    elif mermaid:
        output.echo_lines(drawing.mermaid(found))
    else:
        _print(found)
    counts = ", ".join(f"{count} {status}" for status, count in found.by_status.items())
    if found.cut:
        output.notice(f"showing the nearest {len(found.nodes)} tasks ({counts}); use --limit for more")
    elif not as_json and not mermaid:
        output.notice(f"{output.many(len(found.nodes), 'task')}: {counts}")


def _print(found: "Graph") -> None:
    drawn = list(drawing.lines(found))
    width = min(WIDEST_NAME, max(len(line.branch) + len(line.name) for line in drawn))
    for line in drawn:
        if output.at_terminal():
            output.console().print(_styled(line, width, found.task_id), soft_wrap=False)
        else:
            output.echo(f"{line.branch + line.name:{width}}  {line.node.status:9}  {_rest(line)}".rstrip())


def _styled(line: drawing.Line, width: int, asked: str) -> "Text":
    from rich.text import Text

    name = line.name if len(line.branch) + len(line.name) <= width else line.name[: width - len(line.branch) - 1] + "…"
    text = Text(line.branch, style="dim", no_wrap=True, overflow="ellipsis")
    text.append(name, style="bold not dim" if line.node.task_id == asked else "not dim")
    text.append(" " * (width - len(line.branch) - len(name) + 2))
    text.append_text(output.styled(f"{line.node.status:9}", output.STYLES.get(line.node.status, "dim")))
    text.append(f"  {_rest(line)}", style="dim")
    return text


def _rest(line: drawing.Line) -> str:
    """What comes behind the state: how it failed, what else it waits for, what it is about."""
    parts = (line.node.failure_kind or "", line.note, output.one_line(line.node.task_description))
    return "  ".join(output.one_line(part) for part in parts if part)
