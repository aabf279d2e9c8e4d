"""A TCP proxy that does to connections what networks do: loses an answer, delays, drops, leaves half open, cuts.

    pass       as it comes                     delay      every piece waits `delay` seconds, both ways
    drop       bytes vanish, nothing closes    half_open  the server's side is closed, the client is not told

A connection that has lost bytes never passes any again, whatever the mode is later. `swallow` loses one answer: what
comes from the server with that text in it vanishes, and its connection is cut; the client cannot know whether its
statement was carried out.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Mode = Literal["pass", "delay", "drop", "half_open"]


@dataclass(eq=False)
class Pair:
    client: socket.socket
    server: socket.socket
    dead: bool = False  # it has lost bytes

    def close(self, *, reset: bool = False) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                one.close()


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listen = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listen.getsockname()[1]
        self._pairs: list[Pair] = []
        self.mode: Mode = "pass"
        self.delay = 0.1
        self.swallow: bytes | None = None
        self.swallowed = 0
        self.lost_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listen.shutdown(socket.SHUT_RDWR)
        self._listen.close()
        self.cut()

    def cut(self) -> int:
        """Reset every connection. How many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close(reset=True)
        return len(pairs)

    def turn_to(self, port: int) -> None:
        """From now on connections go there. Those that are open are reset."""
        self._target = (self._target[0], port)
        self.cut()

    def half_open(self) -> int:
        """Forget every connection: the server's side closes, the client's stays as it is. New ones pass."""
        pairs = [pair for pair in self._pairs if not pair.dead]
        for pair in pairs:
            pair.dead = True
            with contextlib.suppress(OSError):
                pair.server.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listen.accept()
                try:
                    pair = Pair(client, socket.create_connection(self._target))
                except OSError:  # the server is away: so is what stands for it
                    client.close()
                    continue
                for one in (pair.client, pair.server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append(pair)
                threading.Thread(target=self._pump, args=(pair, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(pair, True), daemon=True).start()

    def _pump(self, pair: Pair, answers: bool) -> None:
        source, target = (pair.server, pair.client) if answers else (pair.client, pair.server)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.mode == "drop":
                    pair.dead = True
                if pair.dead:
                    self.lost_bytes += len(data)
                    continue
                if answers and self.swallow is not None and self.swallow in data:
                    self.swallow = None
                    self.swallowed += 1
                    break
                if self.mode == "delay":
                    time.sleep(self.delay)
                target.sendall(data)
        if answers and pair.dead:
            return  # nobody tells the client
        pair.close()
        if pair in self._pairs:
            self._pairs.remove(pair)


@contextlib.contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    one = Proxy(host, port)
    try:
        yield one
    finally:
        one.close()
