"""What commands print: tables and colour at a terminal, plain and untruncated text in a pipe, JSON on request.

Results go to standard output, everything else to standard error. NO_COLOR and COLUMNS are honoured (by rich). Text from a
row or an agent never steers the terminal (turbo.domain.visible), and never looks like another field: it has one line, or
its further lines are indented.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from turbo.cli.encoding import VisibleStream, is_unicode
from turbo.domain.visible import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

__all__ = ["console", "echo", "notice", "one_line", "print_json", "table", "visible", "visible_json"]

STYLES = {
    "running": "yellow", "completed": "green", "failed": "red", "cancelled": "bright_black", "pending": "cyan",
    "waiting": "magenta", "blocked": "blue", "scheduled": "blue",
    "on": "green", "late": "red", "error": "red",
    "up": "green", "draining": "yellow", "paused": "yellow", "dead": "red", "open": "green",
    "suspect": "yellow", "half_open": "yellow", "ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black",
}  # fmt: skip
"""The style of each state, wherever it is shown."""

GAP = 2
MOST_PADDED = 60
"""In a pipe, columns are aligned up to this width: one long cell must not make every line as long."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. On a narrow terminal the columns with the highest `drop` are left out first (0: never), and
    `flexible` columns are truncated, but not below `least` cells."""

    head: str
    drop: int = 0
    flexible: bool = False
    least: int = 12
    right: bool = False


def at_terminal(*, err: bool = False) -> bool:
    """Whether standard output, or standard error, is a terminal."""
    stream = sys.stderr if err else sys.stdout
    return stream is not None and stream.isatty()


@cache
def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console
    from rich.segment import Segment

    class Printer(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # main handles it as everywhere else; rich would exit 1

        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            """What rich is about to style. Its escapes are in control segments, or come later, from the styles."""
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    file = stream.escapes if isinstance(stream, VisibleStream) else None
    return Printer(file=file, stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)


def echo(text: str = "", *, err: bool = False) -> None:
    """One line."""
    echo_lines(visible(text), err=err)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Lines, at once; no text of a row begins one. `print` and `typer.echo` are not used: see turbo.cli.encoding."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # a wrapper closed it
        stream.write(f"{text}\n")
        stream.flush()


def print_json(value: object) -> None:
    """One document; indented at a terminal, and escaped where the encoding is not Unicode."""
    echo_lines(visible_json(value, ascii_only=not is_unicode(sys.stdout), indent=2 if at_terminal() else None))


def columns(row: Any) -> dict[str, Any]:
    """A dataclass by the names of its fields, for `print_json`. Its JSON values stay as they are, however deep: `asdict` would
    copy them with two calls a level."""
    return {field.name: _column(getattr(row, field.name)) for field in fields(row)}


def _column(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_column(item) for item in value]
    return columns(value) if is_dataclass(value) else value


def print_unchanged(text: str) -> None:
    """An agent's result. At a terminal it is made visible; a pipe gets it as it is, as it gets a log or a diff."""
    stream = sys.stdout
    to = stream.escapes if isinstance(stream, VisibleStream) and not at_terminal() else stream
    to.write(f"{text}\n")
    stream.flush()


