"""Do tasks that wait for others get on, and those that require labels?"""

from dataclasses import replace

from turbo.client.fleet_status import SETTLING_SCHEMA, UnsettledLine, unsettled_lines
from turbo.client.placement import UNPLACEABLE_LISTED, unplaceable_lines
from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, ok, warn


def checks(session: Session) -> list[Check]:
    return [
        Check("blocked tasks", lambda: _blocked(session), ("schema",)),
        Check("unnoted tasks", lambda: _unnoted(session), ("schema",)),
        Check("placement", lambda: _unplaceable(session), ("schema",)),
    ]


def _blocked(session: Session) -> Finding:
    """What waits for others; and what waits for nothing any more, because no worker lets it go."""
    found = unsettled_lines(session.statement("status/unsettled", {"settling_schema": SETTLING_SCHEMA}))
    if found:
        return _left(found[0], sum(line.tasks for line in found))
    count = session.rows("blocked")[0]["blocked"]
    if not count:
        return ok("no task waits for others")
    return ok(f"{count} task{'s wait' if count > 1 else ' waits'} for others: turbo tasks --status blocked")


def _left(line: UnsettledLine, tasks: int) -> Finding:
    many = f"{tasks} blocked task{'s' if tasks > 1 else ''}"
    if line.worker_id is not None:
        return warn(
            f"{many} cannot be let go: worker {line.worker_id} of queue {line.queue} is older than tasks that need others",
            "upgrade that worker, or stop it; the others do the rest",
        )
    return warn(
        f"{many} in queue {line.queue}, and nothing that {'it waits' if tasks == 1 else 'they wait'} for: no worker lets go"
        f" {line.task_id}",
        "start a worker, or see the workers' log for `settle`",
    )


def _unnoted(session: Session) -> Finding:
    """What came past the triggers, and so left no note for the settler; and who has waited for a failed need for 30 days."""
    found = session.statement("settle/audit", variant="which")[0]["found"]
    if not found:
        return ok("the workers know of every task that waits for others")
    return warn(
        f"{found} task{'s wait' if found > 1 else ' waits'} for others without the workers' knowledge: written past turbo's triggers,"
        " or for a need that failed 30 days ago",
        "nothing, while a worker runs: the leader sees to them within an hour",
    )


def _unplaceable(session: Session) -> Finding:
    """What requires labels that no live worker of its queue has."""
    found = unplaceable_lines(session.statement("status/unplaceable", {"limit": UNPLACEABLE_LISTED}))
    if not found:
        return ok("the workers have the labels that pending tasks require")
    first = found[0].finding
    return (
        first
        if len(found) == 1
        else replace(first, what=f"{first.what}; {len(found) - 1} more: turbo status lists them")
    )
