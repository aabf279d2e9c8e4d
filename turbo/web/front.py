"""The front page: the fleet."""

import asyncio

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turbo.client.failures import explained
from turbo.client.fleet_status import FleetStatus
from turbo.web.database import WebClient
from turbo.web.hub import STATE, Publish
from turbo.web.site import Site

EVERY_SECONDS = 10.0


def routes(site: Site) -> list[Route]:
    async def show(request: Request) -> Response:
        async with site.database.client() as client:
            return site.page(request, "front.html", fleet=await client.fleet())

    async def signed_in(_: Request) -> Response:
        return Response(status_code=204)

    async def events(_: Request) -> Response:
        return site.live(("front",), poll)

    async def poll(publish: Publish) -> None:
        client = WebClient(site.settings.dsn)  # connects with the first statement, and again after an outage
        try:
            while True:
                try:
                    fleet: FleetStatus = await client.fleet()
                except psycopg.Error as error:
                    publish(STATE, site.fragment("_away.html", text=explained(error, "web")))
                else:
                    publish("fleet", site.fragment("_fleet.html", fleet=fleet))
                    publish(STATE, "")
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            await client.close()

    return [Route("/", show), Route("/signed-in", signed_in), Route("/events/front", events)]
