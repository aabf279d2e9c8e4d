"""When a limit resets, read from the CLI's text.

reset in 1 hour 7 minutes        reset on November 30, 2026 at 4:56 AM, in UTC

The CLI rounds the time that the service names. A reset that is too early costs one refused probe.
"""

import re
from datetime import UTC, datetime

_IN = re.compile(r"\bresets? in (?P<time>(?:(?:,| and)? ?\d{1,6} (?:second|minute|hour|day|week)s?)+)")
_PART = re.compile(r"(\d{1,6}) (second|minute|hour|day|week)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_ON = re.compile(
    r"\bresets? on (?P<month>[A-Z][a-z]{2,8}) (?P<day>\d{1,2}), (?P<year>\d{4}) at "
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})\s?(?P<half>[AP]M)"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def reset_in(text: str, now: float) -> float | None:
    """Unix seconds; None without a time."""
    if (match := _IN.search(text)) is not None:
        return now + sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(match["time"]))
    if (match := _ON.search(text)) is None:
        return None
    hour = int(match["hour"]) % 12 + (12 if match["half"] == "PM" else 0)
    try:
        month = _MONTHS.index(match["month"][:3]) + 1
        at = datetime(int(match["year"]), month, int(match["day"]), hour, int(match["minute"]), tzinfo=UTC)
        return at.timestamp()
    except (ValueError, OverflowError):  # no such day
        return None
