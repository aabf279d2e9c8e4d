"""A small HTTP server for pages that are read from memory, with bounds on everything its clients can take.

    accepted ──TLS handshake──▶ request read ──▶ answered ──▶ closed
        └── too slow, too long, or the oldest of too many ──▶ closed

It has a thread and an event loop of its own, so it answers while the worker's loop stands still. A connection carries one
request: there is no keep-alive and no pipelining. The bounds protect the worker, which needs its descriptors for programs,
sessions and files. asyncio does the transports, TLS and time limits, and http.client reads the headers. The servers that
could be had as a library lack one of the bounds: uvicorn waits for a request line for ever, waitress has no TLS, and
cheroot accepts nothing while one client delays its handshake.
"""

import asyncio
import http.client
import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

BACKLOG = 128
ACCEPT_AGAIN_SECONDS = 0.1
"""After an accept that failed: the process has no descriptor left."""

LOG_SECONDS = 60.0
"""Between two log lines about pages that failed."""

STOP_SECONDS = 2.0
"""How long open connections may take to close when the server stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`connections`: open at once. `head_bytes`: of the request line with its headers. `head_seconds`: until they have
    arrived, the TLS handshake included. `answer_seconds`: until the client has read its answer. `grace_seconds`: what even
    the oldest connection has before it is closed for a new one."""

    connections: int = 32
    head_bytes: int = 16_384
    head_seconds: float = 5.0
    answer_seconds: float = 10.0
    grace_seconds: float = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """`status`: code and reason, such as `200 OK`."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class BadRequest(Exception):
    """The request cannot be read. The message is the status of the answer."""


@dataclass(slots=True, eq=False)
class _Connection:
    since: float  # of the loop's clock
    answering: bool = False
    task: "asyncio.Task[None] | None" = None


class HttpServer:
    def __init__(
        self,
        answer: Callable[[Request], Response],
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`answer` is called in the server's thread, for one request at a time: it must not wait."""
        self._answer = answer
        self._tls = tls
        self._limits = limits or Limits()
        self._open: set[_Connection] = set()
        self._listening: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="turbo-http", daemon=True)
        self._running = threading.Event()
        self._logged_at = float("-inf")

    def start(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError if the address cannot be had."""
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        listening.setblocking(False)
        self._listening = listening
        self._thread.start()
        self._running.wait()
        return int(listening.getsockname()[1])

    def stop(self) -> None:
        """Close every connection. Blocks for up to STOP_SECONDS and a little; what clients do cannot prolong it."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.is_alive():
            self._thread.join(2 * STOP_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        assert self._listening is not None
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        accepting = asyncio.create_task(self._accept(self._listening))
        self._running.set()
        await self._stopping.wait()
        accepting.cancel()
        tasks = [connection.task for connection in self._open if connection.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait([accepting, *tasks], timeout=STOP_SECONDS)
        self._listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            connection = _Connection(loop.time())
            self._open.add(connection)
            connection.task = loop.create_task(self._converse(connection, accepted))
            del accepted
            await asyncio.sleep(0)  # a flood of connections must not keep the others from their turn
            if len(self._open) > self._limits.connections:
                await self._close_oldest()

    async def _close_oldest(self) -> None:
        """Make room: those whose request has not arrived go first."""
        oldest = min(self._open, key=lambda connection: (connection.answering, connection.since))
        assert oldest.task is not None
        left = oldest.since + self._limits.grace_seconds - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.wait({oldest.task}, timeout=left)
        if len(self._open) > self._limits.connections:
            oldest.task.cancel()
            await asyncio.wait({oldest.task})

    async def _converse(self, connection: _Connection, accepted: socket.socket) -> None:
        """One request and its answer. Whatever the client does, the descriptor is free soon after this returns."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limits.head_bytes, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    accepted,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._limits.head_seconds if self._tls else None,
                    ssl_shutdown_timeout=1.0 if self._tls else None,
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                head, bad = await self._head(reader)
            connection.answering = True
            async with asyncio.timeout(self._limits.answer_seconds):
                writer.write(self._response(head, bad))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError):  # it went away, was too slow, or spoke no TLS; TimeoutError is an OSError
            pass
        finally:
            self._open.discard(connection)
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    async def _head(self, reader: asyncio.StreamReader) -> tuple[bytes, BadRequest | None]:
        """The request line and the headers, or why they are not read. Raises EOFError if the client leaves before."""
        lines: list[bytes] = []
        left = self._limits.head_bytes
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                return b"", BadRequest("431 Request Header Fields Too Large")
            left -= len(line)
            if left < 0:
                return b"", BadRequest("431 Request Header Fields Too Large")
            if not line.endswith(b"\n"):
                raise EOFError
            if line in (b"\r\n", b"\n"):
                if lines:
                    return b"".join([*lines, b"\r\n"]), None
                continue  # empty lines before a request are allowed
            lines.append(line)

    def _response(self, head: bytes, bad: BadRequest | None) -> bytes:
        method = "GET"
        try:
            if bad is not None:
                raise bad
            request = parse(head)
            method = request.method
            response = self._answer(request)
        except BadRequest as error:
            response = Response(str(error), (), b"")
        except Exception:
            self._log_failure()
            response = Response("500 Internal Server Error", (), b"")
        headers = [*response.headers, ("Content-Length", str(len(response.body))), ("Connection", "close")]
        lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + (b"" if method == "HEAD" else response.body)

    def _log_failure(self) -> None:
        """Whoever can connect may ask for a page that fails as often as they like."""
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.exception("a page of the metrics endpoint failed")


def parse(head: bytes) -> Request:
    """A request line with headers. Raises BadRequest."""
    file = io.BytesIO(head)
    words = file.readline().decode("latin-1").split()
    try:
        method, target, version = words
        if not version.startswith("HTTP/1."):
            raise BadRequest("505 HTTP Version Not Supported")
        url = urlsplit(target)
        headers = http.client.parse_headers(file)
    except (ValueError, http.client.HTTPException):
        raise BadRequest("400 Bad Request") from None
    return Request(method, unquote(url.path), url.query, {name.lower(): value for name, value in headers.items()})
