"""A diff as lines with their kinds. The text is an agent's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LINE_CHARACTERS = 2000
LINES_AT_FIRST = 400
"""On the task's page; the diff's own page shows LINES."""

LINES = 20_000


@dataclass(frozen=True, slots=True)
class DiffPart:
    """Lines with their kinds: `file`, `hunk`, `plus`, `minus`, `same`. `left`: so many more there are."""

    lines: Sequence[tuple[str, str]]
    left: int


def diff_part(content: bytes, most: int) -> DiffPart:
    lines = content.decode("utf-8", "replace").rstrip("\n").split("\n")
    return DiffPart(tuple(_kinds(lines[:most])), max(0, len(lines) - most))


def _kinds(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Within a hunk, `---` and `+++` are lines that were taken out or put in."""
    header = True
    for line in lines:
        if line.startswith("diff --git "):
            header = True
        elif line.startswith("@@"):
            header = False
        kind = "file" if header else {"@": "hunk", "+": "plus", "-": "minus"}.get(line[:1], "same")
        yield kind, line[:LINE_CHARACTERS]
