"""What leaves a command: no text steers the terminal, and no command ends at a character that the encoding lacks.

    echo, print, a traceback ──▶ VisibleStream ──▶ made visible (turbo.domain.visible) ──▶ encoded, with stand-ins
    rich ──its own escapes, around text that was made visible──▶ VisibleStream.escapes ─────────────┘

JSON loses nothing: it is escaped where the encoding is not Unicode (turbo.cli.output.print_json).
"""

import codecs
import io
import sys
from typing import Any

from turbo.domain.visible import visible

STAND_INS = str.maketrans(
    {
        **dict.fromkeys("→▶", ">"), "←": "<", "↑": "^", "↓": "v", "✓": "+", "✗": "x", "…": "~", "≥": ">", "×": "x",
        **dict.fromkeys("–—─═┼┴┤┘└", "-"), **dict.fromkeys("│├", "|"), **dict.fromkeys("·•", "."), **dict.fromkeys("“”", '"'),
        **dict.fromkeys("‘’", "'"), **dict.fromkeys("▁▂▃", "_"), **dict.fromkeys("▄▅▆", "="), **dict.fromkeys("▇█▌", "#"),
    }
)  # fmt: skip
"""One ASCII character for each that turbo itself prints; every other becomes a question mark."""

_NAME = "turbo.stand_ins"


class VisibleStream(io.TextIOWrapper):
    """Standard output or error. Newlines and tabs pass. Bytes that shall pass unchanged, into a pipe, go to `buffer`."""

    def __init__(self, stream: io.TextIOWrapper, errors: str | None) -> None:
        stream.flush()
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._replaced = stream  # which would close the buffer as it goes

    def write(self, text: str) -> int:
        super().write(visible(text, lines=True))
        return len(text)

    @property
    def escapes(self) -> Any:
        """The same stream for rich, whose text was made visible before it was styled (turbo.cli.output.console)."""
        return _Escapes(self)


class _Escapes:
    def __init__(self, stream: VisibleStream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_safely(*, stand_ins_on_stderr: bool) -> None:
    """Replace standard output and error. Without stand-ins, stderr keeps Python's escapes, which lose nothing in a log."""
    codecs.register_error(_NAME, _stand_in)
    sys.stdout = _replaced(sys.stdout, _NAME)
    sys.stderr = _replaced(sys.stderr, _NAME if stand_ins_on_stderr else None)


def _replaced(stream: Any, errors: str | None) -> Any:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return VisibleStream(stream, errors or stream.errors)


def is_unicode(stream: object) -> bool:
    """Whether a stream takes every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return lacking.translate(STAND_INS).encode("ascii", "replace").decode("ascii"), error.end
