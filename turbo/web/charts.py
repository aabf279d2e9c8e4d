"""The charts: throughput, waiting time, cost by day, utilization of accounts.

What they read is bounded: the newest 20,000 tasks that ended, today's usage, and once an hour that of the days before. All pages share
what was read for EVERY_SECONDS.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turbo.client.async_client import AsyncClient
from turbo.client.costs import CostLine, CostsBy
from turbo.client.failures import explained
from turbo.client.fleet_status import WindowLine
from turbo.client.throughput import Throughput
from turbo.web.hub import STATE, Publish
from turbo.web.site import Site
from turbo.web.svg import Chart, Series
from turbo.web.text import age

EVERY_SECONDS = 15.0
PAST_DAYS_SECONDS = 3600.0
DAYS = 14


@dataclass(frozen=True, slots=True)
class Figures:
    """What the charts show. None: this role may not read it."""

    throughput: Throughput | None
    days: Sequence[tuple[str, float]] | None
    windows: Sequence[WindowLine]
    at: datetime


class ChartFigures:
    """Reads at most once in EVERY_SECONDS, for all pages."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._reading = asyncio.Lock()
        self._known: Figures | None = None
        self._until = 0.0
        self._past: dict[str, float] = {}
        self._past_until = 0.0

    async def now(self) -> Figures:
        """Raises psycopg.Error."""
        async with self._reading:
            if self._known is None or time.monotonic() >= self._until:
                async with self._site.database.client() as client:
                    self._known = await self._read(client)
                self._until = time.monotonic() + EVERY_SECONDS
            return self._known

    async def _read(self, client: AsyncClient) -> Figures:
        try:
            ended = await client.throughput()
        except psycopg.errors.InsufficientPrivilege:
            ended = None
        try:
            days = await self._days(client)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            days = None
        return Figures(ended, days, (await client.fleet()).windows, datetime.now(UTC))

    async def _days(self, client: AsyncClient) -> list[tuple[str, float]]:
        """US dollars by day in UTC. Days that are over are read once an hour: results that come late may still add to them."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        first = today - timedelta(days=DAYS - 1)
        if time.monotonic() >= self._past_until:
            self._past = _by_day((await client.costs(CostsBy.DAY, first)).lines)
            self._past_until = time.monotonic() + PAST_DAYS_SECONDS
        else:
            self._past |= _by_day((await client.costs(CostsBy.DAY, today)).lines)
        names = [(first + timedelta(days=number)).strftime("%Y-%m-%d") for number in range(DAYS)]
        return [(name, self._past.get(name, 0.0)) for name in names]


def _by_day(lines: Sequence[CostLine]) -> dict[str, float]:
    return {line.name: line.cost_usd or 0.0 for line in lines}


def charts(figures: Figures) -> list[Chart]:
    drawn: list[Chart] = []
    if figures.throughput is not None:
        drawn += _of_tasks(figures.throughput)
    if figures.days is not None:
        total = sum(cost for _, cost in figures.days)
        drawn.append(
            Chart(
                "cost",
                "Cost by day",
                f"US dollars of each of the last {DAYS} days in UTC; {_dollars(total)} together.",
                [name[5:] for name, _ in figures.days],
                [Series("", "accent", [cost for _, cost in figures.days])],
                _dollars,
            )
        )
    return drawn


def _of_tasks(ended: Throughput) -> list[Chart]:
    intervals = ended.intervals
    labels = [one.at.strftime("%H:%M") for one in intervals]
    completed, failed = sum(one.completed for one in intervals), sum(one.failed for one in intervals)
    cut = ""
    if ended.cut and ended.counted_from is not None:
        cut = f" Only the newest tasks are counted, back to {ended.counted_from:%H:%M}."
    return [
        Chart(
            "throughput",
            "Tasks that ended",
            f"By hour, the last 24 hours in UTC: {completed:,} completed, {failed:,} failed.{cut}",
            labels,
            [
                Series("completed", "good", [one.completed for one in intervals]),
                Series("failed", "bad", [one.failed for one in intervals]),
                Series("cancelled", "soft-fill", [one.cancelled for one in intervals]),
            ],
            _whole,
        ),
        Chart(
            "waiting",
            "Waiting time",
            f"From when a task could run to its start, by the hour in which it ended.{cut}",
            labels,
            [
                Series("half of the tasks, at most", "accent", [one.waited_half for one in intervals]),
                Series("95 of 100, at most", "warn-fill", [one.waited_most for one in intervals]),
            ],
            _seconds,
            lines=True,
        ),
    ]


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.2g}s" if value < 10 else age(value)


def routes(site: Site) -> list[Route]:
    figures = ChartFigures(site)

    def body(found: Figures) -> str:
        return site.fragment("_charts.html", charts=charts(found), windows=found.windows)

    async def show(request: Request) -> Response:
        found = await figures.now()
        return site.page(request, "charts.html", charts=charts(found), windows=found.windows)

    async def events(_: Request) -> Response:
        return site.live(("charts",), poll)

    async def poll(publish: Publish) -> None:
        while True:
            try:
                publish("charts", body(await figures.now()))
                publish(STATE, "")
            except psycopg.Error as error:
                publish(STATE, site.fragment("_away.html", text=explained(error, "web")))
            await asyncio.sleep(EVERY_SECONDS)

    return [Route("/charts", show), Route("/events/charts", events)]
