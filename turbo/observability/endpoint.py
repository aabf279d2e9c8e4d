"""The worker's HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for process supervisors.

    /metrics   the registry, read from memory; never waits for the database
    /healthz   200 while the process works; 503 with the reason once one of its services has crashed
    /readyz    200 while the worker claims; 503 with the reasons while it does not (no database, draining, paused)

It is up before the database answers: a worker that waits for the database is healthy but not ready. Plain HTTP or
TLS, with client certificates if configured (prometheus-client's server does both).
"""

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from turbo.runtime.service import Crashed

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

HealthProblems = Callable[[], Iterable[str]]
"""The current problems, one sentence each; empty if all is well. Called from the endpoint's threads."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the endpoint. With `client_ca`, clients must present a certificate signed by it."""

    certfile: str
    keyfile: str
    client_ca: str | None = None


def _no_problems() -> Iterable[str]:
    return ()


class Endpoint:
    """A Service (turbo.runtime.service) that answers from threads. `address`: `host:port`, once started."""

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
    ) -> None:
        """`port` 0: a free one."""
        self._registry = registry
        self._host = host
        self._port = port
        self._tls = tls
        self._unhealthy = unhealthy
        self._unready = unready
        self._server: tuple[WSGIServer, Thread] | None = None
        self.address: str | None = None
        self.started = asyncio.Event()

    def start(self, _crashed: Crashed) -> None:
        """See Service. Raises OSError if the address is taken or the TLS files cannot be read."""
        tls = self._tls
        try:
            server, thread = start_http_server(
                self._port,
                addr=self._host,
                registry=self._registry,
                certfile=tls.certfile if tls else None,
                keyfile=tls.keyfile if tls else None,
                client_cafile=tls.client_ca if tls else None,
                client_auth_required=bool(tls and tls.client_ca),
            )
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise OSError(
                f"the metrics endpoint cannot listen on {self._host}:{self._port}: {error.strerror}; "
                "use port 0 for a free one"
            ) from None
        metrics = server.get_app()
        assert metrics is not None

        def route(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path in ("/", "/metrics"):
                return metrics(environ, start_response)
            if path == "/healthz":
                return _report(start_response, self._unhealthy())
            if path == "/readyz":
                return _report(start_response, self._unready())
            return _answer(start_response, "404 Not Found", "try /metrics, /healthz or /readyz")

        server.set_app(route)
        self._server = (server, thread)
        self.address = f"{self._host}:{int(server.server_port)}"
        self.started.set()
        log.info("metrics on http%s://%s/metrics", "s" if tls else "", self.address)

    def reload(self) -> str:
        """Use the certificate and the key as they are on disk now, for connections from now on. Returns what came of it,
        for a log; empty without TLS. Files that do not fit together change nothing."""
        tls, server = self._tls, self._server
        if tls is None or server is None:
            return ""
        listening = server[0].socket
        assert isinstance(listening, ssl.SSLSocket)
        try:
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), listening.context):  # the first one is a trial
                context.load_cert_chain(tls.certfile, tls.keyfile)
        except OSError as error:
            return f"{tls.certfile} and {tls.keyfile} cannot be used, so the old ones are: {error.strerror or error}"
        return f"read {tls.certfile} again"

    async def stop(self) -> None:
        """See Service."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            await asyncio.to_thread(_end, server, thread)


def _end(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


def _report(start_response: "StartResponse", problems: Iterable[str]) -> Iterable[bytes]:
    found = list(problems)
    return _answer(start_response, "503 Service Unavailable" if found else "200 OK", "\n".join(found) or "ok")


def _answer(start_response: "StartResponse", status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [f"{text}\n".encode()]
