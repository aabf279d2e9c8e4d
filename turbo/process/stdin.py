"""A program's stdin that stays open: what is written to it while the program runs.

write, write … ──kept until the program reads it──▶ the program          close ──▶ end of file, after all of it
"""

from collections.abc import Callable

MOST_UNREAD = 32 * 1024 * 1024
"""Bytes kept for a program that does not read them."""


class OpenStdin:
    """For one run of `turbo.process.running`, on its event loop. Nothing here waits."""

    def __init__(self, most_unread: int = MOST_UNREAD) -> None:
        self._most_unread = most_unread
        self._kept = bytearray()
        self._wake: Callable[[], None] | None = None
        self.closed = False

    def write(self, data: bytes) -> None:
        """Add it to what the program reads; no effect after `close`. Raises BufferError if the program has stopped reading."""
        if self.closed or not data:
            return
        if len(self._kept) + len(data) > self._most_unread:
            raise BufferError(f"the program has not read the last {len(self._kept)} bytes of its stdin")
        self._kept += data
        self._told()

    def close(self) -> None:
        """The program reads to the end of what was written, then finds the end of the file."""
        if not self.closed:
            self.closed = True
            self._told()

    def attach(self, wake: Callable[[], None]) -> None:
        """`wake()` is called when there is something to write, or to close."""
        self._wake = wake

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = bytes(self._kept)
        self._kept.clear()
        return taken

    def _told(self) -> None:
        if self._wake is not None:
            self._wake()
