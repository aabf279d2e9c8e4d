"""How a person may write a moment, and that it is this machine's time zone that counts."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.support.shell import Shell
from turbo import Client
from turbo.client.timestamps import TimestampReader, ZoneClock


def after(shell: Shell, text: str, zone: str = "Asia/Tokyo") -> datetime:
    done = shell("submit", "x", "--after", text, "--json", TZ=zone)
    assert (done.code, done.err) == (0, "")
    with psycopg.connect(shell.dsn) as db:
        row = db.execute("select run_after from agent_tasks where task_id = %s", [done.json["task_id"]]).fetchone()
    assert row is not None
    return row[0].astimezone(UTC)


def test_timestamp_without_zone_is_local_time(shell: Shell) -> None:
    assert after(shell, "2100-01-01T09:00") == datetime(2100, 1, 1, 0, 0, tzinfo=UTC)
    assert after(shell, "2100-01-01T09:00", "America/New_York") == datetime(2100, 1, 1, 14, 0, tzinfo=UTC)
    assert after(shell, "Jan 1 2100 09:00") == datetime(2100, 1, 1, 0, 0, tzinfo=UTC), "as PostgreSQL reads it"
    assert after(shell, "Jan 1 2100 09:00 UTC") == datetime(2100, 1, 1, 9, 0, tzinfo=UTC)
    assert after(shell, "2100-01-01T09:00+02:00") == datetime(2100, 1, 1, 7, 0, tzinfo=UTC)
    tomorrow = after(shell, "tomorrow 06:00")
    assert (tomorrow.hour, tomorrow.minute) == (21, 0), "six in Tokyo"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("2h30m", 9000), ("+2 hours", 7200), ("1d", 86_400), ("1.5 h", 5400)]
)
def test_duration_counts_from_now(shell: Shell, text: str, seconds: int) -> None:
    ahead = after(shell, text) - datetime.now(UTC)
    assert timedelta(seconds=seconds - 30) < ahead <= timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["whenever", "infinity", "10 parsecs", "2100-13-01", "99999-01-01", "", "1h; drop table x"]
)
def test_invalid_timestamp_is_refused(shell: Shell, text: str) -> None:
    shell("submit", "x", "--after", text).one_line(2, "is not a time: write 10m, 2h30m")


SUMMER_AND_WINTER = [
    ("July 1 2099 09:00", datetime(2099, 7, 1, 7, tzinfo=UTC)),
    ("January 15 2099 09:00", datetime(2099, 1, 15, 8, tzinfo=UTC)),
    ("1 Jul 2099 09:00 UTC", datetime(2099, 7, 1, 9, tzinfo=UTC)),
    ("1 Jul 2099 09:00 +01", datetime(2099, 7, 1, 8, tzinfo=UTC)),
    ("1 Jan 2099 09:00 +02", datetime(2099, 1, 1, 7, tzinfo=UTC)),
    ("1 Jul 2099 09:00 America/New_York", datetime(2099, 7, 1, 13, tzinfo=UTC)),
    ("2099-07-01 09:00", datetime(2099, 7, 1, 7, tzinfo=UTC)),
    ("2099-07-01", datetime(2099, 6, 30, 22, tzinfo=UTC)),
]


def test_each_date_has_the_offset_of_its_season(shell: Shell) -> None:
    """Today's offset would be an hour off for half the year, whatever the season of this test."""
    for text, instant in SUMMER_AND_WINTER:
        assert after(shell, text, "Europe/Berlin") == instant, text


class Clock:
    """A client whose database says that it is `now`."""

    def __init__(self, shell: Shell, now: datetime) -> None:
        self._client = Client(shell.dsn)
        self._now = now

    def read(self, query: str, parameters: list[object]) -> tuple[Any, ...]:
        return self._client.read(query.replace("now()", f"'{self._now.isoformat()}'::timestamptz"), parameters)


