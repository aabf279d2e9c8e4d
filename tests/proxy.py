"""A TCP proxy that loses an answer on purpose: what comes from the server with a given text in it is swallowed, and the
connection cut. The client cannot know whether its statement was carried out."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listen = socket.create_server(("127.0.0.1", 0))
        self.port = self._listen.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self.swallow: bytes | None = None
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in [self._listen, *self._sockets]:
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listen.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the server is away: so is what stands for it
                    client.close()
                    continue
                self._sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self.swallow is not None and self.swallow in data:
                    self.swallow = None
                    self.swallowed += 1
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    one = Proxy(host, port)
    try:
        yield one
    finally:
        one.close()
