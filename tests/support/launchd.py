"""A stand-in for launchd: it does with a plist what launchd.plist(5) says of the keys that turbo writes, and no more.

    bootstrap ──▶ running ──exit 0──▶ down (loaded)
                     ▲ └─any other end──▶ waiting, until ThrottleInterval after the last start
                     └───────────────────────┘
    bootout ──▶ TERM … KILL after ExitTimeOut ──▶ gone; the first bootstrap after that comes too early

A process gets ProgramArguments, EnvironmentVariables and WorkingDirectory exactly as stated: nothing else in its environment.
A turbo is forked (tests/support/prefork.py) unless `forks` is false: then it is started as launchd starts it. What launchd itself
would add or do differently is not known here: nothing of this was run on a Mac.

`launchctl` (a script in `bin`) tells it the verbs; every call is recorded. It has launchctl's traps: `bootout` does not wait
(36), and a bootstrap before the label is free fails (5).
"""

import contextlib
import os
import plistlib
import re
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import prefork

PROGRAM = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\t' "$@" >&3
echo >&3
read -r code <&3
[ "$code" = 0 ] && exec cat <&3
cat <&3 >&2
exit "$code"
"""
"""Sends its words, each with a tab behind it; is answered with a code, and on the next lines what to print."""


@dataclass
class Job:
    """`starts`: when each process was started (monotonic). `ends`: the exit code of each, negative for a signal."""

    plist: dict[str, Any]
    process: prefork.Process | None = None
    starts: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    leaving: bool = False
    killed: bool = False
    wake: threading.Event = field(default_factory=threading.Event)

    @property
    def label(self) -> str:
        return str(self.plist["Label"])

    @property
    def running(self) -> bool:
        return len(self.starts) > len(self.ends)


class Launchd:
    """`with launchd(path) as one: …`"""

    def __init__(self, path: Path) -> None:
        self.forks = True
        self.jobs: dict[str, Job] = {}
        self.history: dict[str, list[Job]] = {}
        self.calls: list[tuple[tuple[str, ...], int]] = []
        """Every call of launchctl: its words, and the code it was answered with."""
        self._settling: set[str] = set()  # just let go: the next bootstrap comes too early
        self._disabled: set[str] = set()
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = self.rfile.readline().decode().rstrip("\n").split("\t")[:-1]
                code, text = outer._answer(*words)
                outer.calls.append((tuple(words), code))
                self.wfile.write(f"{code}\n{text}".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.bin = path / "bin"
        self.bin.mkdir(parents=True)
        program = self.bin / "launchctl"
        program.write_text(PROGRAM.format(port=self._server.server_address[1]))
        program.chmod(0o755)

    def verbs(self, label: str) -> list[tuple[str, int]]:
        """The verbs about a label, and their codes, in order."""
        return [
            (words[0], code)
            for words, code in self.calls
            if any(word.endswith(label) or label in word for word in words)
        ]

    # ── what launchctl says ─────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, verb: str, *words: str) -> tuple[int, str]:
        domain = f"gui/{os.getuid()}"
        if words and not words[0].startswith(domain):
            return 125, "Domain does not support specified action\n"
        label = words[0].removeprefix(domain).lstrip("/")
        with self._lock:
            job = self.jobs.get(label)
            if verb == "bootstrap":
                return self._bootstrap(Path(words[1]))
            if verb == "print" and not label:
                return 0, f"{domain} = {{}}\n"
            if verb == "enable":
                self._disabled.discard(label)
                return 0, ""
            if verb == "disable":
                self._disabled.add(label)
                return 0, ""
            if job is None:
                code, text = (
                    (3, "Boot-out failed: 3: No such process\n")
                    if verb == "bootout"
                    else (113, "Could not find service\n")
                )
                return code, text
            if verb == "print":
                return 0, _printed(job)
            if verb == "bootout":
                return self._bootout(job)
            if verb == "kickstart":
                job.wake.set()
                return 0, ""
        return 64, f"Unrecognized subcommand: {verb}\n"

    def _bootstrap(self, path: Path) -> tuple[int, str]:
        plist = plistlib.loads(path.read_bytes())
        label = plist["Label"]
        early = label in self._settling
        self._settling.discard(label)
        if label in self.jobs or label in self._disabled or early:
            return 5, "Bootstrap failed: 5: Input/output error\n"
        job = self.jobs[label] = Job(plist)
        self.history.setdefault(label, []).append(job)
        thread = threading.Thread(target=self._supervise, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return 0, ""

    def _bootout(self, job: Job) -> tuple[int, str]:
        job.leaving = True
        job.wake.set()
        if not job.running:
            self._let_go(job)
            return 0, ""
        assert job.process is not None
        job.process.send_signal(signal.SIGTERM)
        threading.Thread(target=self._kill_later, args=(job,), daemon=True).start()
        return 36, "Boot-out failed: 36: Operation now in progress\n"

    # ── what launchd does ───────────────────────────────────────────────────────────────────────────────────────────

    def _supervise(self, job: Job) -> None:
        while not job.leaving:
            self._spawn(job)
            assert job.process is not None
            code = job.process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)  # AbandonProcessGroup is false
            with self._lock:
                job.ends.append(code)
                if job.leaving:
                    break
                job.wake.clear()
            if code == 0 and job.plist["KeepAlive"] == {"SuccessfulExit": False}:
                job.wake.wait()  # down, until it is kickstarted or booted out
            else:
                job.wake.wait(max(0.0, job.starts[-1] + job.plist["ThrottleInterval"] - time.monotonic()))
        with self._lock:
            self._let_go(job)

    def _spawn(self, job: Job) -> None:
        plist = job.plist
        streams = Path(plist["StandardOutPath"]), Path(plist["StandardErrorPath"])
        with streams[0].open("ab") as out, streams[1].open("ab") as err, self._lock:
            job.process = prefork.popen(
                plist["ProgramArguments"],
                env=plist["EnvironmentVariables"],
                cwd=Path(plist["WorkingDirectory"]),
                stdout=out,
                stderr=err,
                new_session=True,
                forks=self.forks,
            )
            job.starts.append(time.monotonic())

    def _kill_later(self, job: Job) -> None:
        assert job.process is not None
        try:
            job.process.wait(job.plist["ExitTimeOut"] or None)
        except subprocess.TimeoutExpired:
            job.killed = True
            job.process.kill()

    def _let_go(self, job: Job) -> None:
        if self.jobs.get(job.label) is job:
            del self.jobs[job.label]
            self._settling.add(job.label)

    def close(self) -> None:
        with self._lock:
            for job in list(self.jobs.values()):
                self._bootout(job)
                if job.running and job.process is not None:
                    job.process.kill()
        for thread in self._threads:
            thread.join(20)
        self._server.shutdown()
        self._server.server_close()


def _printed(job: Job) -> str:
    """The lines of `launchctl print` that turbo reads, among some it does not."""
    state = "running" if job.running else "not running" if job.ends and job.ends[-1] == 0 else "spawn scheduled"
    pid = f"\tpid = {job.process.pid}\n" if job.running and job.process else ""
    last = "last exit code = (never exited)"
    if job.ends:
        code = job.ends[-1]
        last = (
            f"last exit code = {code}"
            if code >= 0
            else f"last terminating signal = {signal.Signals(-code).name}: {-code}"
        )
    return (
        f"gui/{os.getuid()}/{job.label} = {{\n\tactive count = 1\n\tstate = {state}\n\n\tprogram = x\n\truns = {len(job.starts)}\n"
        f"{pid}\t{last}\n\n\tendpoints = {{\n\t\tstate = other\n\t}}\n}}\n"
    )


@contextlib.contextmanager
def launchd(path: Path) -> Iterator[Launchd]:
    """Every job is gone with the block."""
    one = Launchd(path)
    try:
        yield one
    finally:
        one.close()


def spawned(job: Job) -> list[float]:
    """Seconds between its starts."""
    return [b - a for a, b in zip(job.starts, job.starts[1:], strict=False)]


def environment_of(pid: int) -> dict[str, str]:
    """As it was started with (Linux)."""
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(re.findall(r"([^=\0]+)=([^\0]*)\0", raw))
