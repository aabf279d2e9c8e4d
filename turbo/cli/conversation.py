"""A transcript as lines of text, its tools with their results folded. No I/O.

> Count the sheep.

I will look.
* Bash  wc -l sheep.txt
  | 12 sheep.txt
There are 12.

-- success, 2 turns, $0.0123
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from turbo.client.conversation import ConversationEntry, EntryKind, entries

if TYPE_CHECKING:
    from turbo.client.transcript import TranscriptLine

TOLD_LINES = 12
"""Of a prompt or a message."""

RESULT_LINES = 3
RESULT_CHARACTERS = 200
INPUT_CHARACTERS = 160


def shown(line: "TranscriptLine") -> Iterator[str]:
    """The lines of text for one line of a transcript; none for what only a machine needs. As the agent wrote them: make them safe
    before a terminal gets them."""
    for entry in entries(line):
        mark = f"[{entry.who}] " if entry.who else ""
        yield from (f"{mark}{text}" if text else text for text in _lines(entry))


def _lines(entry: ConversationEntry) -> Iterator[str]:
    match entry.kind:
        case EntryKind.RUN:
            yield f"== {entry.text}"
        case EntryKind.OWN_NOTE:
            yield f"[turbo] {entry.text}"
        case EntryKind.TOLD:
            yield ""
            yield from _folded(entry.text, "> ", TOLD_LINES)
            yield ""
        case EntryKind.SAID:
            yield from entry.text.rstrip().splitlines()
        case EntryKind.THOUGHT:
            yield f"({entry.text})"
        case EntryKind.CALL if entry.name:
            yield f"* {entry.name}  {_short(' '.join(entry.text.split()), INPUT_CHARACTERS)}".rstrip()
        case EntryKind.CALL:
            yield f"* {_short(entry.text, INPUT_CHARACTERS)}"
        case EntryKind.QUESTION:
            yield f"? {entry.text}"
            yield from (f"    - {label}" for label in entry.options)
        case EntryKind.RESULT | EntryKind.FAILED:
            mark = "  | " if entry.kind is EntryKind.RESULT else "  ! "
            yield from _folded(entry.text, mark, RESULT_LINES, RESULT_CHARACTERS)
        case EntryKind.NOTE:
            yield f"-- {_short(' '.join(entry.text.split()), RESULT_CHARACTERS)}"
        case EntryKind.OVER:
            yield ""
            yield f"-- {entry.text}"
        case EntryKind.RAW:
            yield entry.text


def _folded(text: str, mark: str, most: int, characters: int | None = None) -> Iterator[str]:
    lines = text.rstrip().splitlines() or ["(nothing)"]
    for line in lines[:most]:
        yield mark + (_short(line, characters) if characters is not None else line)
    if len(lines) > most:
        yield f"{mark}… {len(lines) - most:,} more lines (--raw shows them)"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
