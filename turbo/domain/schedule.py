"""Schedules: when work that repeats is due. Cron expressions are read by cronsim, which follows Debian's cron.

    cron + time zone ── timetable ──▶ Timetable ── after(moment) ──▶ the next slot, in UTC
                                          └── due(first, now) ──▶ the slots that get a task, how many do not, the slot after them

A slot is a whole second of one zone's clock. What becomes of it is decided in the database (migrations/0018_schedules.sql): a
host's clock is never asked here, every moment comes from there.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MISSED_SECONDS = 60.0
"""Slots count as missed, and `catch_up` says what becomes of them, when the oldest of them is late by more than this."""

MOST_CAUGHT_UP = 100
"""Slots that get their tasks at once, after an outage or a stall: the latest of them."""

COUNTED = 1000
"""Slots that are counted, of those that were due: a schedule of seconds may have missed millions."""

NAME_LENGTH = 200
"""Characters of a schedule's name, at most."""

CRON_LENGTH = 1000
"""Characters of a cron expression, at most."""

_UNKNOWABLE = ("localtime", "posixrules", "Factory")
"""Names in a time zone database that mean something else on each host, or nothing."""


class ScheduleError(ValueError):
    """A cron expression or time zone that gives no slots. The message is one line, for people."""


class UnknownZone(ScheduleError):
    """This host does not know the time zone. Another host may: its time zone database may be newer."""


class Overlap(StrEnum):
    """`agent_schedules.overlap`: what happens at a slot while one of the schedule's tasks is not over."""

    SKIP = "skip"  # the slot is passed over; the default
    QUEUE = "queue"  # it gets its task all the same


