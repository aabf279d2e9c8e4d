"""Every statement turbo runs, one file each: `turbo/sql/<folder>/<name>.sql`, psycopg `%(name)s` parameters.

    tasks/      claim to finish, run by workers          client/   what a user reads and changes
    workers/    a worker's own row, beats, leadership    status/, top/      `turbo status`, `turbo top`
    accounts/   the breakers of accounts                 doctor/            `turbo doctor`
    retention/  what the leader deletes                  migrate/, roles/   `turbo migrate`

Each file opens with a comment: its caller, the faults it must survive, and its cost. Every name is qualified with
`public.`, because a pooler may hand a session to another client: no statement depends on a search path.
"""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString

_TOKEN = re.compile(r"(?P<quoted>'(?:[^']|'')*')|--[^\n]*|(?P<space>\s+)")


def source(name: str) -> str:
    """The text of `turbo/sql/<name>.sql` with its comments, for people. Raises FileNotFoundError."""
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statement(name: str) -> LiteralString:
    """The text that is sent for `turbo/sql/<name>.sql`: comments removed, its name in front for pg_stat_activity.

    The comments would cost time: psycopg parses a statement longer than 4096 characters again at every execution, 80 µs
    for a claim. Raises FileNotFoundError for a name that does not exist.
    """
    bare = _TOKEN.sub(lambda m: m["quoted"] or (" " if m["space"] else ""), source(name))
    return f"/* turbo {name} */ {bare.strip()}"


def statement_names() -> list[str]:
    """The names of all statements, sorted: `tasks/claim`, `workers/beat`, …"""
    names = []
    for folder in files(__name__).iterdir():
        if folder.is_dir():
            names += [f"{folder.name}/{entry.name[:-4]}" for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted(names)
