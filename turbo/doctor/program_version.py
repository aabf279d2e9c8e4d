"""The version of a program on this host: the first number with dots that it prints for --version."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress

from turbo.executors.agent.program import with_program_directory

ANSWER_SECONDS = 30.0
MOST_BYTES = 4096
HANDED = ("HOME", "PATH", "USER", "LANG", "LC_ALL", "TMPDIR")
"""The variables that the program gets: the shell's others may hold secrets."""

_VERSION = re.compile(rb"(?<![\w.])v?(\d{1,6}(?:\.\d{1,6}){1,3})(?!\d)")


def version_of(program: str, environment: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> str | None:
    """'2.1.330'; None where the program fails, prints none, or does not end in time. Nothing else of its output is kept, and no
    process of it stays."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory(prefix="turbo-version-") as empty:
        handed = {name: environment[name] for name in HANDED if name in environment}
        try:
            process = subprocess.Popen(
                [program, "--version"], env=with_program_directory(program, handed), cwd=empty, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            return None
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(OSError):  # none is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        found = _VERSION.search(output.read(MOST_BYTES))
    return found[1].decode("ascii") if code == 0 and found else None
