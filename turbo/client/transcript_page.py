"""A part of a transcript, for a reader who looks at its end first: the last batches, those before, and what has come since."""

from dataclasses import dataclass

from turbo.client.operations import Query, Steps
from turbo.client.transcript import TranscriptLine

LINE_CHARACTERS = 1024 * 1024
"""Of one batch: a longer one is a single line, and is read in part."""

PART_CHARACTERS = 512 * 1024
"""Of one part, which has one batch at least."""

_FIRST, _MOST = 4, 32
"""Batches of one statement: few where they may be large."""

Place = tuple[int, int]
"""The `fencing_token` and the `batch` of a batch."""


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """One batch: its lines. `after`: the one before it, as far as it was read; None: there is none, or it was not. `cut`: it is one
    line of `size` characters, of which the beginning is here."""

    place: Place
    after: Place | None
    lines: tuple[TranscriptLine, ...]
    size: int
    cut: bool


@dataclass(frozen=True, slots=True)
class TranscriptPart:
    """Batches in their order. `more`: there are others in the direction of reading."""

    batches: tuple[ShownBatch, ...]
    more: bool


def since(task_id: str, after: Place) -> Steps[TranscriptPart]:
    """What follows a batch."""
    found, more = yield from _read("client/transcript_since", task_id, after)
    return TranscriptPart(_linked(found, after), more)


def before(task_id: str, first: Place | None) -> Steps[TranscriptPart]:
    """What is before a batch; None: the end of the transcript."""
    found, more = yield from _read("client/transcript_before", task_id, first)
    return TranscriptPart(_linked(found[::-1], None), more)


def batch(task_id: str, place: Place) -> Steps[str | None]:
    """The lines of one batch, whole; None: there is no such batch."""
    parameters = {"task_id": task_id, "token": place[0], "batch": place[1]}
    rows = (yield Query("client/transcript_batch", parameters)).rows
    return rows[0]["lines"] if rows else None


Read = tuple[Place, tuple[TranscriptLine, ...], int, bool]


def _read(statement: str, task_id: str, at: Place | None) -> Steps[tuple[list[Read], bool]]:
    """Up to PART_CHARACTERS, in the direction of the statement."""
    found: list[Read] = []
    size, limit = 0, _FIRST
    while True:
        token, number = at if at is not None else (None, None)
        parameters = {"task_id": task_id, "token": token, "batch": number, "most": LINE_CHARACTERS, "limit": limit}
        rows = (yield Query(statement, parameters)).rows
        for row in rows:
            if found and size + row["size"] > PART_CHARACTERS:
                return found, True
            at = row["fencing_token"], row["batch"]
            where = {name: row[name] for name in ("fencing_token", "batch", "at", "session_id", "kind", "path")}
            lines = tuple(TranscriptLine(**where, text=text) for text in row["lines"].split("\n") if text)
            found.append((at, lines, row["size"], row["size"] > LINE_CHARACTERS))
            size += row["size"]
        if len(rows) < limit:
            return found, False
        if size >= PART_CHARACTERS or len(found) >= _MOST:
            return found, True
        limit = _MOST - len(found)


def _linked(found: list[Read], after: Place | None) -> tuple[ShownBatch, ...]:
    batches = []
    for place, lines, size, cut in found:
        batches.append(ShownBatch(place, after, lines, size, cut))
        after = place
    return tuple(batches)
