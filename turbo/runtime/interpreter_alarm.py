"""The interpreter alarm: ends the process when C code holds the interpreter's lock for too long.

    a thread sets it again and again ──the thread gets no turn, and the process computes──▶ SIGPROF: stacks on stderr, the end

No Python thread can do this: a regular expression that backtracks, or a huge integer, gives none of them a turn. So the
kernel counts. It counts computing time, not real time: a suspended process or machine is not ended when it wakes up. Code
that holds the lock and *waits* is therefore not found; then heartbeats stop, too, and the fleet counts the worker out.
"""

import faulthandler
import signal
import sys
from contextlib import suppress


class InterpreterAlarm:
    """`install` and `remove` in the main thread; `set` in the thread that must get its turn."""

    def __init__(self, seconds: float) -> None:
        """`seconds` of computing time without a `set`."""
        self._seconds = seconds
        self._installed = False

    def install(self) -> None:
        """Does nothing where the process uses SIGPROF for something else."""
        if signal.getsignal(signal.SIGPROF) is not signal.SIG_DFL:
            return
        self._installed = True
        if sys.__stderr__ is not None:
            # Written by C code, which needs no turn; then the signal ends the process.
            faulthandler.register(signal.SIGPROF, file=2, all_threads=True, chain=True)

    def set(self) -> None:
        """Begin to count anew."""
        if self._installed:
            signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def remove(self) -> None:
        if self._installed:
            self._installed = False
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            with suppress(ValueError):
                faulthandler.unregister(signal.SIGPROF)
