"""The CLI's session file, as it writes it: `--session-mirror` prints each row of it, but what it keeps of requests.

    {"type":"transcript_mirror","filePath":"/home/a/.claude/projects/-work/6f1c….jsonl","entries":[ROW, …]}

The CLI also prints most of what the agent says as lines of its stream; those are not needed then. A CLI that mirrors nothing is
known by its end: its lines are stored in place of a session, for people, and no other host can go on from them.
"""

import json
import re
from collections.abc import Sequence

from turbo.domain.transcript import Row, TranscriptSink

MIRROR_FLAG = "--session-mirror"
MIRROR = b'{"type":"transcript_mirror"'

_CONVERSATION = (b'{"type":"assistant"', b'{"type":"user"')
_PIECES = b'{"type":"stream_event"'
_CONTROL = (b'{"type":"control_', b'{"type":"keep_alive"', b'{"type":"command_lifecycle"')
_SESSION_FILE = re.compile(r"([0-9a-fA-F-]{36})(?:\.jsonl$|/)")
MOST_HELD = 64
MOST_HELD_BYTES = 1024 * 1024


def session_rows(line: bytes) -> tuple[str, Sequence[Row]] | None:
    """The path, relative to the session, and the rows of one line of the mirror. See ReadRows."""
    try:
        message = json.loads(line)
        path, rows = message["filePath"], message["entries"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    relative = relative_path(path) if isinstance(path, str) else None
    if relative is None or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return relative, rows


def relative_path(path: str) -> str | None:
    """`SESSION.jsonl`, or `SESSION/subagents/agent-x.jsonl`; None: it names no file of a session."""
    found = None
    for match in _SESSION_FILE.finditer(path):
        if match.start() == 0 or path[match.start() - 1] == "/":
            found = path[match.start() :]  # the last: a directory above may have such a name, too
    if found is None or len(found) > 300 or not re.fullmatch(r"[\w./-]+", found, re.ASCII) or ".." in found:
        return None
    return found


class Mirror:
    """What of one call of the CLI goes into the transcript of its run."""

    def __init__(self, sink: TranscriptSink) -> None:
        self._sink = sink
        self._mirrors = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._gave_up = False

    def mirrored(self, line: bytes, cut: bool) -> None:
        """A line of the mirror."""
        self._mirrors = True
        self._held.clear()
        if cut:
            self._sink.lost(f"a row of the session was longer than {len(line):,} bytes, and is left out")
        else:
            self._sink.later(line, session_rows)

    def printed(self, line: bytes, cut: bool) -> None:
        """A line of the stream."""
        if not line.strip() or line.startswith((_PIECES, *_CONTROL)):
            return
        if not line.startswith(_CONVERSATION) or self._gave_up:
            self._keep(line, cut)
        elif not self._mirrors:
            self._held.append(b"" if cut else line)
            self._held_bytes += len(line)
            if len(self._held) > MOST_HELD or self._held_bytes > MOST_HELD_BYTES:
                self._give_up()

    def close(self) -> None:
        """The call is over."""
        if self._held and not self._mirrors:
            self._give_up()

    def _give_up(self) -> None:
        self._gave_up = True
        self._sink.lost("this CLI does not tell the rows of its session")
        for line in self._held:
            self._keep(line, not line)
        self._held.clear()

    def _keep(self, line: bytes, cut: bool) -> None:
        if cut:
            self._sink.lost("a line of output was too long, and is left out")
        else:
            self._sink.line(line)
