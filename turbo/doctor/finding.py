"""What the doctor looks at, and what it says: one finding a check."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, and will hurt
    FAIL = "fail"  # it does not work
    SKIP = "skip"  # not looked at


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is so; `do` says what to do about it, '' where nothing is to be done. `name` is the check's."""

    name: str
    level: Level
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding without its name: what a check returns."""

    level: Level
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`look` raises psycopg.Error or OSError for what it could not find out, which is a fail. `needs` names checks
    without whose success this one would only say the same again."""

    name: str
    look: Callable[[], Verdict]
    needs: tuple[str, ...] = ()


def ok(what: str) -> Verdict:
    return Verdict(Level.OK, what)


def warn(what: str, do: str) -> Verdict:
    return Verdict(Level.WARN, what, do)


def fail(what: str, do: str) -> Verdict:
    return Verdict(Level.FAIL, what, do)


def skip(what: str) -> Verdict:
    return Verdict(Level.SKIP, what)
