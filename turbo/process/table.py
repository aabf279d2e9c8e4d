"""The process table: who runs, whose child it is, since when, and which run it came from.

Linux is read from /proc directly (1 ms for a hundred processes); elsewhere psutil answers, imported on first use
because an idle worker's memory counts. A process is told from a later one with the same pid by its start: clock ticks
since boot on Linux, where psutil's wall-clock figure moves with every correction of the clock, and microseconds
since 1970 elsewhere. Programs carry a random cookie in the environment (TURBO_RUN), which their descendants inherit:
that finds those again that have left their session, their group and their parent.

What this cannot see: the environment of Apple's own binaries (System Integrity Protection hides it), of processes
under another user, and of those that cleared it. They are found by parent and group as long as those last.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

COOKIE_VARIABLE = "TURBO_RUN"
"""In a program's environment: the cookies of the runs it is part of, innermost last, separated by colons."""

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process. `start` identifies it together with its pid; `zombie`: it has ended, nobody has asked how."""

    pid: int
    parent: int
    group: int
    start: int
    zombie: bool


ProcessTable = Mapping[int, ProcessRow]


def snapshot() -> ProcessTable:
    """Every process of this machine (of this pid namespace) that this user may see.

    Raises OSError when the table cannot be read (no descriptor left): a process that cannot be seen is not one that is
    gone.
    """
    return _read_table()


def find(pid: int) -> ProcessRow | None:
    """One process, or None when there is none with this pid."""
    return _read_row(pid)


def has_cookie(pid: int, cookie: str) -> bool:
    """Whether the process was started with this cookie in its environment. False where the system does not say."""
    return cookie in _read_cookies(pid).split(":")


def boot() -> str:
    """Names this boot of the machine where starts are counted from it, else empty."""
    if sys.platform != "linux":
        return ""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


# ── Linux ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _proc_table() -> ProcessTable:
    rows = {}
    for name in os.listdir(PROC):  # noqa: PTH208 - a Path for every process costs more than reading it
        if name.isdigit() and (row := _proc_row(int(name))) is not None:
            rows[row.pid] = row
    return rows


def _proc_row(pid: int) -> ProcessRow | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            line = stat.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold blanks and parentheses; the last ")" ends it. Then: state, ppid, pgrp, …; 22 is starttime.
    fields = line[line.rindex(b")") + 2 :].split()
    return ProcessRow(pid, int(fields[1]), int(fields[2]), int(fields[19]), fields[0] in (b"Z", b"X"))


def _proc_cookies(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123
            block = b"\0" + environ.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    _, found, rest = block.partition(b"\0" + COOKIE_VARIABLE.encode() + b"=")
    return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else ""


# ── elsewhere ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _psutil_table() -> ProcessTable:
    import psutil

    rows = {}
    for pid in psutil.pids():
        if (row := _psutil_row(pid)) is not None:
            rows[pid] = row
    return rows


def _psutil_row(pid: int) -> ProcessRow | None:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            start = round(process.create_time() * 1_000_000)
            zombie = process.status() == psutil.STATUS_ZOMBIE
            return ProcessRow(pid, process.ppid(), os.getpgid(pid), start, zombie)
    except (psutil.Error, OSError):
        return None


def _psutil_cookies(pid: int) -> str:
    import psutil

    try:
        return psutil.Process(pid).environ().get(COOKIE_VARIABLE, "")
    except (psutil.Error, OSError):
        return ""


_read_table: Callable[[], ProcessTable] = _proc_table if sys.platform == "linux" else _psutil_table
_read_row: Callable[[int], ProcessRow | None] = _proc_row if sys.platform == "linux" else _psutil_row
_read_cookies: Callable[[int], str] = _proc_cookies if sys.platform == "linux" else _psutil_cookies
