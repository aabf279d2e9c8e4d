"""Every statement turbo runs, one file each: `turbo/sql/<folder>/<name>.sql`, psycopg `%(name)s` parameters.

    tasks/      claim to finish, run by workers          client/   what a user asks and changes
    workers/    a worker's own row, beats, leadership    status/   `turbo status`; top/: `turbo top`
    accounts/   breakers of accounts                     doctor/   `turbo doctor`
    retention/  what the leader deletes                  migrate/, roles/: `turbo migrate`

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


def statement_names() -> list[str]:
    """The names of all statements, sorted: `tasks/claim`, `workers/beat`, …"""
    found = []
    for folder in files(__name__).iterdir():
        if folder.is_dir():
            found += [f"{folder.name}/{entry.name[:-4]}" for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted(found)
