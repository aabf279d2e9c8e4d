"""Real programs for tests to run, and the truth about whether they are gone.

A zombie is gone: it runs nothing, and PID 1 of a container or small VM may be late to collect it.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.waiting import gone

PYTHON = (sys.executable, "-S", "-E")

FAMILY = """
import json, os, signal, subprocess, sys, time
kind = set(sys.argv[1:])
sleeper = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(1000)"]
if "stubborn" in kind:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = {} if "holding" in kind else dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
own = dict(env={}) if "bare" in kind else {}
pids = {"program": os.getpid()}
pids["group"] = subprocess.Popen(sleeper, **held, **own).pid
pids["tool"] = subprocess.Popen(sleeper, start_new_session=True, **held, **own).pid
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = subprocess.Popen(sleeper, start_new_session=True, **held)
    os.write(writing, b"%d" % daemon.pid)
    os._exit(0)
pids["daemon"] = int(os.read(reading, 20))
os.wait()
print(json.dumps(pids), flush=True)
if "leaving" not in kind:
    time.sleep(1000)
os._exit(0)
"""
"""A program with a child in its group, a tool child in a session of its own, and a daemon (double fork, two sessions).

Prints their pids as one JSON line. Words: `stubborn` ignores TERM (and its children inherit that), `leaving` exits and
leaves the others behind, `holding` lets the others keep its stdout, `bare` clears the environment of its two children.
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (*PYTHON, "-c", code, *arguments)


def lives(pid: int) -> bool:
    return not gone(pid)


def living(pids: Iterable[int]) -> list[int]:
    return [pid for pid in pids if lives(pid)]


def pids_in(line: bytes | str) -> dict[str, int]:
    found: dict[str, int] = json.loads(line)
    return found


def kill(pids: Iterable[int]) -> None:
    """End what a test started and, by design, nobody else has ended."""
    for pid in pids:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


class Saved:
    """Pids a test has learnt; whatever of them still lives when it is over is ended."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}

    def line(self, line: bytes, _cut: bool = False) -> None:
        self.pids |= pids_in(line)

    def living(self) -> list[str]:
        return [name for name, pid in self.pids.items() if lives(pid)]


def journalled(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.json")) if directory.is_dir() else []


def freeze(pid: int) -> list[psutil.Process]:
    """Stop a process with all its descendants, those included that it starts meanwhile. Returns those that are stopped."""
    top = psutil.Process(pid)
    top.suspend()  # first: it starts no more
    stopped = [top]
    for process in top.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a session that ended meanwhile
            process.suspend()
            stopped.append(process)
    return stopped


def thaw(processes: Iterable[psutil.Process]) -> None:
    """Let them go on, the last one first."""
    for process in reversed([*processes]):
        with suppress(psutil.NoSuchProcess):
            process.resume()
