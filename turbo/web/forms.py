"""What a form sends: bounded, and each field read once.

A browser sends the line ends of a text as CRLF; people mean newlines. An id or a key comes back as the page had it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request

from turbo.client.client import Client
from turbo.client.timestamps import BadTimestamp, TimestampReader

MOST_FIELDS = 5000
MOST_BYTES = 20_000_000
"""Of one form. A task's description has its own limit, which the database names."""


class BadForm(ValueError):
    """What is sent cannot be used. The text says what to write."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of a form by name, in their order."""

    values: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str | None:
        """What a person typed, with newlines. None: the field is missing or blank."""
        given = self.exact(name)
        text = (given or "").replace("\r\n", "\n")
        return text if text.strip() else None

    def exact(self, name: str) -> str | None:
        """As the page had it."""
        given = self.values.get(name)
        return given[0] if given else None

    def needed(self, name: str) -> str:
        """Raises BadForm for a missing one."""
        value = self.exact(name)
        if not value:
            raise BadForm(f"the field {name} is missing")
        return value

    def every(self, name: str) -> list[str]:
        return list(self.values.get(name, ()))

    def whole(self, name: str) -> int | None:
        """A whole number. Raises BadForm."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise BadForm(f"{name} {text[:40]!r} is not a whole number") from None

    def document(self, name: str) -> object:
        """JSON. None: nothing was written. Raises BadForm."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadForm(f"{name} is not JSON: {str(error)[:200]}") from None


async def fields_of(request: Request) -> Fields:
    """The form of a request. Raises BadForm."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MOST_BYTES:
        raise BadForm(f"a form has a length, and at most {MOST_BYTES:,} bytes")
    form = await request.form(max_fields=MOST_FIELDS, max_files=0, max_part_size=MOST_BYTES)
    values: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        values.setdefault(name, []).append(str(value))
    return Fields(values)


def read_moment(dsn: str, text: str, *, ahead: bool) -> datetime:
    """A moment as a person writes it: 10m, tomorrow 06:00; `ahead` False: 1h is an hour ago. Blocks. Raises BadForm."""
    with Client(dsn) as client:
        reader = TimestampReader(client)
        try:
            return reader.after(text) if ahead else reader.since(text)
        except BadTimestamp as error:
            example = "10m, 2h30m, tomorrow 06:00" if ahead else "1h, 2d"
            raise BadForm(f"{text[:60]!r} {error.why}: write {example}, 2026-12-01T09:00") from None
