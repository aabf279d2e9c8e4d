"""One POST over HTTP/1.1, to an address that was judged before (turbo.events.public_address).

    name ──looked up once──▶ addresses, judged ──▶ connect to one of them ──TLS: the certificate is the name's──▶ POST ──▶ status

No redirect is followed, no proxy is used, nothing is kept open, and of the answer only the status and the beginning of the body are
read. The caller's time limit ends any of it.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from turbo.events.public_address import addresses_of

HEAD_BYTES = 32 * 1024
BODY_BYTES = 2048
MOST_INTERIM = 5
"""Answers like 103 Early Hints, before the one that counts."""


class PostFailed(OSError):
    """What came back is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: the beginning of its text. `location`: where a redirect would lead."""

    status: int
    reason: str = ""
    body: str = ""
    location: str = ""


async def post(url: str, body: bytes, headers: Mapping[str, str], *, private: bool, tls: ssl.SSLContext) -> Answer:
    """Send it once. Raises OSError (AddressRefused, PostFailed, ssl.SSLError), ValueError for no address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    error: OSError = PostFailed(f"{host} has no address")
    for address in await addresses_of(host, port, private=private):
        try:
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls if secure else None, server_hostname=host if secure else None, limit=HEAD_BYTES
            )
        except OSError as problem:
            error = problem
            continue
        try:
            return await _exchange(reader, writer, _request(url, host, body, headers), body)
        finally:
            writer.transport.abort()
    raise error


def _request(url: str, host: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    shown_host = f"[{host}]" if ":" in host else host
    lines = {
        "Host": f"{shown_host}:{parts.port}" if parts.port is not None else shown_host,
        "User-Agent": "turbo",
        "Accept": "*/*",
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers,
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items())]
    if any(char in line for line in head for char in "\r\n\0"):
        raise PostFailed("a header has a line break")
    return ("\r\n".join(head) + "\r\n\r\n").encode("ascii")


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> Answer:
    writer.write(head + body)
    # A receiver may answer, and close, before it has read everything: its answer counts all the same.
    sending = asyncio.ensure_future(writer.drain())
    try:
        for _ in range(MOST_INTERIM):
            answer = await _head(reader)
            if answer.status >= 200:
                said = b"" if answer.status == 204 else await reader.read(BODY_BYTES)
                return Answer(answer.status, answer.reason, said.decode("utf-8", "replace"), answer.location)
        raise PostFailed("more interim answers than any server sends")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> Answer:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise PostFailed("the connection ended before an answer") from error
    except asyncio.LimitOverrunError as error:
        raise PostFailed("the answer's headers are too long") from error
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not status.isdecimal() or len(status) != 3:
        raise PostFailed("the answer is not HTTP")
    location = next((line[9:].strip() for line in lines if line[:9].lower() == "location:"), "")
    return Answer(int(status), reason.strip(), location=location)
