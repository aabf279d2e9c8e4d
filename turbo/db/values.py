"""What a session reads: moments and numbers that PostgreSQL has and Python, or JSON, has not.

PostgreSQL accepts 4713 BC, the year 294276, infinity and NaN, and many who write rows can write them. One such row must not
break a whole list, or end a worker. So a moment out of range is read as the earliest or latest `datetime`, an infinite number
as the largest one that is still a length of time, and NaN as 0. A number in JSON that no float can hold is read as the
largest float.
"""

import json
import math
import sys
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import (
    TimestampBinaryLoader,
    TimestampLoader,
    TimestamptzBinaryLoader,
    TimestamptzLoader,
)
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Float8BinaryLoader

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""One day inside the limits of `datetime`, so that they can be shown in any time zone."""

MOST = 1e12
"""Seconds: 31,700 years. Nothing that turbo reads as float8 (seconds, shares, dollars) is larger."""


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


class _Float(Loader):
    """float8 and float4 as text."""

    def load(self, data: Buffer) -> float:
        return bounded(float(bytes(data)))


class _FloatBinary(Float8BinaryLoader):
    def load(self, data: Buffer) -> float:
        return bounded(super().load(data))


def bounded(number: float) -> float:
    """A finite number between -MOST and MOST."""
    return min(max(number, -MOST), MOST) if number == number else 0.0


def _json(raw: str | bytes) -> Any:
    """Parsed JSON, or the text itself if Python cannot parse it (nested too deep, a number too long)."""
    try:
        return json.loads(raw, parse_float=_json_float)
    except (ValueError, RecursionError):
        return raw if isinstance(raw, str) else raw.decode()


def _json_float(text: str) -> float:
    """jsonb has numbers that a float has not: the largest one, and no infinity, which JSON has not."""
    number = float(text)
    return number if math.isfinite(number) else math.copysign(sys.float_info.max, number)


def read_bounded(
    where: psycopg.Connection[Any] | psycopg.AsyncConnection[Any] | psycopg.Cursor[Any] | psycopg.AsyncCursor[Any],
) -> None:
    """Let this connection or cursor read every timestamp, with a zone or without, every float8, bounded, and every JSON value."""
    adapters = where.adapters
    adapters.register_loader("timestamptz", _Timestamptz)
    adapters.register_loader("timestamp", _Timestamp)
    adapters.register_loader("timestamptz", _TimestamptzBinary)
    adapters.register_loader("timestamp", _TimestampBinary)
    adapters.register_loader("float8", _Float)
    adapters.register_loader("float8", _FloatBinary)
    set_json_loads(_json, where)
