"""Moments and lengths of time, as a person writes and reads them.

Read: 10m, 2h30m, '+2 hours' (from now, on the database's clock), 2026-12-01T09:00 (this machine's time zone, unless it
says another), and what PostgreSQL reads as a moment besides ('tomorrow 06:00').
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
"""For this one statement only: a session that stays in a POSIX zone would have psycopg complain of it at every moment."""


class BadTimestamp(ValueError):
    """Text that is no moment."""


class TimestampReader:
    """Reads moments; every text is asked of the database once."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.after = lru_cache(maxsize=10_000)(self._after)

    def _after(self, text: str) -> datetime:
        return self._read(text, ahead=True)

    def since(self, text: str) -> datetime:
        """A length is back from now."""
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
    """The moment an option gives. Raises BadParameter."""
    if text is None:
        return None
    try:
        return reader.since(text) if name == "--since" else reader.after(text)
    except BadTimestamp:
        example = "1h, 2d, 2026-12-01T09:00" if name == "--since" else "10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00"
        raise typer.BadParameter(f"{name} {text!r} is not a moment: write {example}") from None


def _iso(text: str) -> datetime | None:
    if not re.match(r"\s*\d{4}-\d", text):
        return None
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _posix(offset: str) -> str:
    """+0100 as a time zone. POSIX counts the other way round: UTC+0100 is west of Greenwich. Its name must be nobody's:
    in a zone called UTC, PostgreSQL takes '09:00 UTC' for local time."""
    return f"<{offset}>{'-' if offset.startswith('+') else '+'}{offset[1:3]}:{offset[3:5]}"


def duration(seconds: float | None) -> str:
    """6ms, 1.3s, 12s, 4m10s, 2h05m, 3d4h: two figures are enough."""
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
    """Seconds from `start` to `end`. An adopted table's moments may lack a time zone: taken as this machine's."""
    if start is None or end is None:
        return None
    return (end.astimezone(UTC) - start.astimezone(UTC)).total_seconds()


def local_time(timestamp: datetime | None, *, millis: bool = False) -> str:
    """Local time."""
    if timestamp is None:
        return ""
    local = timestamp.astimezone()
    text = local.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{local.microsecond // 1000:03}" if millis else text
