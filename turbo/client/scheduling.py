"""The clients' operations on schedules. See turbo.client.operations for what drives them."""

from functools import partial

import psycopg

from turbo.client.named_tables import read, written
from turbo.client.operations import Query, QueryResult, Steps, like
from turbo.client.schedule import (
    MayNotSchedule,
    NewSchedule,
    Schedule,
    ScheduleExists,
    ScheduleRefused,
    ScheduleTask,
    UnknownSchedule,
    known_name,
    read_schedule,
    read_schedule_task,
)

_EARLIEST = "0000-00-00T00:00:00Z"
_LATEST = "9999-99-99T99:99:99.999999Z"
"""Every slot of a key stands between these, in any collation."""


def add(schedule: NewSchedule, replace: bool) -> Steps[Schedule]:
    """Raises ScheduleExists, ScheduleRefused, MayNotSchedule."""
    answer = yield from _written(Query("client/add_schedule", schedule.parameters(replace=replace)), schedule.name)
    if not answer.rows and not replace:
        raise ScheduleExists(schedule.name)
    return (yield from get(schedule.name))


def get(name: str) -> Steps[Schedule]:
    """Raises UnknownSchedule, MayNotSchedule."""
    rows = yield from _read("client/schedules", names=[known_name(name)], whole=True, limit=1)
    if not rows.rows:
        raise UnknownSchedule(name)
    return read_schedule(rows.rows[0])


def listed(limit: int | None) -> Steps[list[Schedule]]:
    rows = yield from _read("client/schedules", names=None, whole=False, limit=limit)
    return [read_schedule(row) for row in rows.rows]


def names(prefix: str, limit: int) -> Steps[list[str]]:
    return [row["name"] for row in (yield from _read("client/schedule_names", pattern=like(prefix), limit=limit)).rows]


def tasks(name: str, limit: int | None) -> Steps[list[ScheduleTask]]:
    prefix = f"schedule {known_name(name)}@"
    rows = yield from _read(
        "client/schedule_tasks", prefix=prefix, first=prefix + _EARLIEST, last=prefix + _LATEST, limit=limit
    )
    return [read_schedule_task(row) for row in rows.rows]


def pause(name: str) -> Steps[bool]:
    return (yield from _switched("client/pause_schedule", name))


def resume(name: str) -> Steps[bool]:
    return (yield from _switched("client/resume_schedule", name))


def remove(name: str) -> Steps[None]:
    if not (yield from _written(Query("client/remove_schedule", {"name": known_name(name)}), name)).count:
        raise UnknownSchedule(name)


def run(name: str) -> Steps[str]:
    """The id of its task."""
    answer = yield from _written(Query("client/run_schedule", {"name": known_name(name)}), name)
    return str(answer.rows[0]["task_id"])


def _switched(statement: str, name: str) -> Steps[bool]:
    """Whether it was changed. Raises UnknownSchedule."""
    row = (yield from _written(Query(statement, {"name": known_name(name)}), name)).rows[0]
    if not row["known"]:
        raise UnknownSchedule(name)
    return bool(row["changed"])


def _read(statement: str, **parameters: object) -> Steps[QueryResult]:
    return (yield from read(Query(statement, parameters), partial(MayNotSchedule, reading=True)))


def _written(query: Query, name: str) -> Steps[QueryResult]:
    try:
        return (yield from written(query, partial(MayNotSchedule, reading=False), ScheduleRefused))
    except psycopg.errors.NoDataFound:
        raise UnknownSchedule(name) from None
