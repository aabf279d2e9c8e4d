"""The first process of a container, and how a worker is no such process.

    PID 1, or a subreaper ──fork──▶ init: waits for signals, until its worker ends ──▶ exits with the worker's exit code
                               └──▶ the worker
                                       signal for init ──▶ passed on to the worker
                                       an orphan has ended ──▶ collected

The kernel gives every orphan to PID 1 of its namespace, or to the nearest subreaper, and keeps it as a zombie until that
process collects it. A worker must not collect whatever has ended: it would take the exit codes away from those of its
parts, and of its handlers' libraries, that wait for their own children. So init does it, which has no other children.
"""

import contextlib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_GET_CHILD_SUBREAPER = 37

_NOT_PASSED_ON = {"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGTTIN",
                  "SIGTTOU"}  # fmt: skip
"""Signals that cannot be waited for, that report a fault of this process, or that the terminal sends a background one."""


def leave_orphans_to_init() -> None:
    """If orphans would be given to this process, become the worker's init: only its child returns, in a group of its own.

    Call it before there are threads or children. Resets SIGCHLD, because an ignored one discards every exit status.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    subreaper = os.getpid() != 1 and _is_subreaper()
    if os.getpid() != 1 and not subreaper:
        return
    passed_on = {number for number in signal.valid_signals() if getattr(number, "name", "") not in _NOT_PASSED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    worker = os.fork()
    if worker:
        os._exit(_init(worker, passed_on))
    os.setpgid(0, 0)  # else a terminal's Ctrl-C would reach the worker twice: by itself, and from init
    with contextlib.suppress(OSError):
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())
    if subreaper:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init(worker: int, signals: set[signal.Signals]) -> int:
    """Pass signals on and collect orphans until the worker has ended. Returns its exit code, 128 + n for signal n."""
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)
            continue
        while (ended := _collect()) is not None:
            pid, status = ended
            if pid == worker:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _collect() -> tuple[int, int] | None:
    """One child that has ended, and its status."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _is_subreaper() -> bool:
    """Whether a program that became this one by exec has asked for the orphans below it."""
    if sys.platform != "linux":
        return False
    import ctypes

    answer = ctypes.c_int(0)
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(answer)) == 0 and bool(answer.value)


def _prctl(option: int, value: int) -> int:
    import ctypes

    unsigned = ctypes.c_ulong
    return int(ctypes.CDLL(None).prctl(option, unsigned(value), unsigned(0), unsigned(0), unsigned(0)))
