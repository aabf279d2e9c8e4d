"""The list of tasks, and what is done to many of them at once.

    GET  /tasks?status=failed&queue=night&since=1h…   the filter of `turbo tasks`, by the same names; after: where the page begins
    POST /batch                                       verb (cancel, retry), the same filter, and expected: how many the person was told
    GET  /new                                         the form of a new task
    GET  /asked/ID                                    what a task asks, whole, with its buttons

A batch changes what matches when it runs, in portions, on the server; it is done when it answers. It is refused when far more matches
than the person was told.
"""

import asyncio
import secrets
from datetime import datetime
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from turbo.client.async_client import AsyncClient
from turbo.client.models import Changed, TaskFilter
from turbo.client.paging import START, Cursor, retriable, unfinished
from turbo.client.questions import not_waiting
from turbo.domain.outcome import FailureKind
from turbo.domain.states import TaskState
from turbo.web.actions import changed_said, done
from turbo.web.forms import BadForm, Fields, fields_of, read_moment
from turbo.web.site import Site

SHOWN = 50
COUNTED = 1_000_000
PORTION = 500
"""Tasks changed in one statement."""

GROWN = 1.1
"""A batch may find this many times the tasks that the person was told of, and a few more."""

STATUSES = [state.value for state in TaskState]
NAMES = ("status", "queue", "type", "worker", "failure_kind", "since", "text")


class Chosen:
    """A filter as its URL has it. `query`: the URL's, without the place of the page."""

    def __init__(self, values: "QueryParams | Fields") -> None:
        get = values.exact if isinstance(values, Fields) else values.get
        every = values.every if isinstance(values, Fields) else values.getlist
        given = {name: (get(name) or "").strip() for name in NAMES if name != "status"}
        self.values: dict[str, str] = {name: value for name, value in given.items() if value}
        words = [word.strip() for part in every("status") for word in part.split(",") if word.strip()]
        self.statuses = tuple(dict.fromkeys(words))
        for word in self.statuses:
            if word not in STATUSES:
                raise BadForm(f"status {word[:40]!r}: must be one of {', '.join(STATUSES)}")
        kind = self.values.get("failure_kind")
        if kind is not None and kind not in list(FailureKind):
            raise BadForm(f"failure_kind {kind[:40]!r}: must be one of {', '.join(FailureKind)}")
        if any("\0" in value for value in self.values.values()):
            raise BadForm("a filter has a NUL character, which PostgreSQL cannot store")

    async def criteria(self, site: Site) -> TaskFilter:
        """Raises BadForm for a moment that is none, psycopg.Error."""
        since: datetime | None = None
        if (text := self.values.get("since")) is not None:
            since = await asyncio.to_thread(read_moment, site.settings.dsn, text, ahead=False)
        return TaskFilter(
            statuses=self.statuses or None,
            queue=self.values.get("queue"),
            task_type=self.values.get("type"),
            worker=self.values.get("worker"),
            failure_kind=self.values.get("failure_kind"),
            since=since,
            text=self.values.get("text"),
        )

    @property
    def query(self) -> str:
        pairs = [("status", ",".join(self.statuses))] if self.statuses else []
        return urlencode([*pairs, *self.values.items()])

    def with_status(self, status: str) -> str:
        """The query of the same filter with another status, '' for any."""
        pairs = [("status", status)] if status else []
        return urlencode([*pairs, *self.values.items()])


def routes(site: Site) -> list[Route]:
    async def show(request: Request) -> Response:
        chosen = Chosen(request.query_params)
        criteria = await chosen.criteria(site)
        place = request.query_params.get("after")
        async with site.database.client() as client:
            page = await client.task_page(criteria, Cursor.read(place) if place else START, SHOWN)
        return site.page(
            request,
            "tasks.html",
            chosen=chosen,
            page=page,
            first=not place,
            statuses=STATUSES,
            kinds=list(FailureKind),
        )

    async def count(request: Request) -> Response:
        _, criteria = await _batch(site, Chosen(request.query_params), request.query_params.get("verb", ""))
        async with site.database.client() as client:
            found = await client.task_count(criteria, COUNTED)
        return PlainTextResponse(f"{found}\n")

    async def batch(request: Request) -> Response:
        fields = await fields_of(request)
        verb, criteria = await _batch(site, Chosen(fields), fields.exact("verb") or "")
        expected = fields.whole("expected")
        if expected is None:
            raise BadForm("expected is missing: how many tasks you mean to change")
        async with site.database.client(request.scope.get("turbo.person")) as client:
            found = await client.task_count(criteria, COUNTED)
            if found > expected * GROWN + 10:
                raise BadForm(f"nothing was changed: {found:,} tasks match by now, not {expected:,}; look again")
            changed, seen = await change_all(client, verb, criteria)
        return done(request, fields, changed_said("cancelled" if verb == "cancel" else "retried", seen, changed))

    async def new(request: Request) -> Response:
        return site.page(request, "new.html", key=secrets.token_urlsafe(16))

    async def asked(request: Request) -> Response:
        task_id = request.query_params.get("id") or request.path_params["task_id"]
        async with site.database.client() as client:
            found = await client.questions(task_ids=[task_id], limit=1)
            if not found:
                raise not_waiting(task_id, (await client.get(task_id)).status, None, None)
        return site.page(request, "asked.html", one=found[0])

    return [
        Route("/tasks", show),
        Route("/count", count),
        Route("/batch", batch, methods=["POST"]),
        Route("/new", new),
        Route("/asked/{task_id:path}", asked),
    ]


async def _batch(site: Site, chosen: Chosen, verb: str) -> tuple[str, TaskFilter]:
    """What a batch does, to which tasks: those of the filter that it can be done to. Raises BadForm."""
    criteria = await chosen.criteria(site)
    if verb == "cancel":
        criteria = unfinished(criteria)
    elif verb == "retry":
        criteria = retriable(criteria)
    else:
        raise BadForm(f"verb {verb[:40]!r}: must be cancel or retry")
    if not criteria.statuses:
        which, what = ("finished", "cancelled") if verb == "cancel" else ("unfinished", "retried")
        raise BadForm(f"the filter takes only {which} tasks, and none of them can be {what}")
    return verb, criteria


async def change_all(client: AsyncClient, verb: str, criteria: TaskFilter) -> tuple[list[Changed], int]:
    """What changed, and how many tasks were looked at. Each task once, also where a change moves it behind the place of the page."""
    seen: set[str] = set()
    changed: list[Changed] = []
    place: Cursor | None = START
    while place is not None:
        task_ids, place = await client.task_ids(criteria, place, PORTION)
        fresh = [one for one in task_ids if one not in seen]
        seen.update(fresh)
        if fresh:
            changed += await (client.cancel(fresh) if verb == "cancel" else client.retry(fresh))
    return changed, len(seen)
