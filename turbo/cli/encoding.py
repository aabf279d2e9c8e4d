"""Output in an encoding that lacks characters: others are printed in their place, and no command ends at one.

JSON loses nothing: it is escaped where the encoding is not Unicode (turbo.cli.output.print_json).
"""

import codecs
import io
import sys

STAND_INS = str.maketrans(
    {
        **dict.fromkeys("→▶", ">"), "←": "<", "↑": "^", "↓": "v", "✓": "+", "✗": "x", "…": "~", "≥": ">", "×": "x",
        **dict.fromkeys("–—─═┼┴┤┘└", "-"), "│": "|", **dict.fromkeys("·•", "."), **dict.fromkeys("“”", '"'),
        **dict.fromkeys("‘’", "'"), **dict.fromkeys("▁▂▃", "_"), **dict.fromkeys("▄▅▆", "="), **dict.fromkeys("▇█▌", "#"),
    }
)  # fmt: skip
"""One ASCII character for each that turbo itself prints; every other becomes a question mark."""

_NAME = "turbo.stand_ins"


def print_any_character(*, stderr: bool) -> None:
    """Also for `stderr`, or leave that as Python has it: with escapes, which lose nothing in a log."""
    codecs.register_error(_NAME, _stand_in)
    for stream in (sys.stdout, sys.stderr if stderr else None):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def is_unicode(stream: object) -> bool:
    """Whether a stream takes every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return lacking.translate(STAND_INS).encode("ascii", "replace").decode("ascii"), error.end
