"""One row of the table that decides what became of a run of an agent. Each CLI has a table of its own (its `verdict`)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from turbo.domain.outcome import FailureKind, OutcomeKind

E = TypeVar("E")

ERROR_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Situation(Generic[E]):
    """`applies`: to a run that has ended so. `message` is turbo's text for people, before the CLI's. `ends_session`: do not
    resume."""

    name: str
    applies: Callable[[E], bool]
    kind: OutcomeKind
    failure_kind: FailureKind | None = None
    final: bool = False
    ends_session: bool = False
    message: str = ""


def error_text(*words: str | None) -> str:
    """What is known of a failure, for people: turbo's words, then the CLI's."""
    return ": ".join(word for word in words if word)[:ERROR_CHARACTERS]


def first(table: Iterable[Situation[E]], ended: E) -> Situation[E]:
    """The first row that applies. Raises StopIteration if none does."""
    return next(row for row in table if row.applies(ended))
