"""What was found about an existing table, and what somebody can do about it.

refuse   `turbo migrate` stops before it changes anything, and says this
warn     it goes on; somebody should know before the first worker starts
note     what else was found, for --plan
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

_LEVELS = {"refuse": 0, "warn": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class AdoptionFinding:
    """`level`: refuse | warn | note. `do`: a statement to run, or empty."""

    level: str
    text: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.text}; run: {self.do}" if self.do else self.text


def sorted_by_level(findings: Iterable[AdoptionFinding]) -> list[AdoptionFinding]:
    """Refusals first, notes last."""
    return sorted(findings, key=lambda finding: _LEVELS[finding.level])


def refusal(findings: Sequence[AdoptionFinding]) -> str:
    """The one message of a migration that was refused: each reason, and what to run."""
    reasons = [str(finding) for finding in findings if finding.level == "refuse"]
    if len(reasons) == 1:
        return f"{reasons[0]}. Nothing has been changed"
    listed = "".join(f"\n  - {reason}" for reason in reasons)
    return f"the tables that are there cannot be adopted as they are; nothing has been changed:{listed}"


def quoted(name: str) -> str:
    """A name as SQL takes it, for a statement that somebody is told to run."""
    return sql.Identifier(name).as_string(None)
