"""The application of `turbo top`: refreshes once a second, draws, and handles the keys.

    a small screen    head, strips (workers, queues, accounts), one table: tab or 1 … 4 choose it
    a large one       head, the tasks on the left, the three other tables on the right

A failed refresh leaves the last frame on the screen, shows the error on a separate line, and retries with backoff.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import psycopg
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widgets import Footer, Input, Static

from turbo import db
from turbo.cli.live import format as words
from turbo.cli.live.dialogs import Confirm, Help
from turbo.cli.live.feed import Feed, View
from turbo.cli.live.log import LogScreen
from turbo.cli.live.table import ScreenTable
from turbo.cli.output import console, visible
from turbo.client.models import Changed
from turbo.client.privileges import KEYS, why_denied
from turbo.domain.states import AccountState, TaskState
from turbo.observability.log import scrub
from turbo.runtime.backoff import Backoff

SILENT_SECONDS = 3.0
"""After this long without an answer, the screen shows how old it is."""

ROOM_FOR_KEYS = 24
"""Cells of a question that say which key is yes."""

VIEWS = list(View)
PANELS = ("tasks", "workers", "queues", "accounts")
WIDE, HIGH, LOW = 132, 30, 18
OF_THE_FILTER = frozenset({"filtered", "unfilter", "panel"})
OF_THE_TABLES = frozenset({"view", "follow", "cancel", "retry", "pause", "filter", "go", "help"})


class Top(App[None]):
    CSS = """
    Screen { layout: vertical; }
    .line { height: 1; padding: 0 1; width: 100%; }
    #away { background: red; color: white; text-style: bold; display: none; }
    #filter { height: 1; border: none; padding: 0 1; display: none; }
    #filter.asked { display: block; }
    #panels { height: 1fr; }
    #side { width: 0; display: none; }
    ScreenTable { height: 1fr; border-top: solid gray; border-title-style: none; }
    #tasks { width: 1fr; }
    ScreenTable:focus { border-top: heavy $accent; border-title-style: bold; }
    .small ScreenTable { display: none; }
    .small ScreenTable.shown { display: block; }
    .large #side { display: block; width: 40%; min-width: 64; padding: 0 0 0 1; }
    .large .strip, .low .strip, .low #problem { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority: Textual acts on these before it decides which widget gets the next key.
        Binding("v", "view", "run/wait/ended", priority=True),
        Binding("l", "follow", "log", priority=True),
        Binding("c", "cancel", "cancel", priority=True),
        Binding("r", "retry", "retry", priority=True),
        Binding("p", "pause", "pause/resume", priority=True),
        Binding("slash", "filter", "filter", key_display="/", priority=True),
        Binding("tab", "panel(1)", "next table", show=False, priority=True),
        Binding("shift+tab", "panel(-1)", "previous table", show=False, priority=True),
        *(Binding(str(n), f"go('{name}')", name, show=False, priority=True) for n, name in enumerate(PANELS, 1)),
        Binding("enter", "filtered", "keep the filter", show=False, priority=True),
        Binding("escape", "unfilter", "no filter", show=False, priority=True),
        Binding("question_mark", "help", "help", key_display="?", priority=True),
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
    ]
    ENABLE_COMMAND_PALETTE = False
    TITLE = "turbo top"

    view: reactive[View] = reactive(View.RUNNING, init=False)
    filtered: reactive[str] = reactive("", init=False)

    def __init__(self, feed: Feed, dsn: str, state_dir: Path, interval: float) -> None:
        """`feed` has its first frame already. `interval`: seconds between refreshes."""
        super().__init__(ansi_color=True)
        self.error_console = console(stderr=True)  # for what it prints as it ends
        self._feed = feed
        self._where = db.describe(dsn)
        self._state_dir = state_dir
        self._interval = interval
        self._seen = time.monotonic()
        self._away = ""
        self._again = asyncio.Event()
        self._all = False
        self._space: Size | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="line")
        yield Static(id="away", classes="line")
        yield Static(id="problem", classes="line")
        yield Static(id="rates", classes="line")
        for name in PANELS[1:]:
            yield Static(id=f"strip-{name}", classes="line strip")
        with Horizontal(id="panels"):
            yield ScreenTable(words.TASKS[View.RUNNING], "", id="tasks")
            with Vertical(id="side"):
                yield ScreenTable(words.WORKERS, "no workers: turbo worker --config FILE starts one", id="workers")
                yield ScreenTable(words.QUEUES, "no queue has tasks or is served", id="queues")
                yield ScreenTable(words.ACCOUNTS, "no worker uses an account", id="accounts")
        yield Input(placeholder="a part of the id, type, queue, worker or line", id="filter", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = "ansi-dark"  # the terminal's colours
        self.set_interval(1.0, self._draw_head)
        self.run_worker(self._refresh_forever(), exclusive=False)
        self._shape()
        self.query_one("#tasks", ScreenTable).focus()

    def on_resize(self, event: events.Resize) -> None:
        self._space = event.size
        self._shape()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, ScreenTable):  # by a click
            self._mark_shown(event.widget.id or "")

    def _mark_shown(self, name: str) -> None:
        for table in self.screen_stack[0].query(ScreenTable):
            table.set_class(table.id == name, "shown")

    def _shape(self) -> None:
        space = self._space or self.size
        large = space.width >= WIDE and space.height >= HIGH
        self.screen_stack[0].set_class(large, "large").set_class(not large, "small").set_class(
            space.height < LOW, "low"
        )
        panels = self.screen_stack[0].query(ScreenTable)
        if not any(panel.has_class("shown") for panel in panels):
            panels.first().add_class("shown")
        side = self.screen_stack[0].query_one("#side")
        if not large:  # the one table has the whole width
            inside = self._shown.id != "tasks"
            side.styles.display = "block" if inside else "none"
            side.styles.width = "100%" if inside else 0
        else:
            side.styles.display, side.styles.width = "block", "40%"
        self.call_after_refresh(self._draw)

    @property
    def _shown(self) -> ScreenTable:
        return self.screen_stack[0].query(ScreenTable).filter(".shown").first(ScreenTable)

    @property
    def _panel(self) -> ScreenTable:
        return self.focused if isinstance(self.focused, ScreenTable) else self._shown

    # ── refreshing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _refresh_forever(self) -> None:
        backoff = Backoff()
        while True:
            began = time.monotonic()
            try:
                await self._feed.refresh(self.view, all_of_it=self._all)
            except psycopg.Error as error:
                if not db.is_transient(error):
                    self.exit(return_code=1, message=f"turbo top: {_why(error, 'top')}")
                    return
                self._away = scrub(visible(db.why_unreachable(error)))
                pause = backoff.next()
            else:
                self._away, self._seen, self._all = "", time.monotonic(), False
                backoff.reset()
                pause = max(0.1, self._interval - (time.monotonic() - began))
            self._draw()
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
                self._again.clear()
            except TimeoutError:
                pass

    def _refresh_now(self) -> None:
        """Refresh at once, after a change."""
        self._all = True
        self._again.set()

    def watch_view(self) -> None:
        self._feed.frame.tasks = []
        self._refresh_now()

    def watch_filtered(self) -> None:
        self._draw()

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _draw(self) -> None:
        screen = self.screen_stack[0]
        frame = self._feed.frame
        self._draw_head()
        width = self.size.width - 2
        screen.query_one("#problem", Static).update(words.problem(frame))
        screen.query_one("#rates", Static).update(words.rates(frame, width))
        for name, text in zip(PANELS[1:], words.strips(frame, width), strict=True):
            screen.query_one(f"#strip-{name}", Static).update(text)
        matches = [t for t in frame.tasks if not self.filtered or t.has(self.filtered)]
        empty = f"none with “{self.filtered}”; esc shows all" if self.filtered else words.EMPTY[frame.view]
        names = words.worker_names(frame)
        tables = {name: screen.query_one(f"#{name}", ScreenTable) for name in PANELS}
        tables["tasks"].show([words.task_row(t, names) for t in matches], empty, words.TASKS[frame.view])
        tables["workers"].show([words.worker_row(w) for w in frame.status.workers])
        tables["queues"].show([words.queue_row(q) for q in frame.status.queues])
        tables["accounts"].show([words.account_row(a) for a in frame.status.shown_accounts])
        titles = {
            "tasks": words.title(frame, len(matches), self.filtered),
            "workers": f"Workers: {words.listed(len(frame.status.workers), frame.status.more_workers)}",
            "queues": f"Queues: {len(frame.status.queues)}",
            "accounts": "Accounts: "
            + words.listed(len({a.account for a in frame.status.shown_accounts}), frame.status.more_accounts),
        }
        large = screen.has_class("large")
        for number, name in enumerate(PANELS, 1):
            others = "" if large else "".join(f" · {n} {o}" for n, o in enumerate(PANELS, 1) if o != name)
            tables[name].border_title = Content(visible(f"{number} {titles[name]}{others}"))

    def _draw_head(self) -> None:
        screen = self.screen_stack[0]
        head = words.summary(self._feed.frame)
        clock = time.strftime("%H:%M:%S")
        room = self.size.width - 2 - len(clock) - 1
        where = f"   {self._where}"
        if len(head.plain) + len(where) < room:
            head.append(where, "dim")
        head.truncate(room, pad=True, overflow="ellipsis")
        head.append(f" {clock}", "bold")
        screen.query_one("#head", Static).update(head)
        silent = time.monotonic() - self._seen
        away = screen.query_one("#away", Static)
        old = silent > SILENT_SECONDS + self._interval or bool(self._away)
        away.display = old
        if old:
            why = f"the database is away: {self._away}" if self._away else "the database does not answer"
            away.update(Content(visible(f"{silent:.0f} s old, trying again: {why}")))

    # ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Table keys are inactive while a filter is typed, or while a log, a question or the help is in front."""
        del parameters
        if action not in OF_THE_TABLES | OF_THE_FILTER:
            return True
        if len(self.screen_stack) > 1:
            return False
        typing = isinstance(self.focused, Input)
        return not typing if action in OF_THE_TABLES else typing or action != "filtered"

    def action_view(self) -> None:
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self.action_go("tasks")

    def action_panel(self, by: int) -> None:
        if not isinstance(self.focused, Input):
            self.action_go(PANELS[(PANELS.index(self._panel.id or "tasks") + by) % len(PANELS)])

    def action_go(self, name: str) -> None:
        self._mark_shown(name)
        self._shape()
        self.screen.set_focus(self.query_one(f"#{name}", ScreenTable))  # at once: the next key belongs to the table

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("asked")
        self.screen.set_focus(box)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.filtered = event.value.strip()

    def action_filtered(self) -> None:
        self.query_one("#filter", Input).remove_class("asked")
        self.action_go("tasks")

    def action_unfilter(self) -> None:
        self.query_one("#filter", Input).value = self.filtered = ""
        self.action_filtered()

    def action_help(self) -> None:
        self.push_screen(Help())

    def on_table_chosen(self, event: ScreenTable.Chosen) -> None:
        if event.table.id == "tasks":
            self.action_follow()

    def action_follow(self) -> None:
        if (task_id := self._chosen_task()) is not None:
            self.push_screen(LogScreen(self._feed, task_id, self._state_dir))

    def action_cancel(self) -> None:
        if (task_id := self._chosen_task()) is not None:
            self._ask(
                f"cancel task {task_id}?", lambda: self._change(task_id, self._feed.cancel, "it is already finished")
            )

    def action_retry(self) -> None:
        if (task_id := self._chosen_task()) is not None:
            self._ask(
                f"run task {task_id} again?", lambda: self._change(task_id, self._feed.retry, "it is not finished")
            )

    def action_pause(self) -> None:
        """The queue or account under the cursor; of a task, its queue."""
        status, row = self._feed.frame.status, self._panel.chosen
        if row is None or self._panel.id == "workers":
            self.notify("choose a queue (3) or an account (4) first", severity="warning")
            return
        if self._panel.id == "accounts":
            account = next(a for a in status.accounts if words.account_key(a) == row.key)
            if account.state == AccountState.OPEN:
                self._ask(f"pause account {account.account} on every host?", lambda: self._done(
                    self._feed.pause_account(account.account, "turbo top"), f"account {account.account} is paused"))  # fmt: skip
            else:
                self._ask(f"resume account {account.account} on every host?", lambda: self._done(
                    self._feed.resume_account(account.account), f"account {account.account} is open"))  # fmt: skip
            return
        tasks = {t.task_id: t.queue for t in self._feed.frame.tasks}
        queue = row.key if self._panel.id == "queues" else tasks[row.key]
        if self._panel.id == "queues" and queue not in {q.queue for q in status.queues}:
            self.notify("these are several queues: choose one (3)", severity="warning")
        elif any(q.queue == queue and q.paused for q in status.queues):
            self._ask(f"resume queue {queue}?", lambda: self._done(
                self._feed.resume_queue(queue), f"queue {queue} is open"))  # fmt: skip
        else:
            self._ask(f"pause queue {queue}? (running tasks continue)", lambda: self._done(
                self._feed.pause_queue(queue, "turbo top"), f"queue {queue} is paused"))  # fmt: skip

    def _chosen_task(self) -> str | None:
        row = self.query_one("#tasks", ScreenTable).chosen if self._panel.id == "tasks" else None
        if row is None:
            self.notify("choose a task (1) first", severity="warning")
        return None if row is None else row.key

    def _ask(self, question: str, work: Callable[[], Awaitable[None]]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(work(), exclusive=False)

        shown = Text(visible(question))
        shown.truncate(self.size.width - ROOM_FOR_KEYS, overflow="ellipsis")  # a long name must not hide the keys
        self.push_screen(Confirm(shown.plain), answered)

    async def _change(self, task_id: str, change: Callable[[str], Awaitable[list[Changed]]], otherwise: str) -> None:
        async def work() -> str:
            changed = await change(task_id)
            if not changed:
                raise LookupError(f"task {task_id}: {otherwise}")
            state = "its agent is being stopped" if changed[0].status == TaskState.RUNNING else changed[0].status
            return f"task {task_id}: {state}"

        await self._done(work(), "")

    async def _done(self, work: Awaitable[object], message: str) -> None:
        """Do the work, and show the result in the corner."""
        try:
            result = await work
        except (psycopg.Error, LookupError) as error:
            self.notify(_why(error, KEYS), severity="error", markup=False)
        else:
            self.notify(visible(message or str(result)), markup=False)
        self._refresh_now()


def _why(error: psycopg.Error | LookupError, command: str) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return scrub(visible(why_denied(error, command)))
    return scrub(visible(db.reason(error)))
