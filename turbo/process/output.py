"""What a program prints, in bounded memory: its first bytes, its last bytes, its lines."""

import codecs
import re
from collections.abc import Callable

OnLine = Callable[[bytes, bool], None]
"""Gets each line of stdout without its newline, and whether the line was cut. If it raises, the program is ended."""


class Head:
    """The first `limit` bytes. `cut`: there were more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.cut = False

    def feed(self, chunk: bytes) -> None:
        room = self._limit - len(self._kept)
        if len(chunk) > room:
            self.cut = True
            chunk = chunk[:room]
        self._kept += chunk

    @property
    def data(self) -> bytes:
        return bytes(self._kept)


class Tail:
    """The last `limit` bytes, starting at the beginning of a line if possible."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._cut = False

    def feed(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * self._limit:
            self._trim()

    @property
    def data(self) -> bytes:
        self._trim()
        return bytes(self._kept)

    @property
    def text(self) -> str:
        data = self.data
        if self._cut:
            data = data[data.find(b"\n") + 1 :] or data
        return data.decode("utf-8", "replace").strip()

    def _trim(self) -> None:
        if len(self._kept) > self._limit:
            self._cut = True
            del self._kept[: -self._limit]


class LastLine:
    """The last line that is not blank, finished or not: what a person sees at the bottom of a terminal.

    A carriage return starts the line again, as in progress bars. `limit` bytes of the stream are kept.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._kept = b""

    def feed(self, chunk: bytes) -> None:
        self._kept = (self._kept + chunk[-self._limit :])[-self._limit :]

    @property
    def text(self) -> str:
        return re.split(r"[\r\n]", text_of(self._kept, cut=True).rstrip())[-1].strip()


class Lines:
    """Splits a stream into lines for `on_line`. Of a long line only `limit` bytes are passed, marked as cut."""

    def __init__(self, on_line: OnLine, limit: int) -> None:
        self._on_line = on_line
        self._limit = limit
        self._begun = bytearray()
        self._cut = False

    def feed(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self._extend(first)
        for other in others:
            self._emit()
            self._extend(other)

    def close(self) -> None:
        """End of the stream: a last line without a newline counts as a line."""
        if self._begun or self._cut:
            self._emit()

    def _extend(self, piece: bytes) -> None:
        room = self._limit - len(self._begun)
        if len(piece) > room:
            self._cut = True
            piece = piece[:room]
        self._begun += piece

    def _emit(self) -> None:
        line, cut = bytes(self._begun), self._cut
        self._begun.clear()
        self._cut = False
        self._on_line(line, cut)


class Aside:
    """Splits off the lines of a stream that begin with `prefix`: they go to `on_line`, at most `limit` bytes of each. What is left
    of a chunk is the rest of the stream, unchanged. An unfinished line is held back while it may still begin so."""

    def __init__(self, prefix: bytes, on_line: OnLine, limit: int) -> None:
        self._prefix = prefix
        self._lines = Lines(on_line, limit)
        self._held = b""
        self._aside: bool | None = None  # the line under way; None: not known yet

    def feed(self, chunk: bytes) -> bytes:
        rest: list[bytes] = []
        for piece in _lines(chunk):
            if self._aside is None:
                piece, self._held = self._held + piece, b""
                if len(piece) < len(self._prefix) and self._prefix.startswith(piece):
                    self._held = piece
                    continue
                self._aside = piece.startswith(self._prefix)
            if self._aside:
                self._lines.feed(piece)
            else:
                rest.append(piece)
            if piece.endswith(b"\n"):
                self._aside = None
        return b"".join(rest)

    def close(self) -> bytes:
        """End of the stream. What was held back and is no such line."""
        self._lines.close()
        held, self._held = self._held, b""
        return held


def _lines(chunk: bytes) -> list[bytes]:
    """With their newlines; no other character ends a line."""
    parts = chunk.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def text_of(data: bytes, *, cut: bool = False) -> str:
    """Decodes UTF-8, with U+FFFD for invalid bytes. A character that was cut in half at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not cut)
