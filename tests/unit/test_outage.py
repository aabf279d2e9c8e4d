"""An outage is logged once per kind, ridden out with growing pauses, and its end is logged."""

import logging

import psycopg
import pytest
from psycopg import errors

from turbo import db
from turbo.runtime import outage as outage_module
from turbo.runtime.backoff import Backoff

log = logging.getLogger("test")

AWAY = psycopg.OperationalError("connection refused")
STARTING = errors.CannotConnectNow("the database system is starting up")
REVOKED = errors.InsufficientPrivilege("permission denied for table agent_tasks")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message) for record in caplog.records]


def test_one_kind_of_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    outage = db.outage(log, "cannot claim", "claiming again")
    for error in (AWAY, STARTING, AWAY, ConnectionResetError("reset")):
        outage.failed(error)
    assert lines(caplog) == [("WARNING", "cannot claim: connection refused")]
    outage.over()
    outage.over()
    assert lines(caplog)[1:] == [("INFO", "claiming again")]
    outage.failed(AWAY)
    assert lines(caplog)[2:] == [("WARNING", "cannot claim: connection refused")]


def test_lasting_error_is_an_error_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A revoked privilege was logged twice a second before."""
    outage = db.outage(log, "cannot claim", "claiming again")
    for _ in range(100):
        outage.failed(REVOKED)
    assert lines(caplog) == [("ERROR", f"cannot claim: {REVOKED}")]


def test_lasting_error_is_repeated_every_five_minutes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = db.outage(log, "cannot claim", "claiming again")
    outage.failed(REVOKED)
    outage.failed(AWAY)
    monkeypatch.setattr(outage_module, "REMIND_SECONDS", 0.0)
    outage.failed(AWAY)
    outage.failed(REVOKED)
    outage.failed(REVOKED)
    assert [level for level, _ in lines(caplog)] == ["ERROR", "WARNING", "ERROR", "ERROR"]


def test_two_lasting_errors_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    outage = db.outage(log, "cannot claim", "claiming again")
    outage.failed(REVOKED)
    outage.failed(errors.UndefinedColumn("column x does not exist"))
    outage.failed(errors.UndefinedColumn("column x does not exist"))
    assert len(lines(caplog)) == 2


def test_pauses_grow_longer_for_lasting_errors() -> None:
    outage = db.outage(log, "cannot claim", "claiming again", backoff=Backoff(base=1.0, cap=1.0))
    assert all(0.1 <= outage.failed(AWAY) <= 1.0 for _ in range(50))
    assert all(0.5 <= outage.failed(REVOKED) <= 5.0 for _ in range(50))


def test_backoff_is_between_a_tenth_and_its_ceiling() -> None:
    """As its docstring says; 1,000 draws at each step."""
    for failures in range(12):
        ceiling = min(1.0, 0.05 * 2**failures)
        drawn = []
        for _ in range(1000):
            backoff = Backoff(base=0.05, cap=1.0)
            backoff.failures = failures
            drawn.append(backoff.next())
        assert ceiling / 10 <= min(drawn) < ceiling / 5
        assert ceiling * 0.9 < max(drawn) <= ceiling