class CatchUp(StrEnum):
    """`agent_schedules.catch_up`: which of the slots that were missed get a task."""

    NONE = "none"
    ONE = "one"  # the latest; the default
    ALL = "all"  # the latest 100


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done about a schedule, all moments in UTC.

    `slots`: those that get a task, in order. `missed`: how many more were due and are passed over (COUNTED at most).
    `upto`: the last slot that was due. `later`: the first one that is not due yet; None: there is none."""

    slots: tuple[datetime, ...]
    missed: int
    upto: datetime
    later: datetime | None


@dataclass(frozen=True, slots=True)
class Timetable:
    """A cron expression in a time zone. `timetable` makes one, and has checked both."""

    cron: str
    zone: ZoneInfo

    def from_here(self, moment: datetime) -> Iterator[datetime]:
        """The slots after `moment`, in UTC, each once and in order. Ends where none comes for 50 years, and by the year 9000."""
        last = moment
        try:
            for slot in self._as_cron_says(moment.astimezone(self.zone)):
                at = slot.astimezone(UTC)
                if at.year >= 9000:
                    return
                if at > last:  # an hour that a zone repeats, or leaves out, may give one moment twice
                    yield at
                    last = at
        except OverflowError:  # past the year 9999
            return

    def _as_cron_says(self, there: datetime) -> Iterator[datetime]:
        """If minute and hour, and the second where there is one, are fixed, slots are times of the day: once a day, also in the
        nights when the clocks change. Otherwise slots are all moments at which the clocks show them. cronsim never sees a change of
        the clock: where one is not a whole hour, it loses slots of the hours after it."""
        fields = self.cron.split()
        fixed = not any(field.startswith("*") for field in fields[: len(fields) - 3])
        wall = there.replace(tzinfo=None)
        if fixed:
            return (_there_is(time.replace(tzinfo=self.zone)) for time in CronSim(self.cron, wall))
        return self._whenever_shown(CronSim(self.cron, wall - _repeated(there)))

    def _whenever_shown(self, times: Iterator[datetime]) -> Iterator[datetime]:
        """The moments at which the clocks show `times`: none for those that they leave out, two for those that they repeat."""
        again: list[datetime] = []
        for time in times:
            moment = time.replace(tzinfo=self.zone)
            if _repeated(moment):
                yield moment
                again.append(moment.replace(fold=1))
            elif moment == _there_is(moment):
                yield from again
                again.clear()
                yield moment
        yield from again

    def after(self, moment: datetime) -> datetime | None:
        """The first slot after `moment`, in UTC. None: there is none."""
        return next(self.from_here(moment), None)

    def next(self, count: int, moment: datetime) -> list[datetime]:
        """The first `count` slots after `moment`, in UTC, or fewer."""
        return list(itertools.islice(self.from_here(moment), count))

    def due(self, first: datetime, now: datetime, catch_up: CatchUp) -> Due:
        """What is to be done at `now` about a schedule whose next slot is, or was, `first`."""
        if first > now:
            return Due((), 0, first, first)
        latest = self._latest(first, now)
        slots = latest
        if (now - first).total_seconds() > MISSED_SECONDS:
            slots = {CatchUp.NONE: [], CatchUp.ONE: latest[-1:], CatchUp.ALL: latest}[catch_up]
        return Due(tuple(slots), self._count(first, now, latest) - len(slots), latest[-1], self.after(now))

    def _latest(self, first: datetime, now: datetime) -> list[datetime]:
        """The latest slots from `first` to `now`, MOST_CAUGHT_UP at most. Walks back in steps that grow: a schedule of seconds may
        have missed millions."""
        back = timedelta(seconds=2 * MOST_CAUGHT_UP)
        while now - back > first:
            found = self._until(now - back, now)
            if len(found) >= MOST_CAUGHT_UP:
                return found[-MOST_CAUGHT_UP:]
            back *= 4
        # `first` itself was due, whatever the expression says by now: the time zone's rules may have changed.
        return [first, *self._until(first, now)][-MOST_CAUGHT_UP:]

    def _until(self, moment: datetime, now: datetime) -> list[datetime]:
        return list(itertools.takewhile(lambda slot: slot <= now, self.from_here(moment)))

    def _count(self, first: datetime, now: datetime, latest: list[datetime]) -> int:
        """How many slots were due, `first` included, COUNTED at most."""
        if len(latest) < MOST_CAUGHT_UP:
            return len(latest)
        return 1 + sum(slot <= now for slot in self.next(COUNTED - 1, first))


@lru_cache(maxsize=1024)
def timetable(cron: str, timezone: str = "UTC") -> Timetable:
    """The slots of `cron` in `timezone`, both checked. Raises ScheduleError: it is not an expression, it never comes (30 February), or
    the zone is unknown to this host."""
    found = Timetable(cron, time_zone(timezone))
    if len(cron) > CRON_LENGTH:
        raise ScheduleError(f"cron '{_cut(cron)}' has {len(cron)} characters, more than {CRON_LENGTH}")
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError, AssertionError, TypeError) as error:
        raise ScheduleError(f"cron '{_cut(cron)}' is not a cron expression: {_reason(error)}") from None
    if found.after(datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ScheduleError(f"cron '{_cut(cron)}' never comes: no month has such a day")
    return found


def time_zone(name: str) -> ZoneInfo:
    """The zone of that name. Raises UnknownZone: this host knows none."""
    try:
        if name in _UNKNOWABLE:
            raise ValueError(name)
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # ZoneInfoNotFoundError is a KeyError; a path or a NUL raises the others
        raise UnknownZone(f"timezone '{_cut(name)}' is unknown; write a name as in 'Europe/Berlin'") from None


def slot_key(name: str, slot: datetime) -> str:
    """The idempotency key of a slot's task, as turbo_schedule_key in the database makes it."""
    return f"schedule {name}@{slot.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _repeated(moment: datetime) -> timedelta:
    """By how much the clocks go back, if they show this time twice; otherwise none."""
    first, second = moment.replace(fold=0).utcoffset(), moment.replace(fold=1).utcoffset()
    return max(timedelta(), (first or timedelta()) - (second or timedelta()))


def _there_is(moment: datetime) -> datetime:
    """`moment`, or the first one after it that the clocks of its zone do not leave out."""
    while moment != moment.astimezone(UTC).astimezone(moment.tzinfo):
        moment = moment.replace(second=0) + timedelta(minutes=1)
    return moment


def _reason(error: Exception) -> str:
    words = str(error).strip() or "it cannot be read"
    return words[0].lower() + words[1:]


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
