"""The table of docs/how-to/schedules.md: what becomes of slots in the nights when the clocks change."""

from datetime import UTC, datetime
from pathlib import Path

from tests.support.markdown import table_under
from turbo.domain.schedule import timetable

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "schedules.md"
FORWARD = (datetime(2027, 3, 28, 0, 29, 59, tzinfo=UTC), datetime(2027, 3, 28, 1, tzinfo=UTC))
BACK = (datetime(2026, 10, 24, 23, 29, 59, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC))
"""From before 01:30 to 03:00, in Berlin."""


def slots(cron: str, night: tuple[datetime, datetime]) -> str:
    table = timetable(cron, "Europe/Berlin")
    found = [slot for slot in table.next(20, night[0]) if slot <= night[1]]
    return ", ".join(f"{slot.astimezone(table.zone):%H:%M %Z}" for slot in found)


def test_page_tells_what_the_clocks_do_to_slots() -> None:
    rows = table_under(PAGE, "| `cron` |")
    assert len(rows) == 7
    for cron, forward, back in rows:
        assert (slots(cron.strip("`"), FORWARD), slots(cron.strip("`"), BACK)) == (forward, back), cron


def test_star_in_the_minute_goes_by_the_time_that_passes() -> None:
    """As the page says of `* 2 * * *`."""
    table = timetable("* 2 * * *", "Europe/Berlin")
    counts = [sum(slot <= end for slot in table.next(200, first)) for first, end in (FORWARD, BACK)]
    assert counts == [0, 120]
