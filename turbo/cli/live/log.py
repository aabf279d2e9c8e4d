"""The log of one task inside `turbo top`: like `turbo logs -f`, the full log on its host, elsewhere its last lines."""

import asyncio
import codecs
import contextlib
import os
from pathlib import Path
from typing import ClassVar

import psycopg
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Footer, Log, Static

from turbo import db
from turbo.cli import run_log
from turbo.cli.output import indented, visible
from turbo.client.async_client import AsyncClient
from turbo.client.models import RunView, UnknownTask
from turbo.host.state_dir import files_of, logs_of

ASK_SECONDS = 1.0
KEPT_LINES = 10_000
TAIL_BYTES = 256 * 1024


class LogScreen(Screen[None]):
    CSS = """
    LogScreen .line { height: auto; max-height: 4; padding: 0 1; }
    LogScreen #source { text-style: bold; }
    LogScreen Log { height: 1fr; border-top: solid gray; background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,l", "leave", "back", key_display="esc", priority=True),
        Binding("end,G", "end", "the end", show=True, key_display="end"),
        Binding("home,g", "home", "the beginning", show=False),
    ]

    def __init__(self, client: AsyncClient, task_id: str, state_dir: Path) -> None:
        super().__init__()
        self._client = client
        self._task_id = task_id
        self._state_dir = state_dir
        self._here = logs_of(state_dir, task_id)
        self._open: _Tail | None = None
        self._line = ""

    def compose(self) -> ComposeResult:
        yield Static(visible(f"task {self._task_id}"), id="source", classes="line", markup=False)
        yield Log(max_lines=KEPT_LINES, id="log")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(Log).focus()
        self.run_worker(self._follow(), exclusive=False)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_end(self) -> None:
        self.query_one(Log).scroll_end(animate=False)

    def action_home(self) -> None:
        self.query_one(Log).scroll_home(animate=False)

    async def _follow(self) -> None:
        with contextlib.suppress(NoMatches):  # the screen was left meanwhile, and has lost its widgets
            await self._show_until_over()

    async def _show_until_over(self) -> None:
        found = False
        while True:
            try:
                if not found:
                    self._here = logs_of(files_of(self._state_dir, await self._client.database_id()), self._task_id)
                    found = True
                run = await self._client.run(self._task_id)
            except UnknownTask as error:
                self._show_source(str(error))
                return
            except psycopg.Error as error:
                self._show_source(f"the database is away: {db.why_unreachable(error)}")
            else:
                self._show(run)
                if run.finished:
                    return
            await asyncio.sleep(ASK_SECONDS)

    def _show(self, run: RunView) -> None:
        log = self.query_one(Log)
        path = run_log.log_file(run, self._here)
        if path is not None:
            if self._open is None or self._open.path != path:
                self._open = _Tail(path, self._here)
                log.clear()
            log.write(self._open.more())
            source = run_log.full_log(path)
        elif run.line is not None:
            line = run_log.progress_line(run, clock=False)
            if line != self._line:
                log.write_line(run_log.progress_line(run))
                self._line = line
            source = run_log.only_progress(run)
        else:
            source = run_log.nothing(run)
        self._show_source(f"{run_log.ending(run)}\n{source}")

    def _show_source(self, text: str) -> None:
        self.query_one("#source", Static).update(indented(text, 2))


class _Tail:
    """A log file that may still grow. Starts near the end of a long one."""

    def __init__(self, path: Path, here: Path) -> None:
        self.path = path
        file = run_log.open_log(path, here)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        start = max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES)
        self._reader = run_log.LogReader(file, start)
        self._in_first_line = start > 0

    def more(self) -> str:
        found = b"".join(self._reader.more() for _ in range(4))
        if self._in_first_line and found:
            found, self._in_first_line = found.partition(b"\n")[2], False
        return visible(run_log.without_runs_of_nul(self._decode(found)), lines=True).replace("\t", "    ")
