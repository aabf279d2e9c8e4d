"""When a usage limit resets, read from the CLI's text. Only where no window says so.

try again at 10:07 AM.        try again at Nov 30th, 2026 9:07 AM.        in the zone of the CLI's TZ: turbo sets it to UTC
"""

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

_AT = re.compile(
    r"try again at (?:(?P<month>[A-Z][a-z]{2}) (?P<day>\d{1,2})(?:st|nd|rd|th), (?P<year>\d{4}) )?"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})\s?(?P<half>[AP]M)"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def reset_in(text: str, now: float, zone: str | None) -> float | None:
    """Unix seconds; None without a time. `zone`: an IANA name; None or an unknown one: UTC. A time without a date is the next
    such time after `now`, less a minute: the text has no seconds."""
    match = _AT.search(text)
    if match is None:
        return None
    here = datetime.fromtimestamp(now, zone_of(zone))
    hour = int(match["hour"]) % 12 + (12 if match["half"] == "PM" else 0)
    try:
        at = here.replace(hour=hour, minute=int(match["minute"]), second=0, microsecond=0)
        if match["month"] is None:
            return (at if at > here - timedelta(minutes=1) else at + timedelta(days=1)).timestamp()
        month = _MONTHS.index(match["month"]) + 1
        return at.replace(year=int(match["year"]), month=month, day=int(match["day"])).timestamp()
    except (ValueError, OverflowError):  # no such day
        return None


def zone_of(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError):
        return ZoneInfo("UTC")
