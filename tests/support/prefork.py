"""Starts processes of turbo without the half second in which Python imports it.

    a test ──arguments, environment, directory, three descriptors──▶ the prefork server ──fork──▶ turbo, as if just started
           ◀──its pid, later how it ended──────────────────────────┘ has imported turbo, and runs nothing

Each process of a test run has one server, started on first use; it ends with that process. It has one more for each other set
of the variables that Python reads at its start (READ_AT_START). What comes out is a process of its own with its own interpreter
state: it can be stopped, killed and frozen. What differs from `turbo` started by a shell: its parent is the server, its command
line in the process table is the server's, and /proc shows the server's environment. Tests of these things and of start-up itself
start the console script.
"""

import array
import contextlib
import errno
import fcntl
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TURBO = Path(sys.executable).parent / "turbo"
PROGRAMS = Path(__file__).with_name("programs")

MESSAGE = 1_000_000
"""Bytes of one request at most: Linux allows 128 KiB for one variable of an environment."""

AT_START = dict(os.environ)
"""What the server is started with, whatever a test has changed since."""

READ_AT_START = ("LANG", "LC_", "PYTHON")
"""Variables that Python reads at its start, among them those of the locale."""


def keep_environment() -> None:
    """Once per process, before its first test, and after the environment has been cleaned (tests/support/inherited.py)."""
    AT_START.clear()
    AT_START.update(os.environ)


class Forked:
    """A process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that ended it. Raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def ended(self, status: int) -> None:
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()


Process = Forked | subprocess.Popen[bytes]


def popen(
    args: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    new_session: bool = False,
    forks: bool = True,
) -> Process:
    """`subprocess.Popen` for `turbo`, and for the workers in tests/support/programs; ordinary for anything else, and unless it
    `forks`. The leader of a new session that has a terminal as its standard input is controlled by it."""
    words = [str(word) for word in args]
    if not (forks and _can_fork(words)):
        return subprocess.Popen(
            words,
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=new_session,
            preexec_fn=_control if new_session else None,
        )
    with contextlib.ExitStack() as stack:
        streams = [_descriptor(stream, stack) for stream in (stdin, stdout, stderr)]
        return _server(env).fork(words, env, cwd or Path.cwd(), streams, new_session=new_session)


def run(
    args: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout: float = 60.0,
) -> "subprocess.CompletedProcess[bytes]":
    """`subprocess.run` with `capture_output`. Raises subprocess.TimeoutExpired."""
    words = [str(word) for word in args]
    if not _can_fork(words):
        return subprocess.run(words, input=stdin, capture_output=True, env=dict(env), cwd=cwd, timeout=timeout)
    (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
    process = _server(env).fork(words, env, cwd or Path.cwd(), [their_in, their_out, their_err])
    for descriptor in (their_in, their_out, their_err):
        os.close(descriptor)
    threading.Thread(target=_feed, args=[our_in, stdin], daemon=True).start()
    out, err = _Collected(our_out), _Collected(our_err)
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, code, out.all(timeout), err.all(timeout))


def run_text(
    args: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` with `capture_output` and `text`. Raises subprocess.TimeoutExpired."""
    done = run(args, env=os.environ if env is None else env, cwd=cwd, timeout=timeout)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _control() -> None:
    """The leader of a session is controlled by the terminal that is its standard input."""
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _can_fork(words: Sequence[str]) -> bool:
    return words[0] == str(TURBO) or (words[0] == sys.executable and Path(words[1]).parent == PROGRAMS)


def _read_at_start(env: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in env.items() if name.startswith(READ_AT_START))


def _descriptor(stream: int | IO[bytes], stack: contextlib.ExitStack) -> int:
    if stream == subprocess.DEVNULL:
        descriptor = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, descriptor)
        return descriptor
    return stream if isinstance(stream, int) else stream.fileno()


