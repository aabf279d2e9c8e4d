"""One row of the table that decides what became of a run of an agent. Each CLI has a table of its own (its `verdict`)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.process.running import Ending

E = TypeVar("E")


class HasEnding(Protocol):
    @property
    def ended_by(self) -> Ending: ...


H = TypeVar("H", bound=HasEnding)

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


def ended_by_turbo(kept_retrying: Callable[[H], bool]) -> tuple[Situation[H], ...]:
    """The rows for a CLI that turbo has ended before it said how its turn ended. `kept_retrying`: its last word is that it tries a
    request again."""
    return (
        Situation(
            "ended on request (cancel, drain, lost lease)",
            lambda e: e.ended_by is Ending.STOPPED,
            OutcomeKind.CANCELLED,
        ),
        Situation(
            "out of time while the CLI retried a request",
            kept_retrying,
            OutcomeKind.UNAVAILABLE,
            FailureKind.UNAVAILABLE,
            message="the service did not answer, and the CLI kept retrying",
        ),
        Situation("over its time", lambda e: e.ended_by is Ending.WALL, OutcomeKind.TIMED_OUT, FailureKind.TIMED_OUT),
        Situation(
            "silent for too long", lambda e: e.ended_by is Ending.SILENT, OutcomeKind.TIMED_OUT, FailureKind.SILENT
        ),
    )
