"""Fits rows into the available width, for `turbo top` and its single frame."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from turbo.cli.output import GAP, STYLES, Column, one_line


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """`key` identifies it at the next refresh."""

    key: str
    cells: tuple[str, ...]
    style: str = ""


BARS = "▁▂▃▄▅▆▇█"


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> dict[int, int]:
    """The columns to draw and their widths. Those with the highest `drop` are left out first; flexible ones shrink to
    `least`, and the last flexible one takes the remaining width."""
    natural = [max([cell_len(c.head), *(cell_len(row[i]) for row in rows)]) for i, c in enumerate(columns)]
    kept = [i for i in range(len(columns)) if columns[i].drop == 0 or any(row[i] for row in rows) or not rows]
    least = {i: min(natural[i], c.least) if c.flexible else natural[i] for i, c in enumerate(columns)}
    while sum(least[i] + GAP for i in kept) - GAP > room:
        last = max(kept, key=lambda i: (columns[i].drop, i))
        if columns[last].drop == 0:
            break
        kept.remove(last)
    widths = {i: least[i] for i in kept}
    left = room - sum(w + GAP for w in widths.values()) + GAP
    flexible = [i for i in kept if columns[i].flexible]
    for i in flexible[:-1]:
        more = max(0, min(natural[i] - widths[i], left))
        widths[i] += more
        left -= more
    if flexible:
        widths[flexible[-1]] += max(0, left)
    return widths


def line(columns: Sequence[Column], widths: dict[int, int], cells: Sequence[str], style: str = "") -> Text:
    """One row; the names of states are coloured."""
    text = Text(no_wrap=True, end="", style=style)
    for place, (i, width) in enumerate(widths.items()):
        cell = one_line(cells[i])
        if cell_len(cell) > width:
            cell = set_cell_size(cell, max(0, width - 1)) + "…" if width > 1 else cell[:width]
        pad = " " * (width - cell_len(cell))
        text.append(" " * GAP if place else "")
        text.append(pad + cell if columns[i].right else cell + pad, STYLES.get(cells[i], ""))
    return text


def sparkline(values: Sequence[float], width: int) -> str:
    """The newest values, one cell each, scaled to the greatest of them; zero is the lowest bar."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0)
    return "".join(BARS[0] if v <= 0 else BARS[min(7, 1 + int(6 * v / top))] for v in shown)
