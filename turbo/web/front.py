"""The front page: what needs a person, what is wrong, what runs, and the fleet behind it.

    what runs, with last lines                                     0.9 statements a second
    what needs a person                                            0.9
    problems, queues, accounts, budgets, schedules, hosts          1.1

That is all, however many people look: the page is rendered once for all of them (hub.py). It is asked for only while somebody looks.
What this role may not see is left out, and named at the end of the page.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turbo.client.async_client import AsyncClient
from turbo.client.budget import BudgetLine, MayNotBudget
from turbo.client.failures import explained
from turbo.client.fleet_status import FleetStatus, RunningLine, WorkerLine
from turbo.client.questions import OpenQuestion
from turbo.client.schedule import MayNotSchedule, Schedule
from turbo.web.database import PacedClient
from turbo.web.hub import STATE, Publish
from turbo.web.site import Site

KEY = ("front",)
OFTEN, SLOWLY = 0.9, 1.1
"""Statements a second."""

AGAIN_SECONDS = 3.0
"""After a failure."""

DENIED_SECONDS = 60.0

FIRST_SECONDS = 0.4
"""A page that nobody else has open waits so long for the figures of all tasks. Then it shows what needs a person, and they follow."""

LEAST_SECONDS = 1.0
"""Between two looks at the same."""

T = TypeVar("T")

QUESTIONS, RUNNING, BUDGETS, SCHEDULES = 50, 50, 50, 50
"""Shown; a list has the others."""

SECTIONS = {"asked": "_asked.html", "problems": "_problems.html", "running": "_running.html", "fleet": "_fleet.html"}
"""By the id of its element: its template."""


@dataclass
class HostView:
    """The workers of one host."""

    name: str
    workers: list[WorkerLine] = field(default_factory=list)

    @property
    def running(self) -> int:
        return sum(one.running for one in self.workers if one.live)

    @property
    def slots(self) -> int:
        return sum(one.slots for one in self.workers if one.live)


class Began:
    """When running tasks began, by the web server's clock: kept, so that an age that only grew changes no HTML."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}

    def of(self, lines: list[RunningLine]) -> dict[str, int]:
        """By task id, in Unix seconds."""
        known = {}
        for line in lines:
            key, began = (line.task_id, line.attempt), int(time.time() - (line.seconds or 0.0))
            before = self._known.get(key, began)
            known[key] = before if abs(before - began) <= 2 else began
        self._known = known
        return {task_id: began for (task_id, _), began in known.items()}


class Sight:
    """What this role may see. What it was denied it is asked for again after a while: each time is a line in the server's log."""

    def __init__(self) -> None:
        self._denied: dict[str, float] = {}

    async def of(self, name: str, read: Callable[[], Awaitable[T]]) -> T | None:
        """None: denied."""
        if time.monotonic() < self._denied.get(name, 0.0):
            return None
        try:
            return await read()
        except (psycopg.errors.InsufficientPrivilege, MayNotBudget, MayNotSchedule):
            self._denied[name] = time.monotonic() + DENIED_SECONDS
            return None


async def read_asked(client: AsyncClient, sight: Sight) -> dict[str, object]:
    found = await sight.of("questions", lambda: client.questions(limit=QUESTIONS + 1, whole=False))
    questions: list[OpenQuestion] | None = None if found is None else found[:QUESTIONS]
    return {"questions": questions, "more_questions": found is not None and len(found) > QUESTIONS}


async def read_running(client: AsyncClient, sight: Sight, began: Began) -> dict[str, object]:
    lines = await sight.of("what runs", lambda: client.running(RUNNING + 1))
    return {
        "running": None if lines is None else lines[:RUNNING],
        "more_running": lines is not None and len(lines) > RUNNING,
        "began": began.of(lines or []),
    }


async def read_fleet(client: AsyncClient, sight: Sight) -> dict[str, object]:
    fleet: FleetStatus | None = await sight.of("the fleet", client.live_fleet)
    budgets: list[BudgetLine] | None = await sight.of("budgets", lambda: client.budgets.list(BUDGETS))
    schedules: list[Schedule] | None = await sight.of("schedules", lambda: client.schedules.list(SCHEDULES))
    missing = [
        name for name, found in (("the fleet", fleet), ("budgets", budgets), ("schedules", schedules)) if found is None
    ]
    return {
        "fleet": fleet,
        "problems": [] if fleet is None else fleet.problems,
        "hosts": [] if fleet is None else _hosts(fleet.workers),
        "budgets": budgets or [],
        "schedules": schedules or [],
        "missing": missing,
    }


def _hosts(workers: list[WorkerLine]) -> list[HostView]:
    hosts: dict[str, HostView] = {}
    for one in workers:
        hosts.setdefault(one.host, HostView(one.host)).workers.append(one)
    return [hosts[name] for name in sorted(hosts)]


def routes(site: Site) -> list[Route]:
    async def show(request: Request) -> Response:
        known = site.hub.sections(KEY)
        if all(section in known for section in SECTIONS):
            return site.page(request, "front.html", sections=known)
        async with site.database.client() as client:
            sight = Sight()
            values = await read_asked(client, sight) | await read_running(client, sight, Began())
            fleet = await _soon(read_fleet(client, sight))
        templates = (
            SECTIONS if fleet is not None else {**SECTIONS, "problems": "_counting.html", "fleet": "_nothing.html"}
        )
        sections = {name: site.fragment(template, **values, **(fleet or {})) for name, template in templates.items()}
        return site.page(request, "front.html", sections=sections)

    async def signed_in(_: Request) -> Response:
        return Response(status_code=204)

    async def events(_: Request) -> Response:
        return site.live(KEY, poll)

    async def poll(publish: Publish) -> None:
        began, sight = Began(), Sight()
        await asyncio.gather(
            _keep(site, publish, OFTEN, ("running",), lambda client: read_running(client, sight, began)),
            _keep(site, publish, OFTEN, ("asked",), lambda client: read_asked(client, sight)),
            _keep(site, publish, SLOWLY, ("problems", "fleet"), lambda client: read_fleet(client, sight)),
        )

    return [Route("/", show), Route("/signed-in", signed_in), Route("/events/front", events)]


async def _soon(reading: Awaitable[T]) -> T | None:
    """What is read within FIRST_SECONDS; None: it takes longer."""
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            return await reading
    except TimeoutError:
        return None


Read = Callable[[AsyncClient], Awaitable[dict[str, object]]]


async def _keep(site: Site, publish: Publish, per_second: float, sections: Sequence[str], read: Read) -> None:
    """Ask and publish, again and again. Says it while the database is away, and goes on."""
    client = PacedClient(site.settings.dsn, per_second)
    try:
        while True:
            begun = time.monotonic()
            try:
                values = await read(client)
            except psycopg.Error as error:
                publish(STATE, site.fragment("_away.html", text=explained(error, "web")))
                await client.close()
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            for section in sections:
                publish(section, site.fragment(SECTIONS[section], **values))
            publish(STATE, "")
            await asyncio.sleep(max(0.0, LEAST_SECONDS - (time.monotonic() - begun)))
    finally:
        await client.close()
