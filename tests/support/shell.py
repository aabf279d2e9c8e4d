"""`turbo` as a person calls it: in a pipe, and at a terminal of a given size."""

import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import prefork
from tests.support.prefork import TURBO

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-_])")


@dataclass(frozen=True)
class Done:
    """How a call ended. At a terminal everything is in `out`, escapes included."""

    code: int
    out: str
    err: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def text(self) -> str:
        """What a terminal showed, without its escapes."""
        return _ESCAPE.sub("", self.out).replace("\r\n", "\n")

    def one_line(self, code: int, text: str) -> None:
        """It failed with one clear line on standard error, and nothing on standard output."""
        assert (self.code, self.out) == (code, ""), (self.code, self.out, self.err)
        assert self.err.count("\n") == 1, self.err
        assert text in self.err
        assert "Traceback" not in self.err


@dataclass
class Shell:
    """`shell("tasks", "--json")` is a call in a pipe."""

    dsn: str
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"", **env: str) -> Done:
        done = prefork.run(
            [TURBO, *arguments],
            stdin=stdin if isinstance(stdin, bytes) else stdin.encode(),
            env=self.environment(env),
            cwd=self.cwd,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TURBO_", "PG", "NO_COLOR", "COLUMNS"))}
        return {**kept, "TURBO_DSN": self.dsn, **self.env, **(more or {})}

    def terminal(self, *arguments: str | Path, columns: int = 80, rows: int = 24, **env: str) -> "Terminal":
        return Terminal([str(TURBO), *map(str, arguments)], self.environment(env), self.cwd, columns, rows)


class Terminal:
    """A call with a terminal in front of it: `said` waits for text, `type` types, `ended` waits for the end."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path, columns: int, rows: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._ours = ours
        self._said = b""
        self._typed = ""
        self.process = prefork.popen(
            argv,
            env={**env, "TERM": "xterm-256color"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        self._typed = text
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, typed."""
        self.type("\x03")

    def said(self, text: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while text not in self._text():
            assert time.monotonic() < end, f"{text!r} not within {seconds} s in\n{self._text()}"
            assert self._read(), f"it ended without saying {text!r}:\n{self._text()}"

    def ended(self, seconds: float = 30.0) -> Done:
        end = time.monotonic() + seconds
        again = time.monotonic() + 3
        while self._read():
            assert time.monotonic() < end, f"not ended within {seconds} s:\n{self._text()}"
            if self._typed == "\x03" and time.monotonic() > again:
                # A Ctrl-C right before Python's input() blocks is only seen with the next key: a person types it again.
                again = time.monotonic() + 3
                with contextlib.suppress(OSError):
                    self.interrupt()
        os.close(self._ours)
        return Done(self.process.wait(10), self._said.decode())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def _text(self) -> str:
        return _ESCAPE.sub("", self._said.decode(errors="replace"))

    def _read(self) -> bool:
        """Whether there may be more."""
        if not select.select([self._ours], [], [], 0.2)[0]:
            return True
        try:
            chunk = os.read(self._ours, 65536)
        except OSError as error:  # how Linux says that the other end is closed
            if error.errno != errno.EIO:
                raise
            return False
        self._said += chunk
        return bool(chunk)