def print_ids(task_ids: Sequence[str]) -> None:
    """One a line, for work that continues when the reader of the pipe has gone."""
    try:
        echo_lines("\n".join(map(visible, task_ids)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def notice(text: str) -> None:
    """A line on standard error, beside the result."""
    echo(text, err=True)


def one_line(value: object) -> str:
    """White space collapsed, and the rest visible."""
    return visible(" ".join(str(value).split()))


def indented(text: str, by: int) -> str:
    """`text` with its lines, the second and all others indented: none of them begins where a line of turbo's does."""
    return visible(text.replace("\r\n", "\n"), lines=True).replace("\n", "\n" + " " * by)


def styled(text: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(text, style=style or STYLES.get(text, ""))


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], indent: int = 0) -> None:
    """Print rows under headings: fitted and coloured at a terminal, whole and aligned in a pipe. Without rows, nothing."""
    cells = [["" if c is None else one_line(c) for c in row] for row in rows]
    if not cells:
        return
    if at_terminal():
        console().print(_fitted(columns, cells, indent), soft_wrap=False)
        return
    widths = [min(MOST_PADDED, max(len(c.head), *(len(row[i]) for row in cells))) for i, c in enumerate(columns)]
    for row in ([c.head for c in columns], *cells):
        padded = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        echo(" " * indent + (" " * GAP).join(padded).rstrip())


def _fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], indent: int) -> Any:
    from rich.cells import cell_len
    from rich.padding import Padding
    from rich.table import Table

    natural = [max(cell_len(c.head), *(cell_len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    room = console().width - indent
    kept = [i for i in range(len(columns)) if any(row[i] for row in cells) or columns[i].drop == 0]
    while sum(_least(columns[i], natural[i]) + GAP for i in kept) - GAP > room:
        last = max(kept, key=lambda i: (columns[i].drop, i))
        if columns[last].drop == 0:
            break
        kept.remove(last)
    widths = _widths(columns, kept, natural, room)
    shown = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_edge=False, header_style="bold")
    for i in kept:
        shown.add_column(
            styled(columns[i].head, "bold"),
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if columns[i].right else "left",
            width=widths[i],
        )
    for row in cells:
        shown.add_row(*(styled(row[i]) for i in kept))
    return Padding(shown, (0, 0, 0, indent))


def _widths(columns: Sequence[Column], kept: Sequence[int], natural: Sequence[int], room: int) -> dict[int, int]:
    """The width of each column. rich is given these, because by default it narrows every column alike, to nothing."""
    widths = {i: natural[i] for i in kept}
    least = {i: _least(columns[i], natural[i]) for i in kept}
    for floor in (least, dict.fromkeys(kept, 1)):  # as a last resort, the other columns are truncated too
        while sum(widths.values()) + GAP * (len(kept) - 1) > room:
            wide = [i for i in kept if widths[i] > floor[i]]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _least(column: Column, natural: int) -> int:
    return min(natural, column.least) if column.flexible else natural


def pairs(values: Mapping[str, object], width: int = 17, *, err: bool = False) -> None:
    """`name value` lines, for the values that are set. Further lines of a value are indented: they cannot pass for a name."""
    for name, value in values.items():
        if value is None:
            continue
        text = visible_json(value) if isinstance(value, dict | list) else str(value)
        if at_terminal(err=err):
            _print_pair(name, text, width, err)
        else:
            echo_lines(f"{name:{width}}{indented(text, width)}", err=err)


def _print_pair(name: str, text: str, width: int, err: bool) -> None:
    """Wrapped here: the terminal would go on at the left edge, where the names are."""
    from rich.table import Table

    shown = Table.grid(padding=0)
    shown.add_column(width=width, no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_row(styled(name, "bold"), styled(indented(text, 0).expandtabs()))
    console(stderr=err).print(shown, soft_wrap=False)


def many(count: int, what: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def heading(text: str) -> None:
    """The line above a table."""
    if at_terminal():
        console().print(styled(text, "bold"), soft_wrap=False)
    else:
        echo(text)


MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "-"}


def mark(level: str, what: str, do: str = "", name: str = "", width: int = 0) -> None:
    """One finding: `warn  name  what → do`. One line in a pipe, wrapped at a terminal."""
    text = one_line(what) + (f" → {one_line(do)}" if do else "")
    name = one_line(name)
    label = f"{name:{width}}  " if name else ""
    if not at_terminal():
        echo(f"{level:4}  {label}{text}")
        return
    from rich.table import Table

    shown = Table.grid(padding=(0, 1, 0, 0))
    shown.add_column(no_wrap=True)
    if name:
        shown.add_column(no_wrap=True, min_width=width)
    shown.add_column(overflow="fold")
    words = styled(one_line(what))
    if do:
        words.append(f" → {one_line(do)}", style="bold")
    cells = [styled(MARKS[level], STYLES[level] + " bold"), *([styled(name)] if name else []), words]
    shown.add_row(*cells)
    console().print(shown, soft_wrap=False)


def short(number: int) -> str:
    """1234567 as 1.2M; nothing for 0."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number) if number else ""
