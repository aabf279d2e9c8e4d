"""Statements of schedules: what is due, and the firing of slots (turbo.worker.scheduler)."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.db.lane import Lane
from turbo.db.store import Store
from turbo.domain.schedule import CatchUp

MOST_DUE = 25
"""Schedules that one statement fires: the first of a hundred is not to wait for the last."""


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule that is due (`next_at`), or whose next slot is to be computed (`next_at` None), as one look saw it.

    `since`: slots count from there. `last_at`: the last slot that was dealt with."""

    name: str
    cron: str
    timezone: str
    catch_up: CatchUp
    since: datetime
    last_at: datetime | None
    next_at: datetime | None
    rev: int


@dataclass(frozen=True, slots=True)
class Look:
    """What is due at `now`, by the clock of the database. `clock`: the same, in seconds since 1970. `asked_at`: when the look was
    sent, in monotonic seconds. `next_at`: the earliest slot after that, None without one. `watched`: some schedule pauses itself
    after failures. `more`: more may be due."""

    now: datetime
    clock: float
    asked_at: float
    next_at: float | None
    watched: bool
    due: tuple[DueSchedule, ...]

    @property
    def more(self) -> bool:
        return len(self.due) >= MOST_DUE


@dataclass(frozen=True, slots=True)
class Firing:
    """What is to be done about one schedule: `slots` get a task, `missed` others do not, and `upto` is the last of all of them.
    `later`: its next slot. `error`: why it has none."""

    schedule: DueSchedule
    slots: tuple[datetime, ...] = ()
    missed: int = 0
    upto: datetime | None = None
    later: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FiredSlot:
    """A slot that got its task. `late`: seconds from the slot to this."""

    name: str
    slot: str
    task_id: str
    late: float


@dataclass(frozen=True, slots=True)
class Fired:
    """What one firing did. `upto`: the last slot that was dealt with. `next_at`: the earliest slot of all schedules. Both in seconds
    since 1970; 0 for none and for now, `next_at` None without one. `left`: names of schedules that somebody has locked. `refused`:
    (name, error). `paused`: names. `skipped`: slots passed over."""

    upto: float
    next_at: float | None
    moved: int
    fired: tuple[FiredSlot, ...]
    left: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    paused: tuple[str, ...]
    skipped: int


class ScheduleStore(Store):
    """Bound to one worker, which the audit trail names."""

    def __init__(self, lane: Lane, worker_id: str, *, now: str | None = None) -> None:
        """`now`: the present, for tests; None: the database's clock."""
        super().__init__(lane)
        self._worker_id = worker_id
        self.now = now

    async def look(self, aside: Sequence[str] = ()) -> Look:
        """What is due, without the schedules `aside`."""
        asked_at = time.monotonic()
        ((seen,),) = await self._rows("schedules/due", {"now": self.now, "aside": list(aside), "most": MOST_DUE})
        return Look(
            now=datetime.fromisoformat(seen["now"]),
            clock=seen["clock"],
            asked_at=asked_at,
            next_at=seen["next"],
            watched=seen["watched"],
            due=tuple(_due(one) for one in seen["due"]),
        )

    async def fire(self, firings: Sequence[Firing]) -> Fired:
        """Do what `firings` say, to the schedules that are still as they were seen."""
        due = json.dumps([_document(one) for one in firings])
        ((done,),) = await self._rows("schedules/fire", {"due": due, "worker": self._worker_id, "now": self.now})
        return Fired(
            upto=done["upto"],
            next_at=done["next"],
            moved=done["moved"],
            fired=tuple(FiredSlot(f["name"], f["slot"], f["task_id"], f["late"]) for f in done["fired"]),
            left=tuple(done["left"]),
            refused=tuple((r["name"], r["error"]) for r in done["refused"]),
            paused=tuple(done["paused"]),
            skipped=done["skipped"],
        )

    async def judge(self) -> list[str]:
        """Count what became of their tasks. The names of schedules that were paused by it."""
        return list((await self._rows("schedules/judge", {}))[0][0])


def _due(row: dict[str, Any]) -> DueSchedule:
    moments = {name: row[name] and datetime.fromisoformat(row[name]) for name in ("since", "last_at", "next_at")}
    return DueSchedule(**row | {"catch_up": CatchUp(row["catch_up"])} | moments)


def _document(firing: Firing) -> dict[str, object]:
    schedule = firing.schedule
    return {
        "name": schedule.name,
        "rev": schedule.rev,
        "next_at": _text(schedule.next_at),
        "slots": [slot.isoformat() for slot in firing.slots],
        "missed": firing.missed,
        "upto": _text(firing.upto),
        "later": _text(firing.later),
        "error": firing.error,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
