"""When a limit resets, read from an agent's words. No agent over ACP tells it otherwise.

Please retry in 42.5s.    Try again in 3h 22m.    resets at 2026-11-27T22:00:00Z    "resets_at": 1795460400    try again at 10:07 AM.
"""

import re
from datetime import UTC, datetime, timedelta

from turbo.executors.agent.fields import unix_seconds

LONGEST_SECONDS = 40 * 86_400
"""A reset that is further away was misread."""

_IN = re.compile(r"\b(?:in|after|for) (\d{1,9}(?:\.\d{1,6})?) ?(days?|hours?|minutes?|seconds?|[dhms])\b")
_MORE = re.compile(r",? ?(?:and )?(\d{1,9}(?:\.\d{1,6})?) ?(days?|hours?|minutes?|seconds?|[dhms])\b")
_ISO = re.compile(r"\b(20\d\d-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)?")
_UNIX = re.compile(r"reset\w{0,12}\"?\s?[:=]?\s?(?:at )?(\d{10}|\d{13})\b")
_CLOCK = re.compile(r"\bat (\d{1,2}):(\d\d) ?([AP]M)\b")
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
MOST_CHARACTERS = 4000


def reset_in(text: str, now: float) -> float | None:
    """Unix seconds; None without a time in the next 40 days. A time without a zone is UTC."""
    text = text[:MOST_CHARACTERS]
    for found in (_unix(text), _iso(text), _later(text, now), _clock(text, now)):
        if found is not None and now - 60 <= found <= now + LONGEST_SECONDS:
            return found
    return None


def _unix(text: str) -> float | None:
    match = _UNIX.search(text)
    return unix_seconds(float(match[1])) if match is not None else None


def _iso(text: str) -> float | None:
    match = _ISO.search(text)
    if match is None:
        return None
    try:
        zone = (match[4] or "Z").replace("Z", "+00:00")
        return datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or ':00'}{zone}").timestamp()
    except (ValueError, OverflowError):
        return None


def _later(text: str, now: float) -> float | None:
    match = _IN.search(text)
    seconds = 0.0
    while match is not None:
        seconds += float(match[1]) * _SECONDS[match[2][0]]
        match = _MORE.match(text, match.end())
    return now + seconds if seconds else None


def _clock(text: str, now: float) -> float | None:
    match = _CLOCK.search(text)
    if match is None:
        return None
    hour = int(match[1]) % 12 + (12 if match[3] == "PM" else 0)
    here = datetime.fromtimestamp(now, UTC)
    try:
        at = here.replace(hour=hour, minute=int(match[2]), second=0, microsecond=0)
    except ValueError:
        return None
    return (at if at > here - timedelta(minutes=1) else at + timedelta(days=1)).timestamp()
