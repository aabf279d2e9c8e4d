"""Do all workers know the limits of keys?"""

from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, note, ok


def checks(session: Session) -> list[Check]:
    return [Check("limits", lambda: _limits(session), ("schema",))]


def _limits(session: Session) -> Finding:
    """A limit of a key that no task has is none of its business: the tasks may come later."""
    (row,) = session.rows("limits")
    if row["limits"] and row["older"] is not None:
        return note(
            f"worker {row['older']} is older, and knows no limits: it starts a task of a key only while none of it runs",
            "start it again with this turbo",
        )
    count = row["limits"]
    return ok(f"{count} key{'s have a limit' if count != 1 else ' has a limit'}" if count else "no key has a limit")
