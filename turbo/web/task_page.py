"""The page of a task, and what belongs to it.

    /tasks/ID           the page                     /events/task/ID?after=7-12   its changes, live
    /transcript/ID      more of the transcript       /raw/ID?at=7-12              lines of it as they are stored, to save
    /diff/ID            the diff, whole              /files/ID?path=…             a file of the last run, to save
    /text/ID?of=output  a text of the task, to save

An id that browsers would change in a path is given as ?id=… instead. Files and texts are attachments: none is shown by a browser as a
page of this site.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import quote

import psycopg
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turbo.client.transcript_page import TranscriptPart
from turbo.domain.kept import DIFF_PATH
from turbo.domain.visible import visible
from turbo.web.diff_html import LINES, LINES_AT_FIRST, diff_part
from turbo.web.site import Site
from turbo.web.task_live import TaskPoller, sections
from turbo.web.task_view import as_text, load
from turbo.web.text import task_url
from turbo.web.transcript_html import batches_html, name_of, place_of

EMPTY = TranscriptPart((), more=False)
TEXTS = ("description", "input", "output", "error")
Shows = Callable[[Request, str], Awaitable[Response]]


def routes(site: Site) -> list[Route]:
    page = _Pages(site)
    return [
        _route("tasks", page.show),
        _route("events/task", page.events),
        _route("transcript", page.transcript),
        _route("raw", page.raw),
        _route("diff", page.diff),
        _route("files", page.file),
        _route("text", page.text),
    ]


def _route(under: str, shows: Shows) -> Route:
    async def show(request: Request) -> Response:
        return await shows(request, request.path_params["task_id"] or request.query_params.get("id", ""))

    return Route(f"/{under}/{{task_id:path}}", show)


class _Pages:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def show(self, request: Request, task_id: str) -> Response:
        async with self._site.database.client() as client:
            view = await load(client, task_id)
            try:
                part, readable = await client.transcript_page(task_id), True
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
                part, readable = EMPTY, False
            diff = await client.file(task_id, DIFF_PATH) if view.diff is not None else None
        events = task_url(task_id, "events/task")
        after = name_of(part.batches[-1].place) if part.batches else "0-0"
        return self._site.page(
            request,
            "task.html",
            view=view,
            task=view.task,
            sections={name: Markup(html) for name, html in sections(self._site, view).items()},  # noqa: S704
            batches=[Markup(html) for _, html in batches_html(self._site, task_id, part)],  # noqa: S704
            first=name_of(part.batches[0].place) if part.more else "",
            readable=readable,
            diff=None if diff is None else diff_part(diff, LINES_AT_FIRST),
            events=f"{events}{'&' if '?' in events else '?'}after={after}",
        )

    async def events(self, request: Request, task_id: str) -> Response:
        token, batch = place_of(request.query_params.get("after", "0-0"))
        start = (token, batch) if token else (0, -1)
        return self._site.live(("task", task_id), TaskPoller(self._site, task_id, start))

    async def transcript(self, request: Request, task_id: str) -> Response:
        """A part of it, as HTML: `before` a batch, or what has come since `after`."""
        before, after = request.query_params.get("before"), request.query_params.get("after")
        async with self._site.database.client() as client:
            if after is not None:
                part = await client.transcript_page(task_id, since=place_of(after))
            else:
                part = await client.transcript_page(task_id, before=None if before is None else place_of(before))
        html = "".join(html for _, html in batches_html(self._site, task_id, part))
        more = name_of(part.batches[0].place) if part.more and part.batches and after is None else ""
        return Response(html, media_type="text/html", headers={"X-Turbo-More": more})

    async def raw(self, request: Request, task_id: str) -> Response:
        async with self._site.database.client() as client:
            text = await client.transcript_batch(task_id, place_of(request.query_params.get("at", "")))
        if text is None:
            raise LookupError("there is no such part of the transcript")
        return attachment(text.encode("utf-8", "surrogatepass"), "transcript.jsonl")

    async def diff(self, request: Request, task_id: str) -> Response:
        async with self._site.database.client() as client:
            found = await client.diff(task_id)
        if found is None:
            raise LookupError(f"task {visible(task_id)} has left no diff in the database")
        return self._site.page(request, "task_diff.html", task_id=task_id, diff=diff_part(found, LINES))

    async def file(self, request: Request, task_id: str) -> Response:
        path = request.query_params.get("path", "")
        async with self._site.database.client() as client:
            content = await client.file(task_id, path)
        if content is None:
            raise LookupError(f"task {visible(task_id)} has no file {visible(path)}")
        return attachment(content, path.rsplit("/", 1)[-1])

    async def text(self, request: Request, task_id: str) -> Response:
        of = request.query_params.get("of", "")
        async with self._site.database.client() as client:
            task = await client.get(task_id)
        if of not in TEXTS:
            raise LookupError(f"a task has these texts: {', '.join(TEXTS)}")
        values = (task.task_description, task.input_data, task.output, task.error_message)
        text = as_text(dict(zip(TEXTS, values, strict=True))[of]) or ""
        return attachment(text.encode("utf-8", "replace"), f"{of}.txt")


def attachment(content: bytes, name: str) -> Response:
    """Something to save, never to show. `name` is hostile: it counts as a base name, without what steers a terminal or a header."""
    safe = "".join(c for c in name if c.isprintable() and c not in '"\\/')[:150].strip(". ") or "file"
    plain = safe.encode("ascii", "replace").decode().replace("?", "_")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe='')}"
    return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": disposition})
