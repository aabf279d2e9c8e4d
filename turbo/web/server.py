"""Serves the application: uvicorn, on a socket that listens already."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from turbo.web.app import Application
from turbo.web.settings import Settings

STOP_SECONDS = 2
"""How long open pages may take to close."""


class Server(uvicorn.Server):
    """Ends at once with the pages' streams, which have no end of their own. Signals stay those of its caller if `signals` is False."""

    def __init__(self, application: Application, settings: Settings, *, signals: bool = True) -> None:
        super().__init__(
            uvicorn.Config(
                application,
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


async def serve(settings: Settings, listening: socket.socket) -> None:
    """Until a signal."""
    await Server(Application(settings), settings).serve(sockets=[listening])
