"""Every statement turbo runs, one file each: `turbo/sql/<name>.sql`, psycopg `%(name)s` parameters.

A file opens with a comment: who calls it, what it must survive, what it must cost. All names are qualified with
`public.`: a pooler may hand a session to somebody else, so nothing rests on a search path.
"""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString

_TOKEN = re.compile(r"(?P<quoted>'(?:[^']|'')*')|--[^\n]*|(?P<space>\s+)")


def source(name: str) -> str:
    """`turbo/sql/<name>.sql` as it was written, comments and all: for people. Raises FileNotFoundError."""
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statement(name: str) -> LiteralString:
    """What is sent for `turbo/sql/<name>.sql`: without its comments, under its name as pg_stat_activity shows it.

    The comments are for readers. psycopg parses a statement longer than 4096 characters anew at every execution, which
    costs a claim 80 µs. Raises FileNotFoundError for a name that does not exist.
    """
    bare = _TOKEN.sub(lambda m: m["quoted"] or (" " if m["space"] else ""), source(name))
    return f"/* turbo {name} */ {bare.strip()}"