class _Collected:
    """Reads a pipe to its end, in the background."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "rb")
        self._bytes = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            self._bytes = self._pipe.read()

    def all(self, timeout: float) -> bytes:
        self._thread.join(timeout)
        return self._bytes


def _feed(descriptor: int, text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(text)


# ── the client's side of the server ─────────────────────────────────────────────────────────────────────────────────


class _Server:
    """A server of this process, and the processes that it started."""

    def __init__(self, read_at_start: frozenset[tuple[str, str]]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.prefork", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=dict({*AT_START.items()} - _read_at_start(AT_START) | read_at_start),
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
            )
        self._lock = threading.Lock()
        self._started: Forked | None = None
        self._answer = threading.Event()
        self._running: dict[int, Forked] = {}
        self._request: Sequence[str] = ()
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        streams: Sequence[int],
        *,
        new_session: bool = False,
    ) -> Forked:
        asked = {"args": list(words), "env": dict(env), "cwd": str(cwd), "new_session": new_session}
        request = json.dumps(asked).encode()
        with self._lock:
            self._request = words
            self._answer.clear()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
            self._socket.sendmsg([request], rights)
            assert self._answer.wait(60), "the prefork server does not answer"
            assert self._started is not None, "the prefork server has ended"
            return self._started

    def _listen(self) -> None:
        while message := self._socket.recv(MESSAGE):
            pid, status = json.loads(message)
            if status is None:
                self._started = self._running[pid] = Forked(pid, self._request)
                self._answer.set()
            else:
                self._running.pop(pid).ended(status)
        self._started = None
        self._answer.set()


@functools.cache
def _server_of(_pid: int, read_at_start: frozenset[tuple[str, str]]) -> _Server:
    return _Server(read_at_start)


def _server(env: Mapping[str, str]) -> _Server:
    return _server_of(os.getpid(), _read_at_start(env))


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Request:
    args: list[str]
    env: dict[str, str]
    cwd: str
    new_session: bool
    streams: list[int]


def _serve(requests: socket.socket) -> _Request | None:
    """Fork for each request. Returns the request in the new process, and None at the end in the server itself."""
    wakes, woken = socket.socketpair()
    for one in (wakes, woken):
        one.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    with contextlib.closing(wakes), contextlib.closing(woken):
        while True:
            _wait(requests, wakes)
            _report_ended(requests, wakes)
            try:
                message, ancillary, _, _ = requests.recvmsg(MESSAGE, socket.CMSG_SPACE(12), socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                return None
            if not message:
                return None
            streams = array.array("i")
            for _level, _kind, data in ancillary:
                streams.frombytes(data)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                requests.close()
                return _Request(streams=list(streams), **json.loads(message))
            for descriptor in streams:
                os.close(descriptor)
            requests.send(json.dumps([pid, None]).encode())


def _wait(*sockets: socket.socket) -> None:
    with contextlib.suppress(InterruptedError):
        select.select(sockets, [], [])


def _report_ended(requests: socket.socket, wakes: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while wakes.recv(4096):
            pass
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError):  # nobody asks any more
                requests.send(json.dumps(ended).encode())


def _become(request: _Request) -> None:
    """Put on what the request says, and run it to its end."""
    for number, descriptor in enumerate(request.streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request.new_session:
        os.setsid()
        _control()
    os.environ.clear()
    os.environ.update(request.env)
    time.tzset()
    os.chdir(request.cwd)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        old: Any = getattr(sys, name)
        buffered = open(number, mode, encoding=old.encoding, errors=old.errors, closefd=False,  # noqa: SIM115
                        buffering=1 if name == "stderr" or os.isatty(number) else -1)  # fmt: skip
        setattr(sys, name, buffered)
        setattr(sys, f"__{name}__", buffered)
    if request.args[0] == str(TURBO):
        from turbo.cli.main import main

        sys.argv = request.args
        main()
    else:
        sys.argv = request.args[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")


def _preload() -> None:
    """Import what workers and commands import; all of it is without effect until it is called."""
    import turbo.cli.main
    import turbo.cli.worker
    import turbo.worker.worker

    for module, _ in turbo.cli.main.COMMANDS.values():
        __import__(module)
    import turbo.client.client
    import turbo.observability.log

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _preload()
    with socket.socket(fileno=int(sys.argv[1])) as _requests:
        _asked = _serve(_requests)
    if _asked is not None:
        _become(_asked)
