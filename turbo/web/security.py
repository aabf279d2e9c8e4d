"""What stands between a request and the pages: whose host it names, who sent it, from where; and the headers of every answer.

421  its Host is not ours: another site's name that leads to this address (DNS rebinding)
401  no sign-in, but for /healthz, /sign-in, /static and /csp-report
403  it would change something, and comes from another site, or the page is read-only
"""

import ipaddress
import logging
from collections.abc import Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turbo.web.settings import Settings
from turbo.web.sign_in import SESSION_SECONDS, SignIns

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "report-uri /csp-report",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every answer. Only Cache-Control may be another one: that of /static."""

OPEN = ("/healthz", "/sign-in", "/csp-report", "/static/")
SAFE = ("GET", "HEAD")

ON_BEHALF_OF_CHARACTERS = 200


class Security:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, sign_ins: SignIns) -> None:
        self._app = app
        self._settings = settings
        self._sign_ins = sign_ins
        web = settings.web
        self._names = {"localhost", "127.0.0.1", "::1", web.host.lower()}
        self._url = urlsplit(web.url) if web.url else None
        self._proxies = [ipaddress.ip_network(one) for one in web.trusted_proxies]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    if name != "Cache-Control" or name not in headers:
                        headers[name] = value
                if self._settings.https:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refusal = self._refusal(request)
        if refusal is not None:
            scope["turbo.refused"] = refusal
        scope["turbo.person"] = self._person(request)
        await self._app(scope, receive, with_headers)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and text. None: the request may pass."""
        if not self._is_ours(request):
            known = self._settings.web.url or f"http://{self._settings.web.host}:{self._settings.web.port}"
            return (
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this page is at {known}; for another name, set web.url in worker.yaml",
            )
        path = request.url.path
        if request.method not in SAFE and path != "/csp-report" and not _same_origin(request.headers):
            return HTTPStatus.FORBIDDEN, "this request came from another site"
        if any(path == one or (one.endswith("/") and path.startswith(one)) for one in OPEN):
            return None
        if not self._sign_ins.signed_in(self.secret(request)):
            return HTTPStatus.UNAUTHORIZED, "sign in first"
        if request.method not in SAFE and self._settings.web.read_only and path != "/sign-out":
            return HTTPStatus.FORBIDDEN, "this page is read-only: turbo web was started with --read-only"
        return None

    def _is_ours(self, request: Request) -> bool:
        """Whether the Host is a name of this page, or the address at which it was reached: neither leads here from another site."""
        try:
            named = urlsplit(f"//{request.headers.get('host', '')}")
            name, port = (named.hostname or "").lower(), named.port
        except ValueError:
            return False
        if self._url is not None and name == self._url.hostname and port == self._url.port:
            return True
        server = request.scope.get("server") or ("", None)
        standard = 443 if request.url.scheme == "https" else 80
        return (name in self._names or name == str(server[0]).lower()) and (port or standard) == server[1]

    def _person(self, request: Request) -> str | None:
        """Who a trusted proxy says it is."""
        named = request.headers.get(self._settings.web.user_header, "").strip()
        if not named or not self._proxies or request.client is None:
            return None
        try:
            address = ipaddress.ip_address(request.client.host)
        except ValueError:
            return None
        return named[:ON_BEHALF_OF_CHARACTERS] if any(address in one for one in self._proxies) else None

    # ── the cookie ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def cookie(self) -> str:
        """Its name. Cookies of several ports of one host are in one jar."""
        return "__Host-turbo" if self._settings.https else f"turbo-{self._settings.web.port}"

    def secret(self, request: Request) -> str:
        """What the browser sent; '' for nothing."""
        try:
            morsel = SimpleCookie(request.headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel is not None else ""

    def keep(self, response: Response, secret: str) -> None:
        """Let the browser keep a session's secret; '' takes it away."""
        response.set_cookie(
            self.cookie,
            secret,
            max_age=SESSION_SECONDS if secret else 0,
            secure=self._settings.https,
            httponly=True,
            samesite="strict",
        )


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Whether the browser says that our own page sent this. A form without a script has the Origin null, for want of a referrer: there,
    and in a request without an Origin, Sec-Fetch-Site counts, which no page can write. A program says it with an Origin."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is None or origin == "null":
        return site is not None
    return urlsplit(origin).netloc == headers.get("host")
