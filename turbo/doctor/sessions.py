"""May the live workers have the sessions they need? The role, the database and the server each have a limit.

A pooler's limit cannot be seen from here; docs/operations.md says what it must allow. With listen_dsn, only the listener and the
heartbeat of a worker have sessions that grow with the workers: the others share the pooler's.
"""

from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, fail, ok, warn

NEEDED_SESSIONS = 4
"""Of a worker: the listener, the heartbeat, claims and results."""

COURTEOUS_SESSIONS = 2
"""And its progress, while a run prints, and its settler, while tasks wait for others. The leader's retention has one more."""

DIRECT_SESSIONS = 2
"""Of a worker with listen_dsn: the listener and the heartbeat."""

OTHERS = 3
"""For clients, a person, the doctor."""


def checks(session: Session) -> list[Check]:
    return [Check("sessions", lambda: _sessions(session), ("writable", "schema"))]


def _sessions(session: Session) -> Finding:
    """Whether the role, the database and the server allow what the live workers need."""
    row, workers = session.rows("sessions")[0], len(session.rows("workers"))
    limits = [
        (row["of_server"], row["on_server"], "the server (max_connections without what is reserved)", "max_connections")
    ]
    if not row["superuser"] and row["of_role"] >= 0:
        do = f"ALTER ROLE {row['role']} CONNECTION LIMIT …"
        limits.append((row["of_role"], row["by_role"], f"role {row['role']} (CONNECTION LIMIT)", do))
    if not row["superuser"] and row["of_database"] >= 0:
        limits.append(
            (row["of_database"], row["in_database"], "the database (CONNECTION LIMIT)", "the database's limit")
        )
    many = f"{workers} live worker{'' if workers == 1 else 's'}"
    least = (DIRECT_SESSIONS if session.apart else NEEDED_SESSIONS) * max(1, workers)
    enough = least + (0 if session.apart else COURTEOUS_SESSIONS * max(1, workers)) + 1 + OTHERS
    many += " (beside the pooler's sessions)" if session.apart else ""
    allowed, used, whose, do = min(limits, key=lambda limit: (limit[0] - limit[1], limit[0]))
    tight, _, by_whom, remedy = min(limits, key=lambda limit: limit[0])
    if tight < least:
        what = f"{by_whom} allows {tight} sessions; {many} cannot work with fewer than {least}"
        return fail(f"{what}: results wait, and nothing is claimed", f"raise it to {enough} or more: {remedy}")
    if tight < enough:
        return warn(f"{by_whom} allows {tight} sessions; {many} may need {enough}", f"raise it: {remedy}")
    if allowed - used < OTHERS:
        return warn(f"{whose} allows {allowed} sessions, and {used} are open", f"raise it, or end sessions: {do}")
    return ok(f"{many} may need {enough} sessions; {whose} allows {allowed}, and {used} are open")
