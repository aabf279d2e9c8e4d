"""Timestamps as users write them.

Accepted: 10m, 2h30m, '+2 hours' (from now, by the database's clock), 2026-12-01T09:00 (in this machine's time zone, or the
reader's, unless it names another), and anything else that PostgreSQL reads as a timestamp ('tomorrow 06:00').
"""

import re
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, LiteralString, Protocol

if TYPE_CHECKING:
    from turbo.client.client import Client

LONGEST_TEXT = 200
"""Characters. No moment takes more to write, and the patterns below are for short texts."""

_LENGTH = re.compile(r"\s*+(?:[+-]\s*+)?(?:\d++(?:\.\d++)?\s*+[a-z]++\s*+)++", re.IGNORECASE)
MONTHS = re.compile(r"\d\s*(mon|mons|month|months)\b", re.IGNORECASE)


_IN_ZONE: LiteralString = """
    with zone as materialized (select set_config('TimeZone', %s, true) as name)
    select extract(epoch from %s::text::timestamptz), extract(epoch from %s::text::timestamp) from zone where name is not null
"""
"""A text as an instant, and the wall clock it names, in seconds. The zone is for this statement only: in a session with a
POSIX zone, psycopg would warn at every timestamp."""

_LENGTH_PARTS: LiteralString = """
    select extract(epoch from now()), extract(epoch from i.length - date_trunc('day', i.length)),
           date_trunc('day', i.length)::text, extract(epoch from date_trunc('day', i.length))
      from (select %s::text::interval as length) i
"""
"""Now, and a length of time as its part below a day, in seconds, and its days and months."""

_WALL_CLOCK_LATER: LiteralString = "select extract(epoch from %s::text::timestamp + %s::int * %s::text::interval)"

_ZONE_OFFSET: LiteralString = "select extract(epoch from (now() at time zone %s::text) - (now() at time zone 'UTC'))"
_ZONE_WALL_CLOCK: LiteralString = "select extract(epoch from to_timestamp(%s::float8) at time zone %s::text)"
_ZONE_INSTANT: LiteralString = """
    select extract(epoch from (timestamp '1970-01-01' + make_interval(secs => %s::float8)) at time zone %s::text)
"""
"""A named zone's offset now, its wall clock at an instant, and the instant at which it shows a wall clock, all in seconds."""

_EPOCH = datetime(1970, 1, 1)

_ELSEWHERE = "<elsewhere>+03:17"
"""A zone that no machine has. A text that names the same instant here and there says its own zone."""


class BadTimestamp(ValueError):
    """Text that is not a timestamp. `why`: what is wrong with it."""

    def __init__(self, text: str, why: str = "is not a time") -> None:
        super().__init__(text)
        self.why = why


class WallClock(Protocol):
    """The clock of a time zone. A wall clock is written as seconds since its own 1970-01-01 00:00."""

    def offset(self) -> str:
        """Now, as +0100."""

    def at(self, instant: datetime) -> datetime:
        """What it shows then, without a zone."""

    def instant(self, wall_clock: float) -> datetime:
        """When it shows this."""


class MachineClock:
    """This machine's."""

    def offset(self) -> str:
        return datetime.now().astimezone().strftime("%z")

    def at(self, instant: datetime) -> datetime:
        return instant.astimezone().replace(tzinfo=None)

    def instant(self, wall_clock: float) -> datetime:
        return _shown(wall_clock).astimezone()


class ZoneClock:
    """That of a time zone of the database. Raises psycopg.errors.InvalidParameterValue for a zone that it does not know."""

    def __init__(self, client: "Client", zone: str) -> None:
        self._client = client
        self._zone = zone
        (self._offset,) = client.read(_ZONE_OFFSET, [zone])

    def offset(self) -> str:
        hours, minutes = divmod(abs(round(self._offset / 60)), 60)
        return f"{'-' if self._offset < 0 else '+'}{hours:02}{minutes:02}"

    def at(self, instant: datetime) -> datetime:
        return _shown(self._client.read(_ZONE_WALL_CLOCK, [instant.timestamp(), self._zone])[0])

    def instant(self, wall_clock: float) -> datetime:
        return datetime.fromtimestamp(float(self._client.read(_ZONE_INSTANT, [wall_clock, self._zone])[0]), UTC)


