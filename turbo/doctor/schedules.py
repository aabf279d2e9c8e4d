"""Do schedules fire, and does anybody run their tasks?"""

import psycopg

from turbo.client.schedule_status import SCHEDULES_LISTED, findings, schedule_troubles
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, ok, skip, warn


def checks(session: Session) -> list[Check]:
    return [Check("schedules", lambda: _schedules(session), ("schema",))]


def _schedules(session: Session) -> Finding:
    try:
        rows = session.statement("status/schedules", {"limit": SCHEDULES_LISTED})
    except psycopg.errors.InsufficientPrivilege:  # turbo_worker fires schedules, and does not see what they are to do
        return skip("this role may not read agent_schedules: turbo_reader may")
    if rows:
        found = findings(schedule_troubles(rows), 0)
        first, others = found[0], rows[0]["of_all"] - 1
        more = f", and {others} more need{'s' if others == 1 else ''} a person" if others else ""
        return warn(f"{first.what}{more}", first.do or "turbo schedule list")
    count = session.rows("schedules")[0]
    if not count["schedules"]:
        return ok("there are no schedules")
    paused = f", {count['paused']} paused" if count["paused"] else ""
    return ok(f"{count['schedules']} schedule{'s' if count['schedules'] > 1 else ''}{paused}")
