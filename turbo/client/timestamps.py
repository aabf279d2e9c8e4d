"""Reads timestamps outside the range of Python's `datetime`.

PostgreSQL accepts 4713 BC, the year 294276 and infinity, and any user who may insert can write them. One such row must not
break a whole list, so it is shown as the earliest or latest `datetime`.
"""

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import (
    TimestampBinaryLoader,
    TimestampLoader,
    TimestamptzBinaryLoader,
    TimestamptzLoader,
)

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""One day inside the limits of `datetime`, so that they can be shown in any time zone."""


def _edge(data: Buffer) -> datetime:
    text = bytes(data)
    return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else LATEST


class _Timestamptz(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _edge(data)


class _Timestamp(TimestampLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _edge(data).replace(tzinfo=None)


class _TimestamptzBinary(TimestamptzBinaryLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _binary_edge(data)


class _TimestampBinary(TimestampBinaryLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _binary_edge(data).replace(tzinfo=None)


def _binary_edge(data: Buffer) -> datetime:
    """Microseconds since 2000, signed."""
    return EARLIEST if bytes(data)[0] & 0x80 else LATEST


def read_any_timestamp(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> None:
    """Let this cursor read every timestamp, with a zone or without."""
    cursor.adapters.register_loader("timestamptz", _Timestamptz)
    cursor.adapters.register_loader("timestamp", _Timestamp)
    cursor.adapters.register_loader("timestamptz", _TimestamptzBinary)
    cursor.adapters.register_loader("timestamp", _TimestampBinary)
