"""What keeps a task's page up to date: one poller for each task that is looked at.

a batch of the transcript is stored ──notification──▶ it is read and sent as a section of its own, once
the task changes (asked every second) ──▶ its other sections are made anew
the task is deleted ──▶ the page says so, and keeps what it showed
"""

import asyncio
import contextlib
import time
from collections import deque

import psycopg

from turbo.client.failures import explained
from turbo.client.models import RunView, UnknownTask
from turbo.web.hub import STATE, Publish
from turbo.web.site import Site
from turbo.web.task_view import TaskView, load
from turbo.web.transcript_html import batches_html

POLL_SECONDS = 1.0
RESTING_SECONDS = 3.0
"""Between two questions whether a task has changed, while it runs or may soon, and when it is over."""

WHOLE_SECONDS = 15.0
"""After so long, everything is read again: files, messages and the graph may change while the task does not."""

BATCHES_KEPT = 100
"""For pages that come later; those that miss older ones ask for them."""

SECTIONS = ("top", "ask", "result", "act", "facts", "graph", "files", "messages", "trail")


class TaskPoller:
    """`after`: the last batch that the first page has."""

    def __init__(self, site: Site, task_id: str, after: tuple[int, int]) -> None:
        self._site = site
        self._task_id = task_id
        self._after = after
        self._kept: deque[str] = deque()
        self._seen: RunView | None = None
        self._read_at = 0.0

    async def __call__(self, publish: Publish) -> None:
        async with self._site.bells.follow(self._task_id) as bell:
            while True:
                pause = POLL_SECONDS
                try:
                    over = await self._state(publish)
                    await self._transcript(publish)
                except UnknownTask:
                    publish("task-top", self._site.fragment("_task_gone.html", task_id=self._task_id))
                    for section in ("ask", "act"):
                        publish(f"task-{section}", "")
                    pause = RESTING_SECONDS
                except psycopg.Error as error:
                    publish(STATE, self._site.fragment("_away.html", text=explained(error, "web")))
                else:
                    publish(STATE, "")
                    pause = RESTING_SECONDS if over else POLL_SECONDS
                until = time.monotonic() + pause
                with contextlib.suppress(TimeoutError, psycopg.Error):
                    while True:
                        await asyncio.wait_for(bell.wait(), max(0.0, until - time.monotonic()))
                        bell.clear()
                        await self._transcript(publish)

    async def _state(self, publish: Publish) -> bool:
        """Whether the task is over."""
        async with self._site.database.client() as client:
            run = await client.run(self._task_id)
            if _same(run, self._seen) and time.monotonic() - self._read_at < WHOLE_SECONDS:
                publish("task-line", _line(self._site, run))
                return run.finished
            view = await load(client, self._task_id)
        self._seen, self._read_at = view.run, time.monotonic()
        for section, html in sections(self._site, view).items():
            publish(section, html)
        return view.run.finished

    async def _transcript(self, publish: Publish) -> None:
        more = True
        while more:
            try:
                async with self._site.database.client() as client:
                    part = await client.transcript_page(self._task_id, since=self._after)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
                return
            for name, html in batches_html(self._site, self._task_id, part):
                publish(f"batch-{name}", html)
                self._kept.append(f"batch-{name}")
            if part.batches:
                self._after = part.batches[-1].place
            while len(self._kept) > BATCHES_KEPT:
                publish(self._kept.popleft(), None)
            more = part.more


def _same(run: RunView, seen: RunView | None) -> bool:
    """But for what changes with every line."""
    return seen is not None and all(
        getattr(run, name) == getattr(seen, name)
        for name in ("status", "fencing_token", "worker_id", "asked_at", "error_message", "question")
    )


def _line(site: Site, run: RunView) -> str:
    return site.fragment("_task_line.html", run=run)


def sections(site: Site, view: TaskView) -> dict[str, str]:
    """All of a page's live sections but the transcript, by the id of their element."""
    made = {f"task-{name}": site.fragment(f"_task_{name}.html", view=view, task=view.task) for name in SECTIONS}
    return made | {"task-line": _line(site, view.run)}
