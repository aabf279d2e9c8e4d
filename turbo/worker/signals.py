"""What each signal does to a worker.

    TERM, INT, QUIT, PWR    drain; a second one ends the runs now
    HUP                     read the files again that may have changed: the log file, the env file; a worker whose
                            terminal is gone drains instead, and one that nohup started goes on ignoring it
    CONT                    a line in the log: the worker was stopped (Ctrl-Z, STOP)
    USR1, USR2, ALRM, …     a line in the log: every signal that would end a worker without a word

The others keep their effect: KILL and STOP, which no program can catch, TSTP, and those that report a fault or ask for a
core dump (ABRT, SEGV, …).
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

DRAINING = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGPWR")
DRAINING_NUMBERS = frozenset(getattr(signal, name) for name in DRAINING if hasattr(signal, name))

LEFT_ALONE = frozenset(
    {"SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCHLD", "SIGCLD", "SIGPIPE", "SIGXFSZ", "SIGWINCH", "SIGURG",
     "SIGINFO", "SIGABRT", "SIGIOT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGEMT", "SIGPROF"}
)  # fmt: skip
"""Faults, job control, what does nothing by default or is ignored by Python, and the interpreter alarm's signal, which writes
its stacks before it ends the worker (turbo.runtime.interpreter_alarm)."""


class WorkerSignals:
    """The signals of this process: `hold` at its beginning, then `handle` once there is a worker."""

    def __init__(self) -> None:
        self._terminals = [descriptor for descriptor in (0, 1, 2) if _is_terminal(descriptor)]
        self._handled = [number for number in signal.valid_signals() if _may_handle(number)]
        self._hung_up = False

    def hold(self) -> None:
        """Until `handle`, a signal that does not end a worker does nothing. None stays blocked by the parent's choice."""
        for number in self._handled:
            if _name(number) not in DRAINING:
                signal.signal(number, _nothing)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def handle(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None], reload: Callable[[], str]) -> None:
        """`stop` drains, and ends the runs when it is called again. `reload` returns what it did, for the log."""
        for number in self._handled:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # reserved by the system or by the loop
                match _name(number):
                    case name if name in DRAINING:
                        loop.add_signal_handler(number, stop)
                    case "SIGHUP":
                        loop.add_signal_handler(number, self._hang_up, stop, reload)
                    case "SIGCONT":
                        loop.add_signal_handler(number, log.info, "continued after a stop (SIGCONT)")
                    case name:
                        loop.add_signal_handler(number, log.warning, "%s has no meaning here: ignored", name)

    def _hang_up(self, stop: Callable[[], None], reload: Callable[[], str]) -> None:
        if all(map(_is_terminal, self._terminals)):
            log.info("SIGHUP: %s", reload())
        elif not self._hung_up:  # the kernel and a shell may both send one, and a second stop would end the runs
            self._hung_up = True
            self._leave_terminals()
            log.info("SIGHUP: the terminal is gone")
            stop()

    def _leave_terminals(self) -> None:
        """Nothing can be written to a terminal that is gone, and the interpreter would exit with 120 for that."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _may_handle(number: int) -> bool:
    """Not those that the parent ignores: nohup, or a shell for its background jobs."""
    return _name(number) not in LEFT_ALONE and signal.getsignal(number) is not signal.SIG_IGN


def _name(number: int) -> str:
    return getattr(number, "name", f"signal {int(number)}")


def _is_terminal(descriptor: int) -> bool:
    """Also False for a terminal that has hung up."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _nothing(number: int, frame: FrameType | None) -> None: ...
