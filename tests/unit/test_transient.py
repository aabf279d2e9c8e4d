"""Which errors are worth waiting for, as a table: everything else is said to somebody who can act."""

import psycopg
import pytest
from psycopg import errors

from turbo import db

TRANSIENT = {
    "08000": "connection exception",
    "08003": "connection does not exist",
    "08006": "connection failure",
    "08P01": "protocol violation: what PgBouncer says when its server is away",
    "25006": "read-only: a standby, or a primary just promoted",
    "25P03": "idle in transaction for too long",
    "25P04": "transaction timeout",
    "40001": "serialization failure",
    "40003": "statement completion unknown",
    "40P01": "deadlock",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "too many connections",
    "55006": "object in use",
    "55P03": "lock not available",
    "57014": "cancelled by a person or a time-out",
    "57P01": "shutdown, or a killed backend",
    "57P02": "crash of another backend",
    "57P03": "starting up, or shutting down",
    "57P05": "idle session time-out",
    "58030": "I/O error",
}
REAL = {
    "22P05": "a character the database cannot store",
    "23505": "unique violation",
    "23514": "check violation",
    "26000": "a prepared statement that is not there",
    "28P01": "wrong password",
    "3D000": "no such database",
    "42501": "insufficient privilege",
    "42601": "syntax error",
    "42703": "no such column",
    "42P01": "no such table",
    "57P04": "the database was dropped",
    "P0001": "raised by a trigger",
    "XX000": "internal error",
}


@pytest.mark.parametrize("code", TRANSIENT, ids=lambda code: f"{code} {TRANSIENT[code]}")
def test_transient_errors_are_waited_for(code):
    assert db.is_transient(error_of(code))


@pytest.mark.parametrize("code", REAL, ids=lambda code: f"{code} {REAL[code]}")
def test_permanent_errors_are_not_waited_for(code):
    assert not db.is_transient(error_of(code))


def error_of(code: str) -> psycopg.Error:
    try:
        return errors.lookup(code)("x")
    except KeyError:
        made = psycopg.DatabaseError("x")
        made.sqlstate = code
        return made


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (psycopg.OperationalError("the connection is lost"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (TimeoutError(), True),
        (psycopg.ProgrammingError("no such parameter"), False),
        (psycopg.DataError("NUL in a string"), False),
        (ValueError(), False),
    ],
)
def test_errors_without_a_code_come_from_the_client(error, transient):
    assert db.is_transient(error) is transient
