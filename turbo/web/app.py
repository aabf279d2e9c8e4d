"""The application of `turbo web`.

    request ──▶ Security (security.py): host, origin, sign-in, headers ──▶ Guard: its refusals and all errors, in words ──▶ a page

How a page is added
    1. A module turbo/web/<name>.py with `def routes(site: Site) -> list[Route]`, and its name in PAGES below. A handler is
       `async def show(request: Request) -> Response`; it asks the database through `async with site.database.client() as client:`
       (an AsyncClient: its operations, or an operation of yours in turbo/client), and answers `site.page(request, "x.html", …)`.
       It lets psycopg.Error, LookupError and ValueError through: Guard says them in words, as the CLI does.
    2. A template turbo/web/templates/x.html, `{% extends "base.html" %}`, with blocks title and main. Every `{{ value }}` is escaped
       and made visible (text.py). Links to tasks: `{{ task_url(id) }}`; `task_url(id, "diff")` is /diff/ID, for a page about it.
    3. Live sections: an element with `id` and `data-live`, around `{% include %}` of a fragment's template; the page's <main> has
       `data-events="/events/x"`. That route answers `site.live(("x", id), poller)`; the poller publishes
       `publish("element-id", site.fragment("_x.html", …))` (hub.py; front.py is an example). The script (static/turbo.js) changes only
       what differs: give each child that comes, goes or holds a form a `data-key`. What a person types in is left alone.
    4. Forms post to an action (actions.py) with a hidden `back` (a path); the server answers 303 back to it, with a message.
       No inline script or style: the Content-Security-Policy lets none run.
Tests: tests/support/web.py starts the application in this process (`serving`), signs in, and opens a Chromium.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files

import psycopg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turbo.client.failures import explained
from turbo.client.questions import MayNotAnswer
from turbo.web import actions, charts, front, task_page, tasks
from turbo.web.security import Security
from turbo.web.settings import Settings
from turbo.web.site import Site

log = logging.getLogger(__name__)

PAGES: tuple[Callable[[Site], list[Route]], ...] = (
    front.routes,
    actions.routes,
    tasks.routes,
    task_page.routes,
    charts.routes,
)

COMMANDS = {"": "status", "asked": "questions", "batch": "cancel", "count": "tasks", "charts": "costs"}
"""Pages that are named unlike the command whose privileges they need."""

REPORTS_KEPT = 100
REPORT_BYTES = 10_000


class Application:
    """The ASGI application, and what belongs to it."""

    def __init__(self, settings: Settings) -> None:
        self.site = Site(settings)
        self.csp_reports: list[str] = []
        """The last violations that browsers reported: none, unless something is wrong with a page."""
        routes: list[BaseRoute] = [
            Route("/healthz", self._healthz),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/csp-report", self._csp_report, methods=["POST"]),
            Mount("/static", StaticFiles(directory=str(files("turbo.web") / "static"))),
            *(route for page in PAGES for route in page(self.site)),
        ]
        inner = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            middleware=[Middleware(Guard, site=self.site)],
            exception_handlers={HTTPException: self._http_error},
        )
        self._security = Security(inner, settings, self.site.sign_ins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._security(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.site.close()

    async def _healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _sign_in(self, request: Request) -> Response:
        if request.method == "GET":
            return self.site.page(request, "sign_in.html", HTTPStatus.OK)
        key = str((await request.form(max_fields=5, max_files=0)).get("key", ""))
        secret = self.site.sign_ins.sign_in(key)
        if secret is None:
            return PlainTextResponse(
                "this link was used already, or is older than 15 minutes; turbo web --link prints a new one\n",
                HTTPStatus.UNAUTHORIZED,
            )
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        self._security.keep(response, secret)
        return response

    async def _sign_out(self, request: Request) -> Response:
        self.site.sign_ins.sign_out(self._security.secret(request))
        response = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
        self._security.keep(response, "")
        return response

    async def _csp_report(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > REPORT_BYTES:
                break
        report = body[:REPORT_BYTES].decode("utf-8", "replace")
        self.csp_reports = [*self.csp_reports, report][-REPORTS_KEPT:]
        log.warning("a browser refused what a page did not allow: %s", report[:1000])
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        return trouble(self.site, request, status, HTTPStatus(status).phrase)


class Guard:
    """Answers what Security refused, and every error of a page: in words, never with a traceback."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        refused = scope.get("turbo.refused")
        first = request.url.path.strip("/").split("/")[0]
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if refused is None:
                await self._app(scope, receive, noted)
                return
            status, text = refused
        except LookupError as error:
            status, text = HTTPStatus.NOT_FOUND, _said(error)
        except MayNotAnswer as error:
            status, text = HTTPStatus.FORBIDDEN, _said(error)
        except ValueError as error:
            status, text = HTTPStatus.BAD_REQUEST, _said(error)
        except psycopg.errors.InsufficientPrivilege as error:
            status, text = HTTPStatus.FORBIDDEN, explained(error, COMMANDS.get(first, first))
        except psycopg.OperationalError as error:
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, explained(error, "web")
        except psycopg.Error as error:
            status, text = HTTPStatus.BAD_REQUEST, explained(error, "web")
        except Exception:
            log.exception("a page failed: %s %s", request.method, request.url.path)
            status, text = HTTPStatus.INTERNAL_SERVER_ERROR, "this is a defect of turbo web: see its log"
        if not started:
            await trouble(self._site, request, status, text)(scope, receive, send)


def trouble(site: Site, request: Request, status: int, text: str) -> Response:
    """A page that says what is wrong; for a program, and for the script's own requests, one line."""
    if (
        status == HTTPStatus.UNAUTHORIZED
        and request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
    ):
        return site.page(request, "sign_in.html", status)
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(f"{text}\n", status)
    return site.page(request, "trouble.html", status, text=text, phrase=HTTPStatus(status).phrase, code=int(status))


def _said(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
