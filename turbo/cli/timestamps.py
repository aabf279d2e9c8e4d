"""Timestamps and durations, as users write and read them.

Accepted: 10m, 2h30m, '+2 hours' (from now, by the database's clock), 2026-12-01T09:00 (in this machine's time zone, unless
it names another), and anything else that PostgreSQL reads as a timestamp ('tomorrow 06:00').
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, LiteralString

import typer

if TYPE_CHECKING:
    from turbo.client.client import Client

_LENGTH = re.compile(r"\s*[+-]?\s*(\d+(\.\d+)?\s*[a-z]+\s*)+", re.IGNORECASE)
MONTHS = re.compile(r"\d\s*(mon|mons|month|months)\b", re.IGNORECASE)


_IN_ZONE: LiteralString = """
    with zone as materialized (select set_config('TimeZone', %s, true) as name)
    select extract(epoch from %s::text::timestamptz)::float8 from zone where name is not null
"""
"""For this statement only: in a session with a POSIX zone, psycopg would warn at every timestamp."""


class BadTimestamp(ValueError):
    """Text that is not a timestamp."""


class TimestampReader:
    """Reads timestamps; asks the database once for each text."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.after = lru_cache(maxsize=10_000)(self._after)

    def _after(self, text: str) -> datetime:
        return self._read(text, ahead=True)

    def since(self, text: str) -> datetime:
        """A duration counts back from now."""
        return self._read(text, ahead=False)

    def _read(self, text: str, *, ahead: bool) -> datetime:
        import psycopg

        if timestamp := _iso(text):
            return timestamp
        try:
            if _LENGTH.fullmatch(text):
                query = "select now() + %s::interval" if ahead else "select now() - %s::interval"
                timestamp = self._client.read(query, [text])[0]
            else:
                zone = _posix(datetime.now().astimezone().strftime("%z"))
                timestamp = datetime.fromtimestamp(self._client.read(_IN_ZONE, [zone, text])[0], UTC)
        except (psycopg.DataError, psycopg.NotSupportedError, OverflowError, ValueError, OSError):
            raise BadTimestamp(text) from None
        if not isinstance(timestamp, datetime):
            raise BadTimestamp(text)
        return timestamp


def option(reader: "TimestampReader", name: str, text: str | None) -> datetime | None:
    """The timestamp in an option. Raises BadParameter."""
    if text is None:
        return None
    try:
        return reader.since(text) if name == "--since" else reader.after(text)
    except BadTimestamp:
        example = "1h, 2d, 2026-12-01T09:00" if name == "--since" else "10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00"
        raise typer.BadParameter(f"{name} {text!r} is not a time: write {example}") from None


def _iso(text: str) -> datetime | None:
    if not re.match(r"\s*\d{4}-\d", text):
        return None
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _posix(offset: str) -> str:
    """+0100 as a POSIX time zone. POSIX reverses the sign: UTC+0100 is west of Greenwich. The name must be unused: in a zone
    named UTC, PostgreSQL reads '09:00 UTC' as local time."""
    return f"<{offset}>{'-' if offset.startswith('+') else '+'}{offset[1:3]}:{offset[3:5]}"


def duration(seconds: float | None) -> str:
    """6ms, 1.3s, 12s, 4m10s, 2h05m, 3d4h: two units are enough."""
    if seconds is None:
        return ""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 0.9995:
        return f"{sign}{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{sign}{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{sign}{whole}s"
    if whole < 3600:
        return f"{sign}{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{sign}{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{sign}{whole // 86_400}d{whole % 86_400 // 3600}h"


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from `start` to `end`. Timestamps of an adopted table may lack a time zone; this machine's is used then."""
    if start is None or end is None:
        return None
    return (end.astimezone(UTC) - start.astimezone(UTC)).total_seconds()


def local_time(timestamp: datetime | None, *, millis: bool = False) -> str:
    """In this machine's time zone: 2026-12-01 09:00:00."""
    if timestamp is None:
        return ""
    local = timestamp.astimezone()
    text = local.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{local.microsecond // 1000:03}" if millis else text
