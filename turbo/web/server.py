"""Serves the application: uvicorn, on a socket that listens already."""

import contextlib
import resource
import socket
from collections.abc import Iterator

import uvicorn

from turbo.observability.bounded_http import ACCEPTED_AT_ONCE, CONNECTIONS, BoundedConnection
from turbo.web.app import Application
from turbo.web.settings import WebSettings

STOP_SECONDS = 2
"""How long open pages may take to close."""


OPEN_FILES = 4096
"""Asked for when the server starts: an open page holds a connection."""

OTHER_FILES = 64
"""Descriptors kept for the database, files and the log."""


class PageConnection(BoundedConnection):
    """As many as the process has descriptors for."""

    def most(self) -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(CONNECTIONS, soft - OTHER_FILES)


class WebServer(uvicorn.Server):
    """Ends at once with the pages' streams, which have no end of their own. Signals stay those of its caller if `signals` is False."""

    def __init__(self, application: Application, settings: WebSettings, *, signals: bool = True) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=PageConnection,
                backlog=ACCEPTED_AT_ONCE,
                log_level="warning",
                access_log=False,  # its lines have addresses, and those have ids
                server_header=False,
                proxy_headers=False,  # who the person is, security.py decides
                timeout_graceful_shutdown=STOP_SECONDS,
                ssl_certfile=settings.web.certfile,
                ssl_keyfile=settings.web.keyfile,
            )
        )
        self._signals = signals
        self._site = application.site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._site.hub.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if self._signals:
            with super().capture_signals():
                yield
        else:
            yield


async def serve(settings: WebSettings, listening: socket.socket) -> None:
    """Until a signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    await WebServer(Application(settings), settings).serve(sockets=[listening])
