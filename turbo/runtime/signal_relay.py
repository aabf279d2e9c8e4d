"""The signal relay: a thread learns of the process's signals even while the event loop stands still.

    a signal ──the interpreter's C handler──▶ the relay's socket ──read──▶ the thread that reads, and the loop's own socket

Python runs a signal's handler in the main thread, between two bytecodes, and asyncio runs its own from the loop. Neither
happens while the main thread is in one long call. The C handler writes the signal's number to a socket all the same.
"""

import signal
import socket
from contextlib import suppress


class SignalRelay:
    """`install` and `remove` in the main thread; `read` in one other thread."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._loops: int | None = None  # the descriptor that the signals went to before

    def install(self) -> None:
        """Call it after the loop's `add_signal_handler`, which would take the signals away again."""
        self._loops = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)

    def read(self, seconds: float) -> tuple[int, ...]:
        """The numbers of the signals that came within `seconds`, passed on to the loop; () if none did."""
        self._reading.settimeout(seconds)
        try:
            numbers = self._reading.recv(256)
        except (TimeoutError, OSError):
            return ()
        numbers = numbers.replace(b"\0", b"")
        if numbers and self._loops is not None and self._loops >= 0:
            with suppress(OSError), socket.socket(fileno=self._loops) as loops:
                try:
                    loops.send(numbers)
                finally:
                    loops.detach()
        return tuple(numbers)

    def interrupt(self) -> None:
        """End a `read` that waits. From any thread."""
        with suppress(OSError):
            self._writing.send(b"\0")

    def remove(self) -> None:
        """Signals go to the loop alone again. When `read` is not called any more."""
        if self._loops is not None:
            signal.set_wakeup_fd(self._loops)
            self._loops = None
        self._reading.close()
        self._writing.close()
