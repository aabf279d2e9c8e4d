"""The log of one attempt: what its program printed, for `turbo logs`, of bounded size.

    output ──up to HEAD_BYTES──▶ the file, at once ──more──▶ the last TAIL_BYTES in memory ──end of run──▶ the file

The head is written as it arrives, so that a person can follow it. When it is full, the log notes it; the
tail follows when the run ends. Lines of stderr begin with `[stderr] `, those of stdout are unchanged. Lines of the
two streams never mix, unless one is longer than 1 MiB.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from turbo.host.regular_file import open_regular

HEAD_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 256 * 1024
LINE_BYTES = 1024 * 1024
"""How much of an unfinished line is held back, so that the log gets whole lines."""

STDERR_MARK = b"[stderr] "


class AttemptLog:
    """Appends to `path`, which is created on the first write with mode 0600. Never raises: `error` holds what failed.

    A full disk must not end an agent that has worked for an hour. The log stops there, and the run goes on.
    """

    def __init__(self, path: Path, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self.path = path
        self.error: OSError | None = None
        self.created = False
        self._head_left = head_bytes
        self._tail = bytearray()
        self._tail_bytes = tail_bytes
        self._omitted = 0
        self._file: int | None = None

    def open(self) -> None:
        """Create the file now, even if the program prints nothing."""
        if self._file is not None or self.error is not None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            try:
                self._file = _open(self.path, flags)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = _open(self.path, flags)
        except OSError as error:
            self.error = error
        else:
            self.created = True

    def write(self, data: bytes) -> None:
        if len(data) <= self._head_left:
            self._head_left -= len(data)
            self._append(data)
            return
        if self._head_left >= 0:
            self._append(data[: self._head_left])
            self._append(b"\n[turbo] the log is full; the last part of the output follows when the run ends\n")
            data = data[self._head_left :]
            self._head_left = -1
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:
            self._trim()

    def write_text(self, text: str) -> None:
        """A note by turbo itself, or a traceback."""
        self.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        if self._head_left < 0:
            self._trim()
            if self._omitted:
                self._append(b"[turbo] %d bytes are left out here\n" % self._omitted)
            self._append(bytes(self._tail))
            self._tail.clear()
            self._head_left = 0
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_bytes
        if excess > 0:
            self._omitted += excess
            del self._tail[:excess]

    def _append(self, data: bytes) -> None:
        self.open()
        if self._file is None or self.error is not None:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.error = error


def _open(path: Path, flags: int) -> int:
    """No link or FIFO that a program may have put there. The null device is for a program without a log."""
    if path == Path(os.devnull):
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    return open_regular(path, flags=flags)


class WholeLines:
    """One stream of the log. Holds back a line until it is complete."""

    def __init__(self, log: AttemptLog, mark: bytes = b"") -> None:
        self._log = log
        self._mark = mark
        self._partial = bytearray()

    def write(self, chunk: bytes) -> None:
        end = chunk.rfind(b"\n") + 1
        if end:
            self._partial += chunk[:end]
            self._flush()
        self._partial += chunk[end:]
        if len(self._partial) > LINE_BYTES:
            self._flush()

    def close(self) -> None:
        if self._partial:
            self._partial += b"\n"
            self._flush()

    def _flush(self) -> None:
        data = bytes(self._partial)
        self._partial.clear()
        self._log.write(b"".join(self._marked(data.splitlines(keepends=True))) if self._mark else data)

    def _marked(self, lines: Iterable[bytes]) -> Iterable[bytes]:
        return (self._mark + line for line in lines)
