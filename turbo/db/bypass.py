"""Bypasses: the way of a claim around rows at the head of a queue that this worker may not take now.

    claims walk the queue ──one was slow──▶ a survey: does the head hold nothing for us? ──yes──▶ claims begin behind it
        ▲                                        │ no                                               │
        └────────────────────────────────────────┴──── the next survey finds a row to take ◀────────┘

A full key, another host's conversation, a paused account's types, a spent budget: such rows stay `pending`, and each claim would
walk past them. What is in the way differs from worker to worker, so nothing is written into the rows. A worker remembers it: for
each priority at the head, up to which `run_after` it may take no row (tasks/claim.sql: `past`, `survey`). Promises:
- The usual claim is sent as it is, until a claim was slow and a survey found at least LEAST_ROWS rows in the way.
- A row that comes later is never passed by: it is newer than those, or has another priority, or none. A survey leaves
  rows alone that are younger than `young`, because a transaction that is still open may bring some of their age.
- A row that is passed by and waits for a key is found by the claim after that key's run ends.
- Any other row that is passed by, and may be taken now, is found by the next survey. There is one after a claim, once `soon`
  to `longest` seconds have gone by since the last one; the seconds are DUTY times as long as that took.
- Another filter (an account is back, a budget has ended) has a bypass of its own. It is never used for a wider one.
- An idle worker is told of new rows. It surveys once after it went idle, and then no more until it claims again.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from turbo.domain.type_filter import TypeFilter

LEAST_ROWS = 100
"""Fewer rows cost a claim less than the way around them."""

MOST_ROWS = 100_000
"""Rows that one survey reads. Of a longer head, claims walk past the rest."""

MOST_PRIORITIES = 16
MOST_KEYS = 1000

KEYS_A_CLAIM = 50
"""Keys that a claim without a wake-up asks about, of all that rows wait for: others each time."""

MOST_FILTERS = 32
"""Bypasses that a worker remembers. A filter changes with each account that pauses, and comes back with it."""

DUTY, HASTY_DUTY = 100, 10
"""How many times as long as a survey the pause after it is: usually, and where this worker was woken in vain or the head has
changed."""

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1  # every priority is between them

Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class BypassTimings:
    """Seconds. `slow`: a claim that took longer makes a survey worth its while. `none`: until the next one after a survey that found
    no rows in the way. `soon`, `longest`: the bounds of the pause otherwise; `hasty`: its lower bound where it is shortened. `young`:
    what is younger is never passed by."""

    slow: float = 0.0015
    none: float = 2.0
    soon: float = 1.0
    longest: float = 10.0
    hasty: float = 0.05
    young: float = 2.0


USUAL_BYPASSES = BypassTimings()


@dataclass(frozen=True, slots=True)
class Filtered:
    """A queue, and what a claim leaves out of it."""

    queue: str
    types: TypeFilter
    spent: str = ""


@dataclass(frozen=True, slots=True)
class QueueHead:
    """Rows of one priority that are passed by: all up to the moment `until`. `since`: the first moment after it."""

    priority: int
    until: str
    since: str


@dataclass(frozen=True, slots=True)
class Bypass:
    """What claims pass by, the highest priority first. `keys`: what some of these rows wait for. `rows`: how many there were."""

    heads: tuple[QueueHead, ...]
    keys: tuple[str, ...] = ()
    rows: int = 0

    def parameters(self, *, woken: bool) -> tuple[str, dict[str, object]]:
        """The addition to the claim's name (turbo.sql), and its parameters. `woken`: any key may have come free."""
        ranges = json.dumps(_ranges(self.heads, waiting=bool(self.keys)))
        if not self.keys:
            return "+past", {"ranges": ranges}
        few = woken or len(self.keys) <= KEYS_A_CLAIM
        return "+past+keys", {
            "ranges": ranges,
            "keys": list(self.keys if few else random.sample(self.keys, KEYS_A_CLAIM)),
        }


def survey_parameters(timings: BypassTimings) -> dict[str, object]:
    """Of a survey, besides those of a claim."""
    most = {"most": MOST_ROWS, "most_keys": MOST_KEYS, "most_priorities": MOST_PRIORITIES}
    return {**most, "young": timedelta(seconds=timings.young)}


