"""A line of the CLI that is nested too deep for Python's parser, without what is too deep in it.

An agent can nest the input of a call as deep as it likes, and the CLI repeats it in its result: as the answer, or as a call that was
denied. Without that result the run would wait for it until its time is over.
"""

import re

LEVELS = 150
"""More than an answer may have (turbo.executors.schemas.strict_json), so that one that was cut here is never taken for whole."""

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""A string that does not end is one, too: it is not tried again from each quote in it."""


def shallow(line: bytes) -> bytes:
    """The line with null in the place of each list and object below LEVELS. A line that does not end what it begins stays as it is."""
    kept, depth, start = [], 0, 0
    for token in _TOKEN.finditer(line):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth == LEVELS + 1:
                    kept += [line[start : token.start()], b"null"]
            case b"]" | b"}":
                if depth == LEVELS + 1:
                    start = token.end()
                depth -= 1
    return line if depth > LEVELS else b"".join([*kept, line[start:]])
