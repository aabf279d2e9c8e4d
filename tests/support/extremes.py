"""The values of a column's type that PostgreSQL takes and a reader may not: infinite, out of Python's range, of another shape."""

from collections.abc import Iterator

import psycopg

DEEP = "[" * 500 + "]" * 500

VALUES: dict[str, tuple[str, ...]] = {
    "timestamp with time zone": (
        "'infinity'",
        "'-infinity'",
        "'4713-01-01 00:00:00+00 BC'",
        "'294276-12-31 23:59:59+00'",
        "'10000-01-01'",
    ),
    "double precision": ("'Infinity'", "'-Infinity'", "'NaN'", "1e308", "-1e308", "0"),
    "integer": ("2147483647", "-2147483648", "0"),
    "bigint": ("9223372036854775807", "-9223372036854775808"),
    "text": ("''", "repeat('x', 100000)", "E'a\\n\\u202e\\u0001b'"),
    "jsonb": (
        "'1e400'",
        "'[1e5000, null]'",
        "'{\"a\": -1e400}'",
        f"'{DEEP}'",
        "'[1, \"x\", null, {}]'",
        '\'[{"what": 1e400, "do": {}}]\'',
        '\'{"usage": [{"input_tokens": 1e400, "output_tokens": -1e400, "cost_usd": 1e400}, 7]}\'',
        "'null'",
    ),
    "ARRAY": ("'{}'", "'{NULL}'", "'{{a,b},{c,NULL}}'", "array[repeat('q', 100000)]"),
    "boolean": ("true", "false"),
    "smallint": ("-32768", "0", "32767"),
}


def columns(db: psycopg.Connection, table: str) -> dict[str, str]:
    """The columns of a table that can be written, with their types; a domain by the type under it."""
    found = db.execute(
        "select column_name, data_type from information_schema.columns"
        " where table_schema = 'public' and table_name = %s and is_generated = 'NEVER'",
        [table],
    )
    return {name: "text" if kind.startswith("character") else kind for name, kind in found}


def extremes(db: psycopg.Connection, table: str) -> Iterator[tuple[str, str]]:
    """Each column of the table with each extreme value of its type, as SQL, and null."""
    for column, kind in columns(db, table).items():
        for value in (*VALUES[kind], "null"):
            yield column, value