def _ranges(heads: Sequence[QueueHead], *, waiting: bool) -> list[dict[str, object]]:
    """Where a claim looks, in claim order. `passed`: only for rows whose key came free."""
    found: list[dict[str, object]] = []

    def add(low: int, high: int, since: str = "-infinity", until: str = "infinity", *, passed: bool = False) -> None:
        if low <= high:
            found.append({"low": low, "high": high, "since": since, "until": until, "passed": passed})

    above = _MOST
    for head in heads:
        add(head.priority + 1, above)
        if waiting:
            add(head.priority, head.priority, until=head.until, passed=True)
        add(head.priority, head.priority, since=head.since)
        above = head.priority - 1
    add(_LEAST, above)
    return found


@dataclass(slots=True)
class _Known:
    """What is known under one filter. Times are monotonic seconds."""

    bypass: Bypass | None = None
    suspected: bool = False  # a claim was slow
    surveyed_at: float = float("-inf")
    took: float = 0.0
    due_at: float = float("-inf")
    settled: bool = False  # there was a survey after the last claim that took something, or was woken


@dataclass(slots=True)
class Bypasses:
    """Of one worker. Forgotten with it: the next one begins with the usual claim."""

    timings: BypassTimings = USUAL_BYPASSES
    _known: dict[Filtered, _Known] = field(default_factory=dict)  # the last used at the end

    def get(self, filtered: Filtered) -> Bypass | None:
        known = self._known.get(filtered)
        return None if known is None else known.bypass

    def claimed(self, filtered: Filtered, seconds: float, *, took: bool, woken: bool) -> None:
        """A claim was answered after `seconds`. `woken`: it was made because of a notification."""
        known = self._known.pop(filtered, None) or _Known()
        self._known[filtered] = known
        if len(self._known) > MOST_FILTERS:
            del self._known[next(iter(self._known))]
        known.suspected |= seconds > self.timings.slow
        if took or woken:
            known.settled = False
        if woken and not took and known.bypass is not None:
            known.due_at = min(known.due_at, known.surveyed_at + max(self.timings.hasty, HASTY_DUTY * known.took))

    def due_in(self, filtered: Filtered) -> float | None:
        """Seconds until the next survey; None: there is no need for one."""
        known = self._known.get(filtered)
        if known is None or (known.bypass is None and not known.suspected):
            return None
        return max(0.0, known.due_at - time.monotonic())

    def settled(self, filtered: Filtered) -> bool:
        """Whether a survey has seen all that the last claims may have passed by."""
        known = self._known.get(filtered)
        return known is None or known.bypass is None or known.settled

    def surveyed(self, filtered: Filtered, rows: Sequence[Row], seconds: float) -> bool:
        """What a survey found, `seconds` after it was sent. Whether there is a row to take."""
        known = self._known.setdefault(filtered, _Known())
        before, known.bypass = known.bypass, _bypass(rows)
        known.surveyed_at, known.took = time.monotonic(), seconds
        known.suspected, known.settled = False, True
        if known.bypass is None:
            pause = self.timings.none
        else:
            changed = before is None or before.heads != known.bypass.heads
            times, least = (HASTY_DUTY, self.timings.hasty) if changed else (DUTY, self.timings.soon)
            pause = min(max(least, times * seconds), self.timings.longest)
        known.due_at = known.surveyed_at + pause
        return bool(rows[0][4])

    def survey_failed(self, filtered: Filtered) -> None:
        """The usual claim from now on, and no survey for a while."""
        self._known[filtered] = _Known(due_at=time.monotonic() + 6 * self.timings.longest)


def _bypass(rows: Sequence[Row]) -> Bypass | None:
    """Rows of the `survey` of tasks/claim.sql as what they say; None: too few rows are in the way."""
    found = [row for row in rows if row[0] is not None]
    count = sum(int(str(row[3])) for row in found)
    if count < LEAST_ROWS:
        return None
    heads = tuple(QueueHead(int(str(row[0])), str(row[1]), str(row[2])) for row in found)
    keys = found[0][5]
    assert isinstance(keys, list)
    return Bypass(heads, tuple(keys), count)
