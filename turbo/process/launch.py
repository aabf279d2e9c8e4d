"""Starts a program and holds it back until the journal has its entry.

    pipes ──▶ a shell in a new session, reading its stdin ──▶ journal entry on disk ──"go"──▶ exec of the program
                          └── worker killed, or no entry possible: end of file, and the shell exits ──┘ (never)

So no program ever runs without a journal entry. The shell costs 0.6 ms, and its pid, session and start time become
the program's own. "go" is the first line of stdin: a shell reads a pipe byte by byte, and leaves the rest to the
program.

With `run_as` the shell is already the other user's (turbo.process.identity). It gets the environment, the directory and
the program as a second line of stdin, because sudo passes no environment on, and logs the arguments it is given. So it is
that user who enters the directory and looks the program up.

A sandbox (turbo.process.sandbox) is a program in front of the program: the shell executes bwrap, and bwrap the program.
"""

import contextlib
import errno
import os
import re
import select
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.usage import MeteredRun
from turbo.process import table as process_table
from turbo.process.identity import Identity
from turbo.process.journal import Entry, Journal, new_cookie
from turbo.process.program_search import is_closed, search
from turbo.process.sandbox import CannotEnclose, Enclosure, Sandbox

_SHELL_SETS = ("PWD", "OLDPWD", "SHLVL")
"""What a shell adds to the environment. bash (macOS: sh) also sets `_`, which cannot be prevented."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

NAME = "turbo-launch-"
"""The shell's $0 is this and the cookie. It opens the shell's own messages, and no other text can."""

FIRST_HANDED = 7
"""A shell can open descriptors of one digit."""

_HERE_DOCUMENT = rb'''"exec %(number)d<<_turbo_end${_turbo_n}\$_turbo_value${_turbo_n}_turbo_end${_turbo_n}"'''
"""Opens a descriptor that holds the value and a line end. The value is expanded once, so nothing in it is code."""

_SHIELD = "trap '' TERM; "
"""For bwrap, which would end at once and take the program with it, before that could clean up."""

LAUNCHER_GONE = 125
"""The launcher's exit code if it never got its "go"."""


class SpawnFailed(Exception):
    """A program could not be started. The message names it and the cause; `errno` is set if the system gave one."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


@dataclass(slots=True)
class Launched:
    """A program held before its exec. `go` lets it run; `abandon` ends it as if it had never been started.

    `handover`: what its stdin has to begin with, after "go". `unmade`: why its sandbox cannot be made, if it cannot.
    """

    popen: "subprocess.Popen[bytes]"
    entry: Entry
    program: str
    stdin: int
    stdout: int
    stderr: int
    handover: bytes = b""
    unmade: Callable[[], str | None] | None = None

    def go(self) -> None:
        os.write(self.stdin, b"go\n")

    def abandon(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.close(descriptor)
        self.popen.wait()

    def exec_failure(self, returncode: int | None, stderr: bytes) -> str | None:
        """The shell's message if the exec itself failed, in a way that `resolve` could not foresee."""
        name = f"{NAME}{self.entry.cookie}: ".encode()
        if self.entry.user and returncode == 1 and stderr.startswith(b"sudo: "):
            return stderr.decode("utf-8", "replace").strip()
        if self.unmade is not None and returncode == 1 and stderr.startswith(b"bwrap: "):
            return self.unmade()  # a program may print the same
        if returncode not in (126, 127) or not stderr.startswith(name):
            return None
        return stderr[len(name) :].decode("utf-8", "replace").strip()


