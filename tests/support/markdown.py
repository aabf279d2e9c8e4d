"""The shell blocks of a page, run as its reader would run them: in order, in bash, in terminals that stay open.

A block ```sh is for the first terminal; ```sh second-terminal is for another one (any word names it), which is left
running. A ```text block is what the block before it printed, line by line; `…` stands for anything.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

EXECUTORS = Path(__file__).parents[2] / "docs" / "executors.md"
CODEX_PAGE = EXECUTORS.parent / "executors" / "codex.md"
ACP_PAGE = EXECUTORS.parent / "executors" / "acp.md"
COPILOT_PAGE = EXECUTORS.parent / "executors" / "copilot.md"
FENCE = re.compile(r"^```(\w+)?[ \t]*([\w -]*)\n(.*?)^```$", re.M | re.S)
MAIN = ""


@dataclass(frozen=True)
class Block:
    language: str
    info: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m[1] or "", m[2].strip(), m[3], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text)]


def table_under(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose first line begins with `heading`, without that line."""
    lines = page.read_text(encoding="utf-8").split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith(heading))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


class Bash:
    """One open terminal. Its output goes to a file that the test reads."""

    def __init__(self, directory: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._out = log.open("wb")
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=directory, env=dict(environment), stdin=subprocess.PIPE,
            stdout=self._out, stderr=self._out, start_new_session=True, bufsize=0,
        )  # fmt: skip

    def run(self, text: str, seconds: float) -> str:
        """What the block prints; fails when one of its commands does."""
        mark = uuid.uuid4().hex
        start = len(self.said())
        self.send(f"set -eE -o pipefail; trap 'echo; echo {mark} 1' ERR\n{text}\ntrap - ERR; echo; echo {mark} 0\n")
        end = time.monotonic() + seconds
        while mark not in (said := self.said()[start:]):
            assert self._process.poll() is None, f"bash ended:\n{text}\nit printed\n{said}"
            assert time.monotonic() < end, f"not done within {seconds} s:\n{text}\nit printed\n{said}"
            select.select([], [], [], 0.02)
        printed, _, code = said.partition(f"\n{mark} ")
        assert code.startswith("0"), f"failed:\n{text}\nit printed\n{printed}"
        return printed

    def send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def said(self) -> str:
        return self._log.read_bytes().decode(errors="replace")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)
        self._out.close()


@contextlib.contextmanager
def terminals(directory: Path, environment: Mapping[str, str], logs: Path) -> Iterator[dict[str, Bash]]:
    """Opened as they are asked for; all closed at the end, the youngest first."""

    class Opened(dict[str, Bash]):
        def __missing__(self, name: str) -> Bash:
            self[name] = Bash(directory, environment, logs / f"terminal{len(self)}.log")
            return self[name]

    opened = Opened()
    try:
        yield opened
    finally:
        for one in reversed(opened.values()):
            one.close()


def printed_as(expected: str, printed: str) -> bool:
    """Whether the lines stand in what was printed, in their order; a line that is `…` alone stands for any number."""
    lines = [line for line in expected.strip().splitlines() if line.strip() != "…"]
    patterns = [".*".join(re.escape(part) for part in line.strip().split("…")) for line in lines]
    place = 0
    found = [line.strip() for line in printed.splitlines()]
    for pattern in patterns:
        at = next((i for i in range(place, len(found)) if re.fullmatch(pattern, found[i])), None)
        if at is None:
            return False
        place = at + 1
    return True
