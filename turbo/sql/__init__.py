"""Every statement turbo runs, one file each: `turbo/sql/<folder>/<name>.sql`, psycopg `%(name)s` parameters.

    tasks/      claim to finish, run by workers          client/   what a user reads and changes
    workers/    a worker's own row, beats, leadership    status/, top/      `turbo status`, `turbo top`
    accounts/   the breakers of accounts                 doctor/            `turbo doctor`
    questions/  reminders, written by the leader              messages/  what people tell a run
    files/      files of runs, written by their workers
    retention/  what the leader deletes                  migrate/, roles/   `turbo migrate`

Each file opens with a comment: its caller, the faults it must survive, and its cost. Every name is qualified with
`public.`, because a pooler may hand a session to another client: no statement depends on a search path. Each argument of a
function of turbo's own is cast to exactly the type that the function declares: with any other, an overload in public, which a
stranger may have made, could fit better.

A statement over many rows may have variants, for the time after the database refused one of the rows
(turbo.db.row_by_row). They are written as comments in the same file, so the usual text does not carry them:

    --if aside: and …     a condition that leaves out the tasks %(aside)s
    --if only: and …      a condition that takes none but the tasks %(only)s
    --if held: …          for tasks that are inserted to wait for their release (client/submit)
    --if work: …          for tasks that need or continue others (client/submit)
    --if checked: …       for results with checks (tasks/finish, tasks/ask)
    --if spent: …         for a claim beside spent budgets; besides another variant: the name `tasks/claim+spent`
    --if limits: …        for a claim beside limits of keys; in the same way: `tasks/claim+limits`, `tasks/claim+spent+limits`
    --if past: …          for a claim past the head of its queue, `--if keys:` if rows wait for keys: `tasks/claim+past+keys`
    --if survey: …        for the survey of that head (turbo.db.bypass), with `--end survey:`
    --end which: …        the end of a statement that returns what would be taken, and changes nothing; with `aside`
"""

import re
from functools import cache
from importlib.resources import files
from typing import Literal, LiteralString

Variant = Literal["aside", "only", "which", "held", "work", "checked", "survey"]

_TOKEN = re.compile(r"(?P<quoted>'(?:[^']|'')*')|(?:\s|--[^\n]*)+")
_END = r"--end %s:(?P<end>(?:[^\n]*\n\s*--\|)*[^\n]*)"


def source(name: str) -> str:
    """The text of `turbo/sql/<name>.sql` with its comments, for people. Raises FileNotFoundError."""
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statement(name: str, variant: Variant | None = None) -> LiteralString:
    """The text that is sent for `turbo/sql/<name>.sql`: comments removed, its name in front for pg_stat_activity.

    The comments would cost time: psycopg parses a statement longer than 4096 characters again at every execution, 80 µs
    for a claim. Raises FileNotFoundError for a name that does not exist, ValueError for a variant that it does not have.
    """
    name, *also = name.split("+")
    text = source(name)
    for one in also:
        text = text.replace(f"--if {one}:", "")
    if variant is not None:
        text = _varied(name, text, variant)
    bare = _TOKEN.sub(lambda m: m["quoted"] or " ", text)
    words = " ".join(word for word in (name, *also, variant) if word)
    return f"/* turbo {words} */ {bare.strip()}"


def _varied(name: str, text: str, variant: Variant) -> str:
    condition = f"--if {'aside' if variant == 'which' else variant}:"
    end = re.search(_END % variant, text)
    if (end is None) if variant == "which" else (condition not in text):
        raise ValueError(f"{name} has no variant {variant}")
    if end is not None:
        text = text[: end.start()] + end["end"].replace("--|", "")
    return text.replace(condition, "")


def statement_names() -> list[str]:
    """The names of all statements, sorted: `tasks/claim`, `workers/beat`, …"""
    names = []
    for folder in files(__name__).iterdir():
        if folder.is_dir():
            names += [f"{folder.name}/{entry.name[:-4]}" for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted(names)
