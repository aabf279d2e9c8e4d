"""The worker's HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for process supervisors.

    /metrics   the registry, read from memory; never waits for the database
    /healthz   200 while the process works; 503 with the reason once one of its services has crashed
    /readyz    200 while the worker claims; 503 with the reasons while it does not (no database, draining, paused)

It is up before the database answers: a worker that waits for the database is healthy but not ready. Plain HTTP or
TLS, with client certificates if configured. What its clients can take up is bounded (turbo.observability.http_server).
"""

import asyncio
import errno
import ipaddress
import logging
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, make_wsgi_app

from turbo.observability.http_server import HttpServer, Limits, Request, Response
from turbo.runtime.service import Crashed

log = logging.getLogger(__name__)

HealthProblems = Callable[[], Iterable[str]]
"""The current problems, one sentence each; empty if all is well. Called from the endpoint's thread."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the endpoint. With `client_ca`, clients must present a certificate signed by it."""

    certfile: str
    keyfile: str
    client_ca: str | None = None


def _no_problems() -> Iterable[str]:
    return ()


CLOSE_IT = "set metrics.tls with client_ca, or listen on 127.0.0.1"
"""The remedy for an exposed page."""


def exposed(host: str, client_ca: object) -> str | None:
    """What it means that whoever reaches this machine can read the page; None if a certificate is asked for (`client_ca`),
    or if only this machine can connect."""
    if client_ca is not None:
        return None
    try:
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return None
    except ValueError:  # a name, or "" for every address
        pass
    return (
        f"metrics.host is {host or 'empty'}: every machine that reaches this one can read the metrics page, with the names of "
        "queues and accounts, models and costs"
    )


class Endpoint:
    """A Service (turbo.runtime.service) that answers from a thread. `address`: `host:port`, once started."""

    name = "metrics endpoint"

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: TlsFiles | None = None,
        *,
        unhealthy: HealthProblems = _no_problems,
        unready: HealthProblems = _no_problems,
        limits: Limits | None = None,
    ) -> None:
        """`port` 0: a free one."""
        self._metrics = make_wsgi_app(registry)
        self._host = host
        self._port = port
        self._tls = tls
        self._unhealthy = unhealthy
        self._unready = unready
        self._limits = limits
        self._server: HttpServer | None = None
        self._context: ssl.SSLContext | None = None
        self.address: str | None = None
        self.started = asyncio.Event()

    def start(self, _crashed: Crashed) -> None:
        """See Service. Raises OSError if the address is taken or the TLS files cannot be read."""
        self._context = None if self._tls is None else _context(self._tls)
        server = HttpServer(self._answer, self._context, self._limits)
        try:
            port = server.start(self._host, self._port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise OSError(
                f"the metrics endpoint cannot listen on {self._host}:{self._port}: {error.strerror}; "
                "use port 0 for a free one"
            ) from None
        self._server = server
        self.address = f"{self._host}:{port}"
        self.started.set()
        log.info("metrics on http%s://%s/metrics", "s" if self._tls else "", self.address)
        if warning := exposed(self._host, self._tls and self._tls.client_ca):
            log.warning("%s; %s", warning, CLOSE_IT)

    def reload(self) -> str:
        """Use the certificate and the key as they are on disk now, for connections from now on. Returns what came of it,
        for a log; empty without TLS. Files that do not fit together change nothing."""
        tls, context = self._tls, self._context
        if tls is None or context is None:
            return ""
        try:
            for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):  # the first one is a trial
                each.load_cert_chain(tls.certfile, tls.keyfile)
        except OSError as error:
            return f"{tls.certfile} and {tls.keyfile} cannot be used, so the old ones are: {error.strerror or error}"
        return f"read {tls.certfile} again"

    async def stop(self) -> None:
        """See Service."""
        if self._server is not None:
            server, self._server = self._server, None
            await asyncio.to_thread(server.stop)

    def _answer(self, request: Request) -> Response:
        if request.path in ("/", "/metrics"):
            return self._page(request)
        if request.path == "/healthz":
            return _report(self._unhealthy())
        if request.path == "/readyz":
            return _report(self._unready())
        return _text("404 Not Found", "try /metrics, /healthz or /readyz")

    def _page(self, request: Request) -> Response:
        """The registry, in the format and the encoding that the client asks for; as plain text if that cannot be read."""
        try:
            return self._rendered(request, request.headers.get("accept", ""))
        except Exception:  # of the library, for instance about a version in `accept` that is none
            return self._rendered(request, "")

    def _rendered(self, request: Request, accept: str) -> Response:
        """By prometheus-client's WSGI application."""
        environ = {
            "REQUEST_METHOD": "GET" if request.method == "HEAD" else request.method,
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": accept,
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        head: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        body = b"".join(self._metrics(environ, lambda status, headers: head.append((status, tuple(headers)))))
        return Response(*head[0], body)


def _context(tls: TlsFiles) -> ssl.SSLContext:
    """Raises OSError if a file cannot be read, or is not what it should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certfile, tls.keyfile)
    return context


def _report(problems: Iterable[str]) -> Response:
    found = list(problems)
    return _text("503 Service Unavailable" if found else "200 OK", "\n".join(found) or "ok")


def _text(status: str, text: str) -> Response:
    headers = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))
    return Response(status, headers, f"{text}\n".encode())
