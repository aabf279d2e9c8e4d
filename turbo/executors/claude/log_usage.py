"""What a call of the Claude CLI used, from the log of its attempt: its worker was killed, and nobody else heard its stream."""

import os
from pathlib import Path

from turbo.domain.outcome import ModelUsage
from turbo.executors.claude.cli import LINE_BYTES
from turbo.executors.claude.stream import Transcript
from turbo.host.regular_file import open_regular
from turbo.process.attempt_log import HEAD_BYTES, STDERR_MARK

MOST_BYTES = HEAD_BYTES + LINE_BYTES
"""Of one call: its log has no more while it runs."""


def used_in(log: Path, begin: int) -> tuple[ModelUsage, ...]:
    """Per model, by the lines from byte `begin` on: at most what its answers said until then. Blocks. Raises OSError."""
    transcript = Transcript()
    with os.fdopen(open_regular(log), "rb") as file:
        file.seek(begin)
        left = MOST_BYTES
        while left > 0 and (line := file.readline(min(LINE_BYTES, left))):
            left -= len(line)
            if not line.startswith(STDERR_MARK):
                transcript.read(line, cut=not line.endswith(b"\n"))
    return transcript.usage
