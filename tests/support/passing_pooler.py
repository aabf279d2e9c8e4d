"""A pooler in transaction mode that passes on the key of a real backend, as some do; PgBouncer makes keys of its own.

    client ──▶ one of two backends of the server, the other one after each transaction

Each client has two of its own, so a test sees what is left on the backend that another client would get next. For a server that
lets everybody in.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class PassingPooler:
    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listen = socket.create_server(("127.0.0.1", 0))
        self.port = self._listen.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listen, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listen.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            startup = self._startup(client)
            backends = [self._backend(startup) for _ in range(2)]
            client.sendall(backends[0][1])  # with the real key
            while True:
                backend = backends[0][0]
                status = b""
                while status != b"I":
                    kind, message = _message(client)
                    backend.sendall(message)
                    if kind in b"QS":
                        status = _answer(backend, client)
                    elif kind == b"X":
                        return
                backends.reverse()

    def _startup(self, client: socket.socket) -> bytes:
        length = _exactly(client, 4)
        text = length + _exactly(client, struct.unpack("!i", length)[0] - 4)
        if struct.unpack("!i", text[4:8])[0] in (80877103, 80877104):  # TLS, GSS
            client.sendall(b"N")
            return self._startup(client)
        return text

    def _backend(self, startup: bytes) -> tuple[socket.socket, bytes]:
        backend = socket.create_connection(self._target)
        self._open.append(backend)
        backend.sendall(startup)
        said = b""
        while True:
            kind, message = _message(backend)
            said += message
            if kind == b"Z":
                return backend, said
            if kind == b"E":
                raise EOFError


def _answer(backend: socket.socket, client: socket.socket) -> bytes:
    """Pass on an answer. Returns the state of the transaction."""
    while True:
        kind, message = _message(backend)
        client.sendall(message)
        if kind == b"Z":
            return message[-1:]


def _message(one: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(one, 5)
    return head[:1], head + _exactly(one, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(one: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        chunk = one.recv(count - len(found))
        if not chunk:
            raise EOFError
        found += chunk
    return found


@contextlib.contextmanager
def passing_pooler(host: str, port: int) -> Iterator[PassingPooler]:
    pooler = PassingPooler(host, port)
    try:
        yield pooler
    finally:
        pooler.close()
