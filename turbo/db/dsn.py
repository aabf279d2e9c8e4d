"""A connection string in messages: where it points, and what is wrong with it, without a part of its password.

a DSN ──parse──▶ it cannot be read: turbo's own words, because libpq's quote it
            └──▶ it may be misread: "@" or "/" in a password ends it, and the rest of it is a host, a port or a database
                        └──▶ neither the place nor libpq's errors are shown: they name what it takes for the host
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import conninfo

UNREADABLE = "the DSN cannot be read: write postgresql://user@host:port/database, or host=… port=… dbname=…"

ENCODE = "in a URI, write the characters @ : / ? # % of a user or password as %40 %3A %2F %3F %23 %25"

_COMPLAINTS = {
    'missing "="': 'a word has no "=" (a value with blanks needs single quotes)',
    "unterminated quoted string": "a single quote is not closed",
    "invalid connection option": "libpq does not know one of its options",
    "invalid URI query parameter": "libpq does not know one of the options after the question mark",
    "missing key/value separator": 'an option after the question mark has no "="',
    "extra key/value separator": 'an option after the question mark has two "="',
    "invalid percent-encoded token": "a percent sign is not followed by two hexadecimal digits",
    "forbidden value %00": "%00 is not allowed",
    "unexpected spaces": "a blank follows a value (write it as %20)",
    "end of string reached": 'the "]" of an IPv6 address is missing',
    "IPv6 host address may not be empty": "an IPv6 address is empty",
    "unexpected character": 'after an IPv6 address comes neither ":" nor "/"',
}
"""How libpq's messages begin, and what they mean. The rest of each quotes the DSN."""

_URI = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
_HOST = re.compile(r"@?[^@\s?#'\"\\]*")


class UnreadableDsn(psycopg.ProgrammingError):
    """libpq cannot read a DSN. The message says why and quotes nothing."""


class Unshown(psycopg.OperationalError):
    """No session could be opened with a DSN that may be misread. The message quotes nothing."""


def parse(dsn: str) -> dict[str, Any]:
    """The keywords of a DSN. Raises UnreadableDsn."""
    try:
        return conninfo.conninfo_to_dict(dsn)
    except (psycopg.Error, ValueError) as error:  # ValueError: a NUL character, or half a Unicode character
        complaint = str(error)
    raise UnreadableDsn(_unreadable(complaint, dsn))


def _unreadable(complaint: str, dsn: str) -> str:
    why = next((words for start, words in _COMPLAINTS.items() if complaint.startswith(start)), None)
    advice = f"; {ENCODE}" if _URI.match(dsn) else ""
    return f"{UNREADABLE} ({why}{advice})" if why else f"{UNREADABLE}{advice}"


def may_be_misread(dsn: str) -> bool:
    """Whether a part of the password may be what libpq takes for the host, the port or the database."""
    try:
        known = parse(dsn)
    except UnreadableDsn:
        return True
    uri = _URI.match(dsn)
    if uri is not None:
        userinfo, at, rest = dsn[uri.end() :].partition("@")
        if "@" in rest or (at and "/" in userinfo):
            return True
    return not _plausible(known)


def _plausible(known: Mapping[str, Any]) -> bool:
    hosts = str(known.get("host") or "").split(",")
    ports = [port for port in str(known.get("port") or "").split(",") if port]
    return all(_HOST.fullmatch(host) for host in hosts) and all(
        re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536 for port in ports
    )


def describe(dsn: str) -> str:
    """Where a DSN points, for messages: `host:port/dbname`, never a password."""
    try:
        known = parse(dsn)
    except UnreadableDsn:
        return "an unreadable DSN"
    if may_be_misread(dsn):
        return "a host that is not shown, because the DSN may be misread"
    host, port = str(known.get("host") or "the default host"), known.get("port")
    return f"{host}{f':{port}' if port else ''}/{known.get('dbname') or ''}"


def shown(error: psycopg.Error, dsn: str) -> psycopg.Error:
    """The error of opening a session: itself, or one that quotes nothing. Raise it outside of the `except` block, so that a
    traceback does not print the first one too."""
    if isinstance(error, Unshown | UnreadableDsn) or not may_be_misread(dsn):
        return error
    return Unshown(
        "no session could be opened, and the reason is not shown, because it may quote a part of the password: the host, port "
        f"or database of the DSN cannot be what was meant; {ENCODE}"
    )
