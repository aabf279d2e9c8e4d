"""Timestamps and durations, as commands take and print them. How they are read: turbo.client.timestamps."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from turbo.client.timestamps import BadTimestamp

if TYPE_CHECKING:
    from turbo.client.timestamps import TimestampReader


def option(reader: "TimestampReader", name: str, text: str | None) -> datetime | None:
    """The timestamp in an option. Raises BadParameter."""
    if text is None:
        return None
    try:
        return reader.since(text) if name == "--since" else reader.after(text)
    except BadTimestamp as error:
        example = "1h, 2d, 2026-12-01T09:00" if name == "--since" else "10m, 2h30m, 'tomorrow 06:00', 2026-12-01T09:00"
        raise typer.BadParameter(f"{name} {text!r} {error.why}: write {example}") from None


def duration(seconds: float | None) -> str:
    """6ms, 1.3s, 12s, 4m10s, 2h05m, 3d4h: two units are enough."""
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        return "never"
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
