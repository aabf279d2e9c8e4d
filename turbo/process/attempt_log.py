"""The log of one attempt: what its program printed, bounded, for `turbo logs`.

The head goes to the file as it comes, so it can be followed. Past the head's limit a line says so; from there on only
the tail is kept, in memory, and written under the head at the end. Lines of stdout stand as they are; those of
stderr begin with `[stderr] `. Lines of the two never mix, unless one is longer than 1 MiB.
"""

import os
from collections.abc import Iterable
from pathlib import Path

HEAD_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 256 * 1024
HELD_BYTES = 1024 * 1024
"""How much of a line without an end is held back to keep it whole."""

STDERR_MARK = b"[stderr] "


class AttemptLog:
    """Appends to `path`, made on the first write with mode 0600. Never raises: `trouble` says what went wrong.

    A full disk must not end an agent that has worked for an hour, so the log stops there and the run goes on.
    """

    def __init__(self, path: Path, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self.path = path
        self.trouble: OSError | None = None
        self.made = False
        self._room = head_bytes
        self._tail = bytearray()
        self._tail_bytes = tail_bytes
        self._cut = 0
        self._file: int | None = None

    def open(self) -> None:
        """Make the file now, so that it is there even when nothing is printed."""
        if self._file is not None or self.trouble is not None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                self._file = os.open(self.path, flags, 0o600)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            self.trouble = error
        else:
            self.made = True

    def write(self, data: bytes) -> None:
        if len(data) <= self._room:
            self._room -= len(data)
            self._put(data)
            return
        if self._room >= 0:
            self._put(data[: self._room])
            self._put(b"\n[turbo] this log is full here; the end of the output follows when the run has ended\n")
            data = data[self._room :]
            self._room = -1
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:
            self._trim()

    def text(self, text: str) -> None:
        """A note of turbo's own, or a traceback."""
        self.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        if self._room < 0:
            self._trim()
            if self._cut:
                self._put(b"[turbo] %d bytes are left out here\n" % self._cut)
            self._put(bytes(self._tail))
            self._tail.clear()
            self._room = 0
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_bytes
        if excess > 0:
            self._cut += excess
            del self._tail[:excess]

    def _put(self, data: bytes) -> None:
        self.open()
        if self._file is None or self.trouble is not None:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.trouble = error


class WholeLines:
    """One stream's way into the log: holds back a line until it is whole."""

    def __init__(self, log: AttemptLog, mark: bytes = b"") -> None:
        self._log = log
        self._mark = mark
        self._held = bytearray()

    def write(self, chunk: bytes) -> None:
        end = chunk.rfind(b"\n") + 1
        if end:
            self._held += chunk[:end]
            self._flush()
        self._held += chunk[end:]
        if len(self._held) > HELD_BYTES:
            self._flush()

    def close(self) -> None:
        if self._held:
            self._held += b"\n"
            self._flush()

    def _flush(self) -> None:
        data = bytes(self._held)
        self._held.clear()
        self._log.write(b"".join(self._marked(data.splitlines(keepends=True))) if self._mark else data)

    def _marked(self, lines: Iterable[bytes]) -> Iterable[bytes]:
        return (self._mark + line for line in lines)
