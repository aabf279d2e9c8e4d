"""Every statement turbo runs, one file each: `turbo/sql/<name>.sql`, psycopg `%(name)s` parameters.

A file opens with a comment: who calls it, what it must survive, what it must cost. All names are qualified with
`public.`: a pooler may hand a session to somebody else, so nothing rests on a search path.
"""

from functools import cache
from importlib.resources import files
from typing import LiteralString


@cache
def statement(name: str) -> LiteralString:
    """The text of `turbo/sql/<name>.sql`. Raises FileNotFoundError for a name that does not exist."""
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")