class TimestampReader:
    """Reads timestamps; asks the database once for each text.

    Days and months, and texts without a zone, follow a wall clock, also across a clock change: from 09:00, `2d` is 09:00 two
    days later. Hours and less are that much time. With `whole_days`, a length in days and months begins at midnight.
    """

    def __init__(self, client: "Client", clock: WallClock | None = None, *, whole_days: bool = False) -> None:
        """`clock`: by default this machine's."""
        self._client = client
        self._clock = clock or MachineClock()
        self._whole_days = whole_days
        self.after = lru_cache(maxsize=10_000)(self._after)

    def _after(self, text: str) -> datetime:
        if text.lstrip().startswith("-") and _LENGTH.fullmatch(text[:LONGEST_TEXT]):
            raise BadTimestamp(text, "is in the past")
        return self._read(text, ahead=True)

    def since(self, text: str) -> datetime:
        """A duration counts back from now. One with a sign may be meant either way, and is refused."""
        if text.lstrip().startswith(("-", "+")) and _LENGTH.fullmatch(text[:LONGEST_TEXT]):
            raise BadTimestamp(text, "has a sign, and counts back without one")
        return self._read(text, ahead=False)

    def _read(self, text: str, *, ahead: bool) -> datetime:
        import psycopg

        if len(text) > LONGEST_TEXT:
            raise BadTimestamp(f"{text[:20]}…")
        try:
            if timestamp := self._iso(text):
                return timestamp
            return self._from_now(text, 1 if ahead else -1) if _LENGTH.fullmatch(text) else self._named(text)
        except (psycopg.DataError, psycopg.NotSupportedError, OverflowError, ValueError, OSError):
            raise BadTimestamp(text) from None

    def _iso(self, text: str) -> datetime | None:
        if not re.match(r"\s*\d{4}-\d", text):
            return None
        try:
            there = datetime.fromisoformat(text.strip())
            return there.astimezone() if there.tzinfo else self._clock.instant((there - _EPOCH).total_seconds())
        except (ValueError, OverflowError, OSError):
            return None

    def _from_now(self, text: str, sign: int) -> datetime:
        now, part_of_a_day, days, days_seconds = self._client.read(_LENGTH_PARTS, [text])
        there = datetime.fromtimestamp(float(now), UTC)
        if days_seconds:
            wall_clock = self._clock.at(there)
            if self._whole_days and not part_of_a_day:
                wall_clock = datetime.combine(wall_clock, time.min)
            (seconds,) = self._client.read(_WALL_CLOCK_LATER, [wall_clock.isoformat(" "), sign, days])
            there = self._clock.instant(float(seconds))
        return there + sign * timedelta(seconds=float(part_of_a_day))

    def _named(self, text: str) -> datetime:
        here = _posix(self._clock.offset())
        instant, wall_clock = self._client.read(_IN_ZONE, [here, text, text])
        if instant == self._client.read(_IN_ZONE, [_ELSEWHERE, text, text])[0]:
            return datetime.fromtimestamp(float(instant), UTC)
        return self._clock.instant(float(wall_clock))


def _shown(wall_clock: Any) -> datetime:
    return _EPOCH + timedelta(seconds=float(wall_clock))


def _posix(offset: str) -> str:
    """+0100 as a POSIX time zone. POSIX reverses the sign: UTC+0100 is west of Greenwich. The name must be unused: in a zone
    named UTC, PostgreSQL reads '09:00 UTC' as local time."""
    return f"<{offset}>{'-' if offset.startswith('+') else '+'}{offset[1:3]}:{offset[3:5]}"
