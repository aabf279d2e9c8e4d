"""How a person may write a moment, and that it is this machine's time zone that counts."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support.shell import Shell


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
