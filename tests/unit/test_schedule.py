"""Cron expressions and their slots: both changes of the clock, what was missed, and what is no expression."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo.domain.schedule import (
    COUNTED,
    MOST_CAUGHT_UP,
    CatchUp,
    ScheduleError,
    slot_key,
    time_zone,
    timetable,
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def local(cron: str, zone: str, moment: datetime, count: int) -> list[str]:
    table = timetable(cron, zone)
    return [f"{slot.astimezone(table.zone):%m-%d %H:%M %z}" for slot in table.next(count, moment)]


@pytest.mark.parametrize(
    ("cron", "zone", "moment", "slots"),
    [
        # Clocks go forward, from 02:00 to 03:00: what was to be at 02:30 comes as soon as there is a time again.
        ("30 2 * * *", "Europe/Berlin", utc(2027, 3, 26, 12), ["03-27 02:30 +0100", "03-28 03:00 +0200", "03-29 02:30 +0200"]),
        ("30 2 * * *", "America/New_York", utc(2027, 3, 12, 12), ["03-13 02:30 -0500", "03-14 03:00 -0400", "03-15 02:30 -0400"]),
        # Back, from 03:00 to 02:00: once, the first time.
        ("30 2 * * *", "Europe/Berlin", utc(2026, 10, 24, 12), ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("30 1 * * *", "America/New_York", utc(2026, 10, 31, 12), ["11-01 01:30 -0400", "11-02 01:30 -0500"]),
        # A change of half an hour.
        ("15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 2, 12), ["10-03 02:15 +1030", "10-04 02:30 +1100", "10-05 02:15 +1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", utc(2027, 4, 2, 12), ["04-03 01:45 +1100", "04-04 01:45 +1100", "04-05 01:45 +1030"]),
        # What comes every so often goes by the time that passes.
        (
            "*/30 * * * *",
            "Europe/Berlin",
            utc(2026, 10, 25, 0, 20),
            ["10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100", "10-25 03:00 +0100"],
        ),
        ("*/30 * * * *", "Europe/Berlin", utc(2027, 3, 28, 0, 20), ["03-28 01:30 +0100", "03-28 03:00 +0200", "03-28 03:30 +0200"]),
        # Six fields with a fixed second, minute and hour: as five.
        ("0 30 2 * * *", "Europe/Berlin", utc(2027, 3, 26, 12), ["03-27 02:30 +0100", "03-28 03:00 +0200", "03-29 02:30 +0200"]),
        ("59 59 2 * * *", "America/New_York", utc(2027, 3, 12, 12), ["03-13 02:59 -0500", "03-14 03:00 -0400", "03-15 02:59 -0400"]),
        ("0 30 2 * * *", "Europe/Berlin", utc(2026, 10, 24, 12), ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("59 59 1 * * *", "America/New_York", utc(2026, 10, 31, 12), ["11-01 01:59 -0400", "11-02 01:59 -0500"]),
        ("7 15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 2, 12), ["10-03 02:15 +1030", "10-04 02:30 +1100", "10-05 02:15 +1100"]),
        ("7 45 1 * * *", "Australia/Lord_Howe", utc(2027, 4, 2, 12), ["04-03 01:45 +1100", "04-04 01:45 +1100", "04-05 01:45 +1030"]),
        ("0 30 2 * * *", "Europe/Berlin", utc(2026, 10, 25, 1, 10), ["10-26 02:30 +0100"]),
        # After a change of half an hour, no hour is lost.
        ("0 */6 * * *", "Australia/Lord_Howe", utc(2026, 10, 3, 12), ["10-04 00:00 +1030", "10-04 06:00 +1100", "10-04 12:00 +1100"]),
        ("0 */6 * * *", "Australia/Lord_Howe", utc(2027, 4, 3, 12), ["04-04 00:00 +1100", "04-04 06:00 +1030", "04-04 12:00 +1030"]),
        ("0 0 29 2 *", "UTC", utc(2026, 1, 1), ["02-29 00:00 +0000"]),
        ("0 9 * * mon-fri", "UTC", utc(2026, 11, 27, 12), ["11-30 09:00 +0000", "12-01 09:00 +0000"]),
        ("0 0 LW * *", "UTC", utc(2026, 11, 27), ["11-30 00:00 +0000", "12-31 00:00 +0000", "01-29 00:00 +0000"]),
        ("*/20 * * * * *", "UTC", utc(2026, 11, 27), ["11-27 00:00 +0000", "11-27 00:00 +0000", "11-27 00:01 +0000"]),
    ],
)  # fmt: skip
def test_slots_follow_the_clock_of_the_zone(cron: str, zone: str, moment: datetime, slots: list[str]) -> None:
    assert local(cron, zone, moment, len(slots)) == slots


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "0 3 * * *", "15 1 * * *", "0 * * * *", "0 30 2 * * *", "59 59 1 * * *"]
)
def test_year_of_slots_has_each_once(zone: str, cron: str) -> None:
    first, end = utc(2026, 7, 1), utc(2027, 7, 1)
    slots = [first]
    for slot in timetable(cron, zone).from_here(first):
        if slot > end:
            break
        slots.append(slot)
    days = (end - first).days
    assert slots == sorted(set(slots))
    assert len(slots) - 1 == pytest.approx(days * (24 if cron.startswith("0 *") else 1), abs=1)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "0,30 1-3 * * *", "15,45 1,2 * * MON", "10-20/5 2-3 */2 * *"])
def test_second_field_of_zero_changes_no_slot(zone: str, cron: str) -> None:
    six, five = timetable(f"0 {cron}", zone), timetable(cron, zone)
    for start in (
        utc(2026, 10, 2),
        utc(2026, 10, 24),
        utc(2026, 10, 31),
        utc(2027, 3, 13),
        utc(2027, 3, 27),
        utc(2027, 4, 3),
    ):
        assert six.next(40, start) == five.next(40, start)


@pytest.mark.parametrize(
    ("cron", "after_it"),
    [
        ("0,59 0,59 2,3 * * *", [(0, 59), (59, 0), (59, 59)]),
        ("0,30 30 2 * * *", []),
        ("5 30-59 2 * * *", []),
        ("5 0 2,3 * * *", [(0, 5)]),
    ],
)
def test_times_that_a_night_leaves_out_are_one_slot(cron: str, after_it: list[tuple[int, int]]) -> None:
    """The first moment after them. None that comes later is lost."""
    found = timetable(cron, "Europe/Berlin").next(10, utc(2027, 3, 28, 0, 59, 59))
    expected = [utc(2027, 3, 28, 1), *(utc(2027, 3, 28, 1, *parts) for parts in after_it)]
    assert [slot for slot in found if slot < utc(2027, 3, 28, 4)] == expected


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("", "wrong number of fields"),
        ("* * *", "wrong number of fields"),
        ("@daily", "wrong number of fields"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 31 4,6 *", "bad day-of-month"),
        ("0 0 */29 2 1#5", "never comes"),
        ("60 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("5-2 * * * *", "bad minute"),
        ("* * * * fry", "bad day-of-week"),
        ("² * * * *", "bad minute"),
        ("9" * 5000 + " * * * *", "has 5008 characters, more than 1000"),
        ("\0 * * * *", "bad minute"),
    ],
)
def test_expression_without_slots_is_refused(cron: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=words) as refused:
        timetable(cron)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "zone", ["Mars", "", "../etc/passwd", "/etc/localtime", "localtime", "Factory", "a\0b", "x" * 5000, "."]
)
def test_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ScheduleError, match="is unknown"):
        time_zone(zone)


@given(text=st.text(alphabet="0123456789*,/-#LWlwSUNMONJAN ²\t", max_size=30))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with contextlib.suppress(ScheduleError):
        timetable(text, "Europe/Berlin").next(2, utc(2026, 11, 27))


# ── what is due ─────────────────────────────────────────────────────────────────────────────────────────────────────

NIGHTLY = "0 3 * * *"


def test_nothing_is_due_before_the_slot() -> None:
    due = timetable(NIGHTLY).due(utc(2026, 11, 27, 3), utc(2026, 11, 27, 2, 59, 59), CatchUp.ONE)
    assert (due.slots, due.missed, due.later) == ((), 0, utc(2026, 11, 27, 3))


@pytest.mark.parametrize("catch_up", CatchUp)
def test_slot_that_is_a_minute_late_fires(catch_up: CatchUp) -> None:
    due = timetable(NIGHTLY).due(utc(2026, 11, 27, 3), utc(2026, 11, 27, 3, 1), catch_up)
    assert (due.slots, due.missed, due.later) == ((utc(2026, 11, 27, 3),), 0, utc(2026, 11, 28, 3))


@pytest.mark.parametrize(
    ("catch_up", "slots", "missed"),
    [(CatchUp.NONE, [], 3), (CatchUp.ONE, [27], 2), (CatchUp.ALL, [25, 26, 27], 0)],
)
def test_outage_of_three_days_is_caught_up_as_asked(catch_up: CatchUp, slots: list[int], missed: int) -> None:
    due = timetable(NIGHTLY).due(utc(2026, 11, 25, 3), utc(2026, 11, 27, 9), catch_up)
    assert due.slots == tuple(utc(2026, 11, day, 3) for day in slots)
    assert (due.missed, due.upto, due.later) == (missed, utc(2026, 11, 27, 3), utc(2026, 11, 28, 3))


def test_year_of_missed_seconds_is_caught_up_at_once() -> None:
    began = datetime.now(UTC)
    due = timetable("* * * * * *").due(utc(2025, 11, 27), utc(2026, 11, 27), CatchUp.ALL)
    assert len(due.slots) == MOST_CAUGHT_UP
    assert due.slots[-1] == due.upto == utc(2026, 11, 27)
    assert due.missed == COUNTED - MOST_CAUGHT_UP
    assert datetime.now(UTC) - began < timedelta(seconds=5)


@given(
    steps=st.lists(st.integers(1, 90_000), min_size=1, max_size=30),
    cron=st.sampled_from(["30 2 * * *", "*/30 * * * *", "0 3 * * 1", "15,45 1-3 * * *", "*/7 2 * * *", "0 */6 * * *"]),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    start=st.sampled_from([utc(2026, 10, 24), utc(2027, 3, 27), utc(2026, 10, 31), utc(2027, 4, 3), utc(2026, 10, 3)]),
)
def test_looks_at_any_moments_find_each_slot_once(steps: list[int], cron: str, zone: str, start: datetime) -> None:
    table = timetable(cron, zone)
    now, found = start, []
    first = table.after(start)
    assert first is not None
    for step in steps:
        now += timedelta(seconds=step)
        due = table.due(first, now, CatchUp.ALL)
        found += due.slots
        assert due.later is not None
        assert due.later > now
        first = due.later
    assert found == [slot for slot in table.next(len(found) + 1, start) if slot <= now]


def test_key_is_the_slot_in_utc() -> None:
    slot = utc(2026, 11, 27, 2).astimezone(time_zone("Europe/Berlin"))
    assert slot_key("nightly", slot) == "schedule nightly@2026-11-27T02:00:00Z"