def launch(
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str],
    cwd: Path,
    journal: Journal,
    task_id: str = "",
    handed: Mapping[str, str] | None = None,
    run_as: Identity | None = None,
    metered: MeteredRun | None = None,
    keeps: Iterable[Path] = (),
) -> Launched:
    """Start a held program, and journal it. Raises SpawnFailed; then nothing runs and nothing is journalled.

    If the journal has a sandbox, the program runs in it; `keeps` are the places that it may write there beside its directory.

    `env` is the whole environment of the program, except TURBO_RUN and the names of `handed`, which are added. Each of
    these holds the number of a descriptor from which its value can be read once. Takes about 1.5 ms, and with sudo 10.
    """
    cookie = new_cookie()
    outer = os.environ.get(process_table.COOKIE_VARIABLE)
    environment = {**env, process_table.COOKIE_VARIABLE: f"{outer}:{cookie}" if outer else cookie}
    our_ends: list[int] = []
    handed_ends: list[int] = []
    secrets = dict(handed or {})
    try:
        if run_as is None or not run_as.by_sudo:  # sudo closes all descriptors but the first three
            for variable, value in secrets.items():
                handed_ends.append(_pipe_with(variable, value))
                environment[variable] = str(handed_ends[-1])
            secrets = {}
        if run_as is None:
            program, handover = resolve(argv[0], env.get("PATH"), cwd), b""
            wall = _enclosure(journal.sandbox, program, environment, cwd, keeps, NAME + cookie)
            words = (*wall.before, program, *argv[1:])
            popen = _start_here(
                words, environment, cwd, NAME + cookie, our_ends, handed_ends, shields=wall.again is not None
            )
        else:
            program = argv[0]
            wall = _enclosure(journal.sandbox, program, environment, cwd, keeps, NAME + cookie)
            handover = _handover((*wall.before, *argv), environment, cwd, secrets)
            popen = _start_as(run_as, environment, NAME + cookie, our_ends, handed_ends, shields=wall.again is not None)
    except CannotEnclose as error:
        raise SpawnFailed(f"cannot start {argv[0]} in its sandbox: {error}") from error
    except (OSError, ValueError) as error:
        _close(our_ends)
        raise _explained(argv[0], error) from error
    finally:
        _close(handed_ends)
    started = process_table.find(popen.pid)
    user = run_as.user if run_as is not None and run_as.by_sudo else ""
    start, boot = started.start if started else 0, process_table.boot()
    entry = Entry(cookie, popen.pid, start, boot, program, task_id, user, metered)
    stdin, stdout, stderr = our_ends
    launched = Launched(popen, entry, program, stdin, stdout, stderr, handover, wall.again)
    try:
        journal.add(entry)
    except OSError as error:
        launched.abandon()
        raise SpawnFailed(
            f"cannot start {argv[0]}: its journal entry cannot be written: {error}", error.errno
        ) from error
    return launched


def _enclosure(
    sandbox: Sandbox | None, program: str, env: Mapping[str, str], cwd: Path, keeps: Iterable[Path], name: str
) -> Enclosure:
    """Raises CannotEnclose."""
    if sandbox is None or not sandbox.encloses():
        return Enclosure()
    return sandbox.enclose(program, env=env, cwd=cwd, keeps=keeps, name=name)


def _pipe_with(name: str, value: str) -> int:
    """The reading end of a pipe that holds the value and is closed on the other side."""
    content = os.fsencode(value)
    if len(content) > select.PIPE_BUF:  # what every pipe takes without a reader
        raise SpawnFailed(f"cannot hand over the value for {name}: it is longer than {select.PIPE_BUF} bytes")
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
    finally:
        os.close(writing)
    return reading


