"""When a usage limit resets, read from the CLI's text. Only for CLIs that send no `rate_limit_event`."""

import re
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from turbo.executors.agent.fields import unix_seconds

_EPOCH = re.compile(r"\|(\d{9,13})\b")
_RESETS = re.compile(
    r"resets (?:(?P<month>[A-Z][a-z]{2}) (?P<day>\d{1,2})(?:, (?P<year>\d{4}))?,? (?:at )?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?\s?(?P<half>[ap]m)(?: \((?P<zone>[^)]{1,64})\))?"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def reset_in(text: str, now: float) -> float | None:
    """Unix seconds of `…|1764000000`, `resets 4:51pm (UTC)` or `resets Nov 26, 4:06pm (UTC)`; None without a time.

    A time without a date is the next such time after `now`. A time without a zone is in the host's zone.
    """
    if epoch := _EPOCH.search(text):
        return unix_seconds(float(epoch[1]))
    match = _RESETS.search(text)
    if match is None:
        return None
    try:
        zone: tzinfo | None = ZoneInfo(match["zone"]) if match["zone"] else None
        here = datetime.fromtimestamp(now, zone)
        hour = int(match["hour"]) % 12 + (12 if match["half"] == "pm" else 0)
        at = here.replace(hour=hour, minute=int(match["minute"] or 0), second=0, microsecond=0)
        if match["month"] is None:
            return (at if at > here else at + timedelta(days=1)).timestamp()
        at = at.replace(month=_MONTHS.index(match["month"]) + 1, day=int(match["day"]))
        if match["year"]:
            return at.replace(year=int(match["year"])).timestamp()
        # "Jan 2" in December is next year's. A day that has just passed does not mean a year from now.
        return (at if at > here - timedelta(days=31) else at.replace(year=at.year + 1)).timestamp()
    except (KeyError, ValueError, OSError, OverflowError):  # no such zone, no such day
        return None
