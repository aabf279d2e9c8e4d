"""A table whose cursor stays on its row while other rows come and go.

Only the visible lines are drawn, so 500 rows cost as much as 20. Columns are fitted to the width at each change.
"""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from turbo.cli.live.columns import ScreenRow, fit, line
from turbo.cli.output import Column


class ScreenTable(Widget, can_focus=True):
    """Rows under heads. Posts `Chosen` on Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "to(0)", "first", show=False),
        Binding("end,G", "to(-1)", "last", show=False),
        Binding("enter", "choose", "choose", show=False),
    ]

    class Chosen(Message):
        def __init__(self, table: "ScreenTable") -> None:
            super().__init__()
            self.table = table

    def __init__(self, columns: Sequence[Column], empty: str, *, id: str) -> None:
        """`empty` is shown when there are no rows."""
        super().__init__(id=id)
        self._columns = columns
        self._empty = empty
        self._rows: list[ScreenRow] = []
        self._widths: dict[int, int] = {}
        self._key: str | None = None
        self._place = 0
        self._top = 0

    @property
    def chosen(self) -> ScreenRow | None:
        """The row under the cursor."""
        return self._rows[self._place] if self._rows else None

    def show(self, rows: Sequence[ScreenRow], empty: str = "", columns: Sequence[Column] | None = None) -> None:
        """Show these rows. The cursor stays on its row, or on its position if that row is gone."""
        self._rows = list(rows)
        self._columns = columns or self._columns
        self._empty = empty or self._empty
        self._place = next((i for i, row in enumerate(rows) if row.key == self._key), self._place)
        self._settle()

    def _settle(self) -> None:
        self._place = max(0, min(self._place, len(self._rows) - 1))
        self._key = self._rows[self._place].key if self._rows else None
        room = max(1, self.size.height - 1)
        self._top = max(0, min(self._top, len(self._rows) - room, self._place), self._place - room + 1)
        self._widths = fit(self._columns, [row.cells for row in self._rows], self.size.width - 2)
        self.refresh()

    def on_resize(self, _: events.Resize) -> None:
        self._settle()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        place = self._top + y - 1
        if y == 0:
            heads = [column.head for column in self._columns]
            text = line(self._columns, self._widths, heads, "bold dim") if self._rows else Text("")
        elif not self._rows:
            text = Text(self._empty if y == 1 else "", style="dim")
        elif place < len(self._rows):
            row = self._rows[place]
            text = line(self._columns, self._widths, row.cells, row.style)
        else:
            text = Text("")
        here = bool(self._rows) and y > 0 and place == self._place
        mark = Text("▌" if here and self.has_class("shown") else " ", style="bold" if self.has_focus else "dim", end="")
        whole = Text.assemble(mark, text, end="", no_wrap=True)
        if here and self.has_focus:
            whole.stylize("reverse", 1)
        strip = Strip(whole.render(self.app.console)).adjust_cell_length(width, self.rich_style)
        return strip.apply_style(self.rich_style)

    # ── the cursor ──────────────────────────────────────────────────────────────────────────────────────────────────

    def action_move(self, by: int) -> None:
        self._go(self._place + by)

    def action_page(self, by: int) -> None:
        self._go(self._place + by * max(1, self.size.height - 2))

    def action_to(self, place: int) -> None:
        self._go(place if place >= 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        if self._rows:
            self.post_message(self.Chosen(self))

    def on_mouse_scroll_down(self) -> None:
        self.action_move(1)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-1)

    def on_click(self, event: events.Click) -> None:
        if event.y > 0 and self._top + event.y - 1 < len(self._rows):
            self._go(self._top + event.y - 1)
            if event.chain == 2:
                self.action_choose()

    def _go(self, place: int) -> None:
        self._place = place
        self._place = max(0, min(self._place, len(self._rows) - 1))
        self._key = self._rows[self._place].key if self._rows else None
        self._settle()
        self.refresh(Region(0, 0, self.size.width, self.size.height))