def _start_here(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    cwd: Path,
    name: str,
    our_ends: list[int],
    handed_ends: Sequence[int],
    *,
    shields: bool,
) -> "subprocess.Popen[bytes]":
    """The shell, as this user. Adds our ends of its pipes to `our_ends`, whatever happens."""
    received = f"read -r _turbo || exit {LAUNCHER_GONE}"
    script = f'{received}; unset _turbo {_added(environment)}; {_SHIELD if shields else ""}exec "$@"'
    with _pipes(our_ends) as (stdin, stdout, stderr):
        return subprocess.Popen(
            ["/bin/sh", "-c", script, name, *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            pass_fds=handed_ends,
        )


def _start_as(
    identity: Identity,
    environment: Mapping[str, str],
    name: str,
    our_ends: list[int],
    handed_ends: Sequence[int],
    *,
    shields: bool,
) -> "subprocess.Popen[bytes]":
    """The shell, as another user, with nothing of the program's own in its arguments."""
    received = f"read -r _turbo || exit {LAUNCHER_GONE}"
    script = f"""{received}; {received}
_turbo_n='
'
eval "$_turbo"; unset _turbo _turbo_n {_added(environment)}; {_SHIELD if shields else ""}exec "$@\""""
    with _pipes(our_ends) as (stdin, stdout, stderr):
        if not identity.by_sudo:
            for descriptor in (stdin, stdout, stderr, *handed_ends):
                os.fchown(descriptor, identity.uid, identity.gid)  # so that the program may open /dev/stdout
        return identity.popen(
            ["/bin/sh", "-c", script, name],
            env={},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=handed_ends,
        )


def _handover(argv: tuple[str, ...], environment: Mapping[str, str], cwd: Path, handed: Mapping[str, str]) -> bytes:
    """One line of shell for `_start_as`. Raises ValueError for what no program can receive."""
    opens = b"".join(
        b"_turbo_value=%s; eval %s; unset _turbo_value; export %s=%d; "
        % (_quoted(value), _HERE_DOCUMENT % {b"number": number}, variable.encode(), number)
        for number, (variable, value) in enumerate(handed.items(), FIRST_HANDED)
    )
    exports = b"".join(
        b"export %s=%s; " % (os.fsencode(name), _quoted(value))
        for name, value in environment.items()
        if _VARIABLE.fullmatch(name)
    )
    words = b" ".join(map(_quoted, argv))
    return b"%s%scd %s || exit 126; set -- %s\n" % (opens, exports, _quoted(f"{cwd}"), words)


def _quoted(text: str) -> bytes:
    """One word of the shell's, on one line, whatever its bytes."""
    if "\0" in text:
        raise ValueError("embedded null byte")
    return b"'" + os.fsencode(text).replace(b"'", b"'\\''").replace(b"\n", b"'\"$_turbo_n\"'") + b"'"


def _added(environment: Mapping[str, str]) -> str:
    return " ".join(name for name in _SHELL_SETS if name not in environment)


@contextlib.contextmanager
def _pipes(our_ends: list[int]) -> Iterator[tuple[int, int, int]]:
    """The child's stdin, stdout and stderr, closed here in the end."""
    child_ends = []
    try:
        for we_write in (True, False, False):
            reading, writing = os.pipe()
            our_ends.append(writing if we_write else reading)
            child_ends.append(reading if we_write else writing)
        stdin, stdout, stderr = child_ends
        yield stdin, stdout, stderr
    finally:
        _close(child_ends)


def resolve(name: str, path: str | None, cwd: Path) -> str:
    """The program's absolute path, looked up as a shell does in `cwd`. Raises SpawnFailed.

    An entry of `path` in which nothing can be found is passed over: missing, not a directory, or closed to this user.
    So is an empty or relative one: a row may have chosen `cwd`, and must not choose the program.
    """
    if not os.path.isdir(cwd) and not is_closed(cwd):  # noqa: PTH112 - Path.is_dir raises PermissionError
        raise SpawnFailed(f"cannot start {name}: its working directory {cwd} does not exist", errno.ENOENT)
    if not os.access(cwd, os.X_OK):
        raise SpawnFailed(f"cannot start {name}: its working directory {cwd} cannot be entered", errno.EACCES)
    searched = path if path is not None else os.defpath
    found = search(name, searched, cwd)
    if found.program is not None:
        return found.program
    if found.refused is not None:
        raise SpawnFailed(f"cannot start {name}: {found.refused} is not executable (chmod +x?)", errno.EACCES)
    closed = f" (may not be searched: {', '.join(found.closed)})" if found.closed else ""
    if name.startswith("/"):
        where = "no such file"
    elif "/" in name:
        where = f"no such file under {cwd}"
    else:
        where = f"not found on the PATH searched: {searched or '(empty)'}"
    if "/" in name and os.path.isdir(cwd / name):  # noqa: PTH112
        where = f"{cwd / name} is a directory"
    raise SpawnFailed(f"cannot start {name}: {where}{closed}", errno.EACCES if closed else errno.ENOENT)


def at_home(command: Sequence[str]) -> tuple[str, ...]:
    """An operator's argv with `~/` at the beginning of a word replaced by the worker's home, as a shell does it."""
    return tuple(
        os.path.expanduser(word) if not number or word == "~" or word.startswith("~/") else word  # noqa: PTH111
        for number, word in enumerate(command)
    )


def obstacle(name: str, path: str | None, cwd: Path | None, run_as: Identity | None = None) -> str | None:
    """Why a program could not be started now, or None. With `run_as`, only what this user can see counts.

    `cwd`: the fixed directory of the runs, if there is one.
    """
    try:
        resolve(name, path, cwd or Path("/"))
    except SpawnFailed as error:
        if run_as is not None and error.errno == errno.EACCES:  # closed to us, perhaps not to that user
            return None
        return str(error)
    return None


def fixed_program(command: Sequence[str], cwd: Path | None, owner: str) -> tuple[str, ...]:
    """An operator's argv with its program made absolute, unless that is looked up on the PATH: it counts from `cwd`, the fixed
    directory, never from one that a row may choose. Raises ValueError if it is relative and there is none."""
    command = at_home(command)
    if "/" not in command[0] or command[0].startswith("/"):
        return command
    if cwd is None:
        raise ValueError(f"executor {owner}: {relative_program(command[0])}")
    return (os.path.normpath(cwd / command[0]), *command[1:])


def relative_program(name: str) -> str:
    """Why a relative program is refused, and what to write instead."""
    return (
        f"{name!r} would be looked up in the directory of the task, so a task could choose the program: write its absolute "
        f"path, or set cwd; to run a file of the task's directory on purpose, write [sh, {name}]"
    )


def _explained(name: str, error: OSError | ValueError) -> SpawnFailed:
    if isinstance(error, ValueError):  # an embedded NUL, or a lone surrogate
        return SpawnFailed(
            f"cannot start {name}: its arguments or environment contain a character that no program can receive: {error}"
        )
    why = {
        errno.E2BIG: "its arguments and environment are too long for this system (pass long text through stdin)",
        errno.EMFILE: "this worker has no file descriptor left (raise the limit on open files, or use fewer slots)",
        errno.ENFILE: "this machine has no file descriptor left",
        errno.EAGAIN: "no more processes allowed (limit on processes per user)",
        errno.ENOMEM: "out of memory",
    }.get(error.errno or 0, str(error))
    return SpawnFailed(f"cannot start {name}: {why}", error.errno)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
