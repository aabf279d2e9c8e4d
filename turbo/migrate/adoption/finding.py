"""How the findings about an existing table are ordered and worded. Their levels:

refuse   `turbo migrate` stops before it changes anything, and shows the reason
warn     it continues; an operator should know before the first worker starts
note     shown by --plan only
"""

from collections.abc import Iterable, Sequence

from psycopg import sql

from turbo.domain.finding import Finding
from turbo.domain.states import Level

_ORDER = (Level.REFUSE, Level.WARN, Level.NOTE)


def worded(finding: Finding) -> str:
    """On one line, with the statement to run."""
    return f"{finding.what}; run: {finding.do}" if finding.do else finding.what


def sorted_by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Refusals first, notes last."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.level))


def refusal(findings: Sequence[Finding], *, changed: bool = False) -> str:
    """The message of a refused migration: each reason, and what to run. `changed`: it was refused after its last statement."""
    reasons = [worded(finding) for finding in findings if finding.level is Level.REFUSE]
    done = (
        "The migration is applied, but do not use it before this is settled" if changed else "Nothing has been changed"
    )
    if len(reasons) == 1:
        return f"{reasons[0]}. {done}"
    listed = "".join(f"\n  - {reason}" for reason in reasons)
    if changed:
        return f"{done}:{listed}"
    return f"the existing tables cannot be adopted as they are; nothing has been changed:{listed}"


def quoted(name: str) -> str:
    """A name as SQL takes it, for a statement that an operator will run."""
    return sql.Identifier(name).as_string(None)
