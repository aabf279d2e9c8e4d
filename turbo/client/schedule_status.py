"""Schedules that need a person, for `turbo status` and `turbo doctor`."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from turbo.client.operations import Query, Steps
from turbo.domain.finding import Finding, warn

SCHEDULES_LISTED = 50
"""Whoever may write schedules may write many that are wrong."""

ERROR_LENGTH = 300
"""Characters of an error, in a list."""


@dataclass(frozen=True, slots=True)
class ScheduleTrouble:
    """A schedule that does not fire, or whose tasks nobody runs.

    `error`: as the row says. `late_seconds`: how long its slot has waited for a worker, None for less than a minute. `unserved`: no
    live worker serves its queue. `enabled` False: it has paused itself."""

    name: str
    enabled: bool
    queue: str
    error: str | None
    late_seconds: float | None
    unserved: bool

    @property
    def finding(self) -> Finding:
        """The problem in words, and what to do."""
        name, word = self.name, shlex.quote(self.name)
        if self.error is not None:
            error = self.error if len(self.error) <= ERROR_LENGTH else self.error[:ERROR_LENGTH] + "…"
            if not self.enabled:
                return warn(f"schedule {name} {error}", f"see its tasks, then: turbo schedule resume {word}")
            return warn(f"schedule {name}: {error}", f"mend it: turbo schedule show {word}")
        if self.late_seconds is not None:
            return warn(
                f"schedule {name} is {self.late_seconds:.0f} s late: no worker has fired its slot",
                "start a worker, or see the workers' log for `schedule`",
            )
        return warn(
            f"schedule {name} inserts into queue {self.queue}; no live worker serves it",
            f"add it to worker.queues of a worker, or start one: turbo worker --queue {self.queue}",
        )


def schedule_troubles(rows: Iterable[Mapping[str, Any]]) -> list[ScheduleTrouble]:
    """The rows of status/schedules.sql."""
    return [ScheduleTrouble(**{name: value for name, value in row.items() if name != "of_all"}) for row in rows]


def troubles() -> Steps[tuple[list[ScheduleTrouble], int]]:
    """The schedules that need a person, and how many more there are. None for a role that may not see them, and where the database
    does not know schedules yet."""
    try:
        rows = (yield Query("status/schedules", {"limit": SCHEDULES_LISTED})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return [], 0
    return schedule_troubles(rows), max(0, rows[0]["of_all"] - len(rows)) if rows else 0


def findings(schedules: Iterable[ScheduleTrouble], more: int, *, any_worker: bool = True) -> list[Finding]:
    """A problem each. Where no worker is alive, that none serves a queue is no news."""
    found = [one.finding for one in schedules if any_worker or one.error is not None or one.late_seconds is not None]
    if more:
        found.append(warn(f"{more} more schedules need a person", "turbo schedule list"))
    return found
