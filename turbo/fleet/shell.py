"""Runs a line of sh on a host of the fleet, locally or over ssh, or only prints it.

    here    /bin/sh -c LINE
    ssh     ssh -o BatchMode=yes … -- me@beta "/bin/sh -c 'LINE'"      (the login shell there may be any)
    dry     prints the command, ready to paste; returns an assumed answer

A line has no line breaks: it passes through an unknown login shell in single quotes. The content of a file goes through
standard input, so it is never quoted. ssh never prompts: it needs a key or an agent.
"""

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from turbo.fleet.instance import Host

SSH = (
    "ssh", "-T",
    "-o", "BatchMode=yes",
    "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3",
)  # fmt: skip
SSH_FAILED = 255
COMMAND_SECONDS = 60.0


class FleetError(Exception):
    """A host or its service manager failed. The message has the remedy."""


@dataclass(frozen=True, slots=True)
class Done:
    code: int = 0
    out: str = ""
    err: str = ""

    @property
    def complaint(self) -> str:
        """The last line of its output, for a message."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit {self.code}"


class Shell(Protocol):
    """Runs commands on one host."""

    host: Host
    dry: bool

    def run(self, line: str, *, stdin: str | None = None, assume: Done = Done()) -> Done:
        """Run it; a dry run returns `assume`. Raises FleetError when the host cannot be reached."""
        ...


def command(host: Host, line: str) -> list[str]:
    """The argv to execute on this machine."""
    if "\n" in line:
        raise AssertionError("a line is one line")
    if host.ssh is None:
        return ["/bin/sh", "-c", line]
    return [*SSH, "--", host.ssh, f"/bin/sh -c {shlex.quote(line)}"]


class HostShell:
    """Runs the commands."""

    dry = False

    def __init__(self, host: Host, seconds: float = COMMAND_SECONDS) -> None:
        self.host = host
        self._seconds = seconds

    def run(self, line: str, *, stdin: str | None = None, assume: Done = Done()) -> Done:  # noqa: ARG002
        try:
            ended = subprocess.run(
                command(self.host, line),
                input=(stdin or "").encode(),
                capture_output=True,
                timeout=self._seconds,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FleetError(f"{self.host.name} did not answer within {self._seconds:.0f} s to: {line}") from None
        except FileNotFoundError as error:
            raise FleetError(f"{error.filename} is not on this machine; install it") from None
        done = Done(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
        if self.host.ssh is not None and done.code == SSH_FAILED:
            raise FleetError(
                f"{self.host.name} cannot be reached: {done.complaint} (try `ssh -o BatchMode=yes {self.host.ssh} true`)"
            )
        return done


class DryShell:
    """Prints the commands. The content of a file is not shown: `turbo fleet render` shows it."""

    dry = True

    def __init__(self, host: Host, print_line: Callable[[str], None]) -> None:
        self.host = host
        self._print_line = print_line

    def run(self, line: str, *, stdin: str | None = None, assume: Done = Done()) -> Done:
        shown = line if self.host.ssh is None else shlex.join(command(self.host, line))
        if stdin is not None:
            shown += "    # its standard input is the file, as `turbo fleet render` prints it"
        self._print_line(shown)
        return assume