@pytest.mark.parametrize(
    ("text", "ahead", "back"),
    [
        ("2d", "2027-03-29T09:00+02:00", "2027-03-25T09:00+01:00"),
        ("48h", "2027-03-29T10:00+02:00", "2027-03-25T09:00+01:00"),
        ("1 month", "2027-04-27T09:00+02:00", "2027-02-27T09:00+01:00"),
        ("1d 2h", "2027-03-28T11:00+02:00", "2027-03-26T07:00+01:00"),
        ("1 week", "2027-04-03T09:00+02:00", "2027-03-20T09:00+01:00"),
    ],
)
def test_days_follow_the_wall_clock_and_hours_do_not(shell, monkeypatch, text, ahead, back) -> None:
    """The clocks of Berlin go forward on 28 March 2027."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        reader = TimestampReader(Clock(shell, datetime.fromisoformat("2027-03-27T09:00+01:00")))  # type: ignore[arg-type]
        assert reader.after(text) == datetime.fromisoformat(ahead)
        assert reader.since(text) == datetime.fromisoformat(back)
        elsewhere = TimestampReader(reader._client, ZoneClock(reader._client, "Europe/Berlin"))
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert elsewhere.after(text) == datetime.fromisoformat(ahead), "the same by the zone's own clock"
        assert elsewhere.since(text) == datetime.fromisoformat(back)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("zone", "text", "instant"),
    [
        ("Pacific/Kiritimati", "2027-03-20", "2027-03-20T00:00+14:00"),
        ("Europe/Berlin", "2027-03-28T09:00", "2027-03-28T09:00+02:00"),
        ("Europe/Berlin", "2027-03-20 09:00 UTC", "2027-03-20T09:00+00:00"),
        ("Asia/Kathmandu", "2027-03-20T09:00Z", "2027-03-20T09:00+00:00"),
        ("Asia/Kathmandu", "20 March 2027", "2027-03-20T00:00+05:45"),
        ("America/St_Johns", "Mar 20 2027 09:00", "2027-03-20T09:00-02:30"),
        ("Pacific/Kiritimati", "2d", "2027-03-25T00:00+14:00"),
        ("Europe/Berlin", "1 month", "2027-02-27T00:00+01:00"),
        ("Europe/Berlin", "1d 2h", "2027-03-26T07:00+01:00"),
        ("Europe/Berlin", "48h", "2027-03-25T09:00+01:00"),
        ("UTC", "0d", "2027-03-27T08:00+00:00"),
    ],
)
def test_times_are_read_by_the_clock_of_a_zone(shell: Shell, zone: str, text: str, instant: str) -> None:
    """In Kiritimati, it is the 27th at 22:00 then."""
    client: Any = Clock(shell, datetime.fromisoformat("2027-03-27T08:00+00:00"))
    reader = TimestampReader(client, ZoneClock(client, zone), whole_days=True)
    assert reader.since(text) == datetime.fromisoformat(instant)


def test_signed_length_of_since_is_refused_everywhere(shell: Shell) -> None:
    for text in ("-99d", " -1h", "+2 days"):
        for command in (["tasks"], ["questions"], ["cancel", "--yes"], ["retry", "--yes"], ["costs"]):
            shell(*command, "--since", text).one_line(2, f"--since {text!r} has a sign, and counts back without one")


def test_duration_back_in_time_is_refused(shell: Shell) -> None:
    for text in ("-1h", " -2 days", "-1h30m"):
        shell("submit", "x", "--after", text).one_line(2, "is in the past: write 10m, 2h30m")
    line = '{"text": "x", "after": "-1h"}\n'
    assert (
        "column run_after: '-1h' is in the past" in shell("submit", "--file", "-", "--format", "jsonl", stdin=line).err
    )
    with psycopg.connect(shell.dsn) as db:
        assert db.execute("select count(*) from agent_tasks").fetchone() == (0,)
