"""What keeps a task's page up to date: one poller for each task that is looked at.

a batch of the transcript is stored ──notification──▶ it is read and sent as a section of its own, once
the task changes (asked every second) ──▶ its other sections are made anew
the task is deleted ──▶ the page says so, and keeps what it showed
"""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import replace

import psycopg

from turbo.client.failures import explained
from turbo.client.models import RunView, UnknownTask
from turbo.client.task_version import TaskVersion
from turbo.domain.states import FINAL, TaskState
from turbo.web.hub import STATE, Publish
from turbo.web.site import Site
from turbo.web.task_view import TaskView, load
from turbo.web.transcript_html import batches_html

POLL_SECONDS = 1.0
RESTING_SECONDS = 3.0
"""Between two questions whether a task has changed, while it runs or may soon, and when it is over."""

WHOLE_SECONDS = 30.0
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
        self._seen: TaskVersion | None = None
        self._messages: str | None = None
        self._read_at = 0.0
        self._turn = 0

    async def __call__(self, publish: Publish) -> None:
        async with self._site.bells.follow(self._task_id) as bell:
            while True:
                pause = POLL_SECONDS
                try:
                    over = await self._state(publish)
                    if self._turn % 2 == 0 or bell.is_set():
                        bell.clear()
                        await self._transcript(publish)
                except UnknownTask:
                    publish("task-top", self._site.fragment("_task_gone.html", task_id=self._task_id))
                    for section in ("ask", "act", "line"):
                        publish(f"task-{section}", "")
                    pause = RESTING_SECONDS
                except psycopg.Error as error:
                    publish(STATE, self._site.fragment("_away.html", text=explained(error, "web")))
                else:
                    publish(STATE, "")
                    pause = RESTING_SECONDS if over else POLL_SECONDS
                await self._rest(publish, bell, pause)

    async def _rest(self, publish: Publish, bell: asyncio.Event, seconds: float) -> None:
        """What the agent says meanwhile is shown at once."""
        until = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, psycopg.Error):
            while True:
                async with asyncio.timeout(until - time.monotonic()):
                    await bell.wait()
                bell.clear()
                await self._transcript(publish)

    async def _state(self, publish: Publish) -> bool:
        """Whether the task is over. Its messages are looked at every second time, its last line and the transcript in between."""
        self._turn += 1
        async with self._site.database.client() as client:
            now = await client.task_version(self._task_id, messages=self._turn % 2 == 1)
            messages = now.messages if now.messages is not None else self._messages
            same = self._seen == replace(now, messages=None) and messages == self._messages
            self._messages = messages
            if same and time.monotonic() - self._read_at < WHOLE_SECONDS:
                if now.status == TaskState.RUNNING and self._turn % 2 == 0:
                    publish("task-line", _line(self._site, await client.run(self._task_id)))
                return now.status in FINAL
            view = await load(client, self._task_id)
        self._seen, self._read_at = replace(now, messages=None), time.monotonic()
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


def _line(site: Site, run: RunView) -> str:
    return site.fragment("_task_line.html", run=run)


def sections(site: Site, view: TaskView) -> dict[str, str]:
    """All of a page's live sections but the transcript, by the id of their element."""
    made = {f"task-{name}": site.fragment(f"_task_{name}.html", view=view, task=view.task) for name in SECTIONS}
    return made | {"task-line": _line(site, view.run)}
