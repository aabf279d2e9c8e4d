"""A part of a transcript as HTML: one element a batch, with folded prompts and results. All of it is hostile text.

    <div class="batch" data-batch="7-12" data-after="7-11"> entries </div>

Short results are shown whole, long ones folded. What is longer still, or cannot be read, is cut, with a link to the raw lines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from turbo.client.conversation import ConversationEntry, EntryKind, entries
from turbo.client.transcript_page import ShownBatch, TranscriptPart
from turbo.web.site import Site

SUMMARY_CHARACTERS = 160
CALL_CHARACTERS = 2000
RESULT_LINES = 6
RESULT_CHARACTERS = 600
"""Of a result that is not unfolded."""

WHOLE_CHARACTERS = 20_000
"""Of one entry, also unfolded."""

ENTRIES = 400
"""Of one batch."""


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """`summary`: what is seen while it is folded; None: it is not folded. `cut`: characters that are left out."""

    kind: str
    who: str
    name: str
    text: str
    summary: str | None
    cut: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownPart:
    """`left_out`: entries, or characters of a line that is too long to be read; the raw lines have them."""

    batch: ShownBatch
    entries: tuple[ShownEntry, ...]
    left_out: str


def name_of(place: tuple[int, int]) -> str:
    return f"{place[0]}-{place[1]}"


def place_of(name: str) -> tuple[int, int]:
    """Raises ValueError."""
    token, _, batch = name.partition("-")
    if not (name.isascii() and token.isdigit() and batch.isdigit() and len(token) < 19 and len(batch) < 10):
        raise ValueError("a place in a transcript is two numbers: 7-12")
    return int(token), int(batch)


def batches_html(site: Site, task_id: str, part: TranscriptPart) -> Iterator[tuple[str, str]]:
    """Name and HTML of each batch."""
    for batch in part.batches:
        name = name_of(batch.place)
        after = name_of(batch.after) if batch.after is not None and batch.after[1] >= 0 else ""
        yield name, site.fragment("_batch.html", task_id=task_id, name=name, after=after, part=shown_batch(batch))


def shown_batch(batch: ShownBatch) -> ShownPart:
    if batch.cut:
        text = batch.lines[0].text[:RESULT_CHARACTERS] if batch.lines else ""
        return ShownPart(batch, (ShownEntry("raw", "", "", text, None, batch.size - len(text)),), "")
    found = [one for line in batch.lines for one in entries(line)]
    left = len(found) - ENTRIES
    return ShownPart(batch, tuple(map(_entry, found[:ENTRIES])), f"{left:,} more entries" if left > 0 else "")


def _entry(entry: ConversationEntry) -> ShownEntry:
    text = entry.text.rstrip()
    summary: str | None = None
    most = WHOLE_CHARACTERS
    if entry.kind in (EntryKind.RESULT, EntryKind.FAILED, EntryKind.RAW):
        lines = text.splitlines()
        if len(lines) > RESULT_LINES + 2 or len(text) > RESULT_CHARACTERS + 200:
            summary = "\n".join(lines[:RESULT_LINES])[:RESULT_CHARACTERS]
        text = text or "(nothing)"
    elif entry.kind is EntryKind.TOLD:
        lines = text.splitlines()
        if len(lines) > 2 or len(text) > SUMMARY_CHARACTERS:
            summary = (lines[0] if lines else "")[:SUMMARY_CHARACTERS]
    elif entry.kind is EntryKind.CALL:
        most = CALL_CHARACTERS
    return ShownEntry(
        entry.kind.value, entry.who, entry.name, text[:most], summary, max(0, len(text) - most), entry.options
    )
