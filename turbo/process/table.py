"""The process table: which processes run, with their parent, group and start, and the run they belong to.

Linux is read directly from /proc (1 ms for a hundred processes). Elsewhere psutil is used, imported on first use to
save an idle worker's memory.

A process is distinguished from a later one with the same pid by its start. On Linux that is in clock ticks since
boot: psutil's wall-clock time moves with every correction of the clock. Elsewhere it is in microseconds since 1970.

Programs carry a random cookie in their environment (TURBO_RUN), which their descendants inherit. So descendants are
found even if they have left their session, their group and their parent.

Not visible: the environment of Apple's own binaries (System Integrity Protection hides it), of other users'
processes, and of processes that cleared it. These are found by parent and group, as long as those exist.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

COOKIE_VARIABLE = "TURBO_RUN"
"""In a program's environment: the cookies of the runs that it belongs to, innermost last, separated by colons."""

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process. `start` and `pid` together identify it. `zombie`: it has ended, its status is not collected."""

    pid: int
    parent: int
    group: int
    start: int
    zombie: bool


ProcessTable = Mapping[int, ProcessRow]


def snapshot() -> ProcessTable:
    """Every process of this machine (of this pid namespace) that this user may see.

    Raises OSError if the table cannot be read (no descriptor left): a process that cannot be seen may still run.
    """
    return _read_table()


def find(pid: int) -> ProcessRow | None:
    """One process, or None if no process has this pid."""
    return _read_row(pid)


def has_cookie(pid: int, cookie: str) -> bool:
    """Whether the process was started with this cookie in its environment. False if the system does not show it."""
    return cookie in _read_cookies(pid).split(":")


def boot() -> str:
    """Identifies this boot of the machine where start times count from it, else empty."""
    if sys.platform != "linux":
        return ""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


# ── Linux ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _proc_table() -> ProcessTable:
    rows = {}
    for name in os.listdir(PROC):  # noqa: PTH208 - a Path per process costs more than reading it
        if name.isdigit() and (row := _proc_row(int(name))) is not None:
            rows[row.pid] = row
    return rows


def _proc_row(pid: int) -> ProcessRow | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            line = stat.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may contain blanks and parentheses; the last ")" ends it. Then: state, ppid, pgrp, …; 22 is starttime.
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
