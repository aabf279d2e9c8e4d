"""A real terminal for a test: tmux, of a given size, with its keys and what stands on it. Dies with the test."""

import contextlib
import os
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.requirements import require
from tests.support.waiting import until


@dataclass
class Terminal:
    socket: str
    columns: int
    rows: int

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [require("tmux"), "-L", self.socket, "-f", "/dev/null", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self, *, colours: bool = False) -> str:
        """What stands on it, line by line; `colours`: with its escape sequences."""
        return self.tmux("capture-pane", "-p", "-t", "0", *(["-e"] if colours else []))

    def keys(self, *keys: str) -> None:
        """As tmux names them: Enter, Escape, Tab, Down, or the text itself."""
        self.tmux("send-keys", "-t", "0", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-t", "0", "-x", str(columns), "-y", str(rows))

    def shows(self, *texts: str, seconds: float = 20.0) -> str:
        """The screen, once all of these stand on it."""
        return self._comes(lambda: all(t in self.screen() for t in texts), seconds, f"{texts}")

    def hides(self, text: str, seconds: float = 20.0) -> str:
        return self._comes(lambda: text not in self.screen(), seconds, f"no {text!r}")

    def _comes(self, predicate: Callable[[], bool], seconds: float, what: str) -> str:
        try:
            until(predicate, seconds)
        except AssertionError:
            raise AssertionError(f"not within {seconds} s: {what} on\n{self.screen()}") from None
        return self.screen()


@contextlib.contextmanager
def terminal(
    command: Sequence[object], columns: int, rows: int, environment: Mapping[str, str | Path] | None = None
) -> Iterator[Terminal]:
    """Run it there; when it has ended, `[exit N]` stands on the screen."""
    one = Terminal(f"turbo-{uuid.uuid4().hex[:10]}", columns, rows)
    known = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TMUX", "COLUMNS", "LINES")}
    words = ["env", *(f"{k}={v}" for k, v in (environment or {}).items()), *map(str, command)]
    line = f"{shlex.join(words)}; printf '[exit %s]\\n' $?; exec cat"
    subprocess.run(
        [require("tmux"), "-L", one.socket, "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows),
         "sh", "-c", line],
        check=True,
        env={**known, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
    )  # fmt: skip
    try:
        yield one
    finally:
        with contextlib.suppress(AssertionError):
            one.tmux("kill-server")
