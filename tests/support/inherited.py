"""What a test run inherits from its caller, and how it gets rid of it.

A run may start in the background of a script (SIGINT and SIGQUIT are ignored), under nohup, from cron, from a Git hook
or by an operator whose shell names a production database. Every program that a test starts would inherit that. `reset`
gives each run the same signals, umask, locale and environment, whoever starts it.
"""

import os
import re
import signal
import sys
from types import FrameType

import pytest

UMASK = 0o022

KEPT = re.compile(
    r"""
    HOME | USER | LOGNAME | SHELL | PATH | TMPDIR | CI | VIRTUAL_ENV | XDG_RUNTIME_DIR | DBUS_SESSION_BUS_ADDRESS
    | (?i:https?|all|no|ftp)_(?i:proxy) | (SSL|CURL|REQUESTS|PIP|NODE|NPM|npm|JAVA|DOCKER|TESTCONTAINERS)_.*
    | (LD|DYLD)_LIBRARY_PATH | PYTEST_.* | HYPOTHESIS_.* | TURBO_(TEST|MODEL|MUTATION)_.* | TURBO_PROVE | TURBO_REQUIRE_REAL
    """,
    re.VERBOSE,
)
"""Variables that say where this machine keeps things, and those that are meant for the tests. Nothing else is kept."""

FIXED = {"LANG": "C.UTF-8", "TERM": "xterm-256color"}

TERMINAL_SIGNALS = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGPIPE", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCHLD",
                    "SIGUSR1", "SIGUSR2", "SIGALRM")  # fmt: skip


def reset(config: pytest.Config) -> None:
    """Once per process, before anything else. The workers of xdist inherit what the controller has reset."""
    if not hasattr(config, "workerinput"):
        restart_without_python_settings(config)
        clean_environment()
    os.umask(UMASK)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in TERMINAL_SIGNALS:
        stop_ignoring(signal.Signals[name])


def stop_ignoring(number: signal.Signals) -> None:
    """Programs that the tests start get the signal's default action; this process itself still ignores it.

    An ignored signal stays ignored across exec, but one with a handler does not. Python ignores SIGPIPE itself, and
    `subprocess` restores it.
    """
    if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGPIPE:
        return
    if number is signal.SIGCHLD:  # ignored, it would take the exit codes of our children away
        signal.signal(number, signal.SIG_DFL)
    else:
        signal.signal(number, _ignore)


def clean_environment() -> None:
    for name in [name for name in os.environ if not KEPT.fullmatch(name)]:
        del os.environ[name]
    os.environ.update(FIXED)


def restart_without_python_settings(config: pytest.Config) -> None:
    """PYTHONOPTIMIZE, PYTHONWARNINGS, PYTHONUTF8 and the rest already act on this interpreter: begin again without them.

    Of those that change no result, PYTHONDONTWRITEBYTECODE would let every process compile the package anew, for more than a
    second, and PYTHONUNBUFFERED would keep most commands from being forked (tests/support/prefork.py).

    Not under a debugger, which would lose us.
    """
    acting = [name for name in os.environ if name.startswith("PYTHON")]
    if not acting or sys.gettrace() is not None:
        return
    config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
    clean_environment()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _ignore(number: int, frame: FrameType | None) -> None: ...
