"""`turbo web` in this process, a client of it, and a Chromium.

with serving(dsn, tmp_path) as web:                      # a server in a thread, on a free port
    web.get("/").status                                  # signed in; web.get("/", cookie="") is not
    with chromium() as browser:                          # one for a module: it takes a second to start
        page = web.open(browser, "/tasks")               # signed in, its errors are collected in web.errors
        page.get_by_role("button", name="Approve").click()
    web.quiet()                                          # no script error, no CSP violation, no traceback
"""

import asyncio
import contextlib
import faulthandler
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from turbo.client.async_driver import AsyncDriver
from turbo.config.web import WebSection
from turbo.web.app import Application
from turbo.web.server import WebServer
from turbo.web.settings import WebSettings

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).parents[1] / ".tools/node_modules/axe-core/axe.min.js"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass
class Web:
    """A running page. `cookie`: of a signed-in browser. `errors`: what its browsers reported."""

    application: Application
    port: int
    cookie: str = ""
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, cookie: str | None = None, **headers: str) -> Answer:
        return self.send("GET", path, None, cookie=cookie, **headers)

    def post(
        self, path: str, fields: Mapping[str, object] | None = None, *, cookie: str | None = None, **headers: str
    ) -> Answer:
        """As the page's own form, unless `headers` say otherwise."""
        given = {"Origin": self.url, **_named(headers)}
        return self.send("POST", path, urlencode(fields or {}, doseq=True), cookie=cookie, **given)

    def send(self, method: str, path: str, body: str | None, *, cookie: str | None = None, **headers: str) -> Answer:
        """`headers`: `Sec_Fetch_Site` is Sec-Fetch-Site; one with the value '' is not sent."""
        cookie = self.cookie if cookie is None else cookie
        given = {"Accept": "text/html", **({"Cookie": cookie} if cookie else {}), **_named(headers)}
        if body is not None:
            given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())

    def sign_in(self) -> str:
        """A cookie, by a new link."""
        key = self.application.site.sign_ins.new_link()
        answer = self.post("/sign-in", {"key": key}, cookie="")
        assert answer.status == 303, answer
        return answer.headers["set-cookie"].split(";")[0]

    def open(self, browser: Browser, path: str = "/", **context: object) -> Page:
        """A page of a new browser context, signed in. `context`: viewport, color_scheme, …"""
        made = browser.new_context(**context)  # type: ignore[arg-type]
        name, _, value = self.cookie.partition("=")
        made.add_cookies([{"name": name, "value": value, "url": self.url, "httpOnly": True, "sameSite": "Strict"}])
        page = made.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.goto(self.url + path)
        return page

    def quiet(self) -> None:
        """Raises AssertionError if a script failed, or a browser refused what a page did not allow; once for each."""
        errors, self.errors = self.errors, []
        refused, self.application.csp_reports = self.application.csp_reports, []
        assert not errors and not refused, [*errors, *refused]  # noqa: PT018 - both, whatever fails


class StatementCounter:
    """When this process's asynchronous clients asked the database, as time.monotonic() has it. It counts from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moments: list[float] = []
        usual = AsyncDriver._execute

        async def counted(driver: AsyncDriver, *arguments: Any, **more: Any) -> object:
            self.moments.append(time.monotonic())
            return await usual(driver, *arguments, **more)

        monkeypatch.setattr(AsyncDriver, "_execute", counted)


@contextlib.contextmanager
def serving(dsn: str, directory: Path, **web: object) -> Iterator[Web]:
    """`web`: keys of the section `web:`."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    settings = WebSettings(dsn, directory / "web", WebSection(**{"port": port, **web}))
    started: threading.Event = threading.Event()
    running: list[Web] = []
    server: list[WebServer] = []

    async def serve() -> None:
        application = Application(settings)
        running.append(Web(application, port))
        server.append(WebServer(application, settings, signals=False))
        work = asyncio.ensure_future(server[0].serve(sockets=[listening]))
        started.set()
        await work

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="turbo web", daemon=True)
    thread.start()
    assert started.wait(30)
    running[0].cookie = running[0].sign_in()
    try:
        yield running[0]
    finally:
        server[0].should_exit = True
        thread.join(30)
        if thread.is_alive():
            faulthandler.dump_traceback(all_threads=True)
        assert not thread.is_alive(), "the server does not end: the threads' stacks are on stderr"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, driven by Playwright."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def serious(page: Page) -> list[str]:
    """What axe finds on a page that keeps people out: serious and critical violations, each with its first element."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
