"""The worker's HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for whoever watches processes.

    /metrics   the registry, read from memory; never waits for the database
    /healthz   200 while the process works; 503 with the reason once one of its loops has crashed
    /readyz    200 while the worker claims; 503 with the reasons while it does not (no database, draining, paused)

Up before the database answers: a worker that waits for it is healthy and not ready. Plain or TLS, with client
certificates where configured (the library's server does both).
"""

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Trouble = Callable[[], Iterable[str]]
"""What is wrong now, a sentence each; nothing when all is well. Called from the endpoint's threads."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the endpoint. With `client_ca`, callers must present a certificate it signed."""

    certfile: str
    keyfile: str
    client_ca: str | None = None


def _nothing() -> Iterable[str]:
    return ()


class Endpoint:
    def __init__(
        self, registry: CollectorRegistry, *, unhealthy: Trouble = _nothing, unready: Trouble = _nothing
    ) -> None:
        self._registry = registry
        self._unhealthy = unhealthy
        self._unready = unready
        self._server: tuple[WSGIServer, Thread] | None = None

    def serve(self, host: str, port: int, tls: TlsFiles | None = None) -> int:
        """Start in a thread. Returns the port it got. Raises OSError when the address is taken or the TLS files cannot be read."""
        try:
            server, thread = start_http_server(
                port,
                addr=host,
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
                f"the metrics endpoint cannot listen on {host}:{port}: {error.strerror}; port 0 takes a free one"
            ) from None
        metrics = server.get_app()
        assert metrics is not None

        def route(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path in ("/", "/metrics"):
                return metrics(environ, start_response)
            if path == "/healthz":
                return _say(start_response, self._unhealthy())
            if path == "/readyz":
                return _say(start_response, self._unready())
            return _answer(start_response, "404 Not Found", "here are /metrics, /healthz and /readyz")

        server.set_app(route)
        self._server = (server, thread)
        return int(server.server_port)

    def close(self) -> None:
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)


def _say(start_response: "StartResponse", trouble: Iterable[str]) -> Iterable[bytes]:
    said = list(trouble)
    return _answer(start_response, "503 Service Unavailable" if said else "200 OK", "\n".join(said) or "ok")


def _answer(start_response: "StartResponse", status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [f"{text}\n".encode()]
