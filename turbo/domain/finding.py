"""A finding of a check: the observation, how much it matters, and the remedy.

`turbo doctor`, `turbo status`, `turbo fleet status`, `turbo migrate --plan` and the configuration loader all report findings.
"""

from dataclasses import dataclass

from turbo.domain.states import Level


@dataclass(frozen=True, slots=True)
class Finding:
    """`what`: the observation. `do`: the remedy, '' if there is nothing to do. `subject`: a doctor's check, or a key path in
    a configuration file ('' if `what` names it already)."""

    level: Level
    what: str
    do: str = ""
    subject: str = ""


def ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def note(what: str, do: str = "") -> Finding:
    return Finding(Level.NOTE, what, do)


def warn(what: str, do: str = "") -> Finding:
    return Finding(Level.WARN, what, do)


def fail(what: str, do: str = "", *, subject: str = "") -> Finding:
    return Finding(Level.FAIL, what, do, subject)


def refuse(what: str, do: str = "") -> Finding:
    return Finding(Level.REFUSE, what, do)


def skip(what: str) -> Finding:
    return Finding(Level.SKIP, what)
