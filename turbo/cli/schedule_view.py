"""How a schedule is shown: on one line, in a table, and whole with its tasks. Slots are shown on the clocks of its own time zone."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from turbo.cli import output, timestamps
from turbo.cli.output import Column
from turbo.domain.schedule import CatchUp, Overlap

if TYPE_CHECKING:
    from turbo.client.schedule import Schedule, ScheduleTask

COLUMNS = (
    Column("SCHEDULE", flexible=True, least=14),
    Column("STATE"),
    Column("NEXT", drop=2),
    Column("IN", drop=1, right=True),
    Column("THEN", drop=3, flexible=True, least=24),
    Column("IN", drop=6),
    Column("CRON", drop=4, flexible=True, least=14),
    Column("LAST", drop=5, right=True),
    Column("QUEUE", drop=8),
    Column("DESCRIPTION", drop=7, flexible=True),
)
TASKS = (
    Column("TASK", flexible=True, least=24),
    Column("STATUS"),
    Column("SLOT"),
    Column("TOOK", drop=2, right=True),
    Column("FAILURE", drop=1, flexible=True),
)

OVERLAPS: dict[str, str] = {
    Overlap.SKIP: "skip: no task at a slot while one of its tasks is not over",
    Overlap.QUEUE: "queue: a task at every slot, also while others are not over",
}
CATCH_UPS: dict[str, str] = {
    CatchUp.NONE: "none: slots missed by more than a minute get no task",
    CatchUp.ONE: "one: of slots missed by more than a minute, the latest gets a task",
    CatchUp.ALL: "all: each slot missed gets its task, the latest 100",
}


def document(one: "Schedule") -> dict[str, Any]:
    """For `print_json`."""
    return {"name": one.name, "state": one.state, **output.columns(one)}


def prospect(one: "Schedule") -> str:
    """`next at 2026-11-28 03:00 CET, in 19h40m`, or why there is none."""
    if one.next_slots:
        return f"next at {_clock(one, one.next_slots[0])}, in {_away(one, one.next_slots[0])}"
    return "paused" if one.state == "paused" else one.error or "it has no slot any more"


def remedy(one: "Schedule") -> str:
    """What to do about its error."""
    name = shlex.quote(one.name)
    if not one.enabled:
        return f"once that is mended: turbo schedule resume {name}"
    return f"to mend it: turbo schedule add {name} CRON TEXT --replace, or an UPDATE; to try it again: turbo schedule resume {name}"


def notes(one: "Schedule", *, served: bool | None) -> Iterator[str]:
    """What whoever wrote this schedule should know. `served`: whether a live worker serves its queue; None: it is unknown."""
    if served is False:
        yield f"no live worker serves queue {one.queue or 'default'}; check the name with turbo status"
    if one.catch_up == CatchUp.ALL and one.overlap == Overlap.SKIP:
        yield "catch_up all gives one task while overlap is skip: --overlap queue gives each missed slot its own"
    if one.state == "paused":
        yield f"it fires once it is resumed: turbo schedule resume {shlex.quote(one.name)}"


def print_table(found: "Sequence[Schedule]") -> None:
    output.table(COLUMNS, [_row(one) for one in found])


def _row(one: "Schedule") -> tuple[object, ...]:
    first = one.next_slots[0] if one.next_slots else None
    then = [_briefly(one, slot, before) for before, slot in pairwise(one.next_slots)]
    failures = f"{one.failures} failed in a row" if one.failures else None
    problem = one.error or _late(one) or failures
    about = f"{problem}: {one.task_description}" if problem else one.task_description
    return (
        one.name,
        one.state,
        "" if first is None else f"{_day(first, one.in_its_zone(one.now))} {_time(one, first)} {first.tzname()}",
        "" if first is None else _away(one, first),
        ", ".join(then),
        ", ".join(_away(one, slot) for slot in one.next_slots[1:]),
        one.cron,
        "" if one.fired_at is None else f"{timestamps.duration(_since(one, one.fired_at))} ago",
        one.queue or "default",
        about,
    )


def print_whole(one: "Schedule", tasks: "Sequence[ScheduleTask]") -> None:
    slots = "\n".join(f"{_clock(one, slot)}, in {_away(one, slot)}" for slot in one.next_slots)
    output.pairs({"schedule": one.name, "state": one.state, "error": one.error, "late": _late(one)})
    output.pairs(
        {
            "cron": one.cron,
            "timezone": one.timezone,
            "next": slots or None,
            "jitter": f"up to {timestamps.duration(one.jitter_seconds)}" if one.jitter_seconds else None,
            "overlap": OVERLAPS.get(one.overlap, one.overlap),
            "catch up": CATCH_UPS.get(one.catch_up, one.catch_up),
            "failures": _failures(one),
            "description": one.task_description,
            "type": one.task_type,
            "queue": one.queue or "default",
            "priority": one.task_priority,
            "timeout": None if one.timeout_seconds is None else f"{one.timeout_seconds} s",
            "retries": one.max_retries,
            "concurrency key": one.concurrency_key,
            "input": one.input_data,
            "last fired": _ago(one, one.fired_at),
            "run by hand": _ago(one, one.run_at),
            "passed over": _passed_over(one),
            "created": f"{timestamps.local_time(one.created_at)} by {one.created_by}",
        }
    )
    if tasks:
        output.echo()
        output.heading("latest tasks")
        output.table(TASKS, [_task(one, task) for task in tasks], indent=2)


def _late(one: "Schedule") -> str | None:
    if one.late_seconds is None:
        return None
    return f"a slot has been due for {timestamps.duration(one.late_seconds)}, and no worker fires it"


def _passed_over(one: "Schedule") -> str | None:
    last = f", the last {_ago(one, one.skipped_at)}" if one.skipped_at else ""
    return f"{output.many(one.skipped, 'slot')}{last}" if one.skipped else None


def _failures(one: "Schedule") -> str | None:
    if one.max_failures is None:
        return f"{one.failures} in a row" if one.failures else None
    return f"{one.failures} in a row; {one.max_failures} pause it"


def _task(one: "Schedule", task: "ScheduleTask") -> tuple[object, ...]:
    slot = "" if task.slot is None else _clock(one, task.slot)
    return (
        task.task_id,
        task.status,
        f"{slot}, by hand" if task.by_hand else slot,
        timestamps.duration(timestamps.seconds_between(task.started_at, task.completed_at)),
        " ".join(part for part in (task.failure_kind, task.error_message) if part),
    )


def _clock(one: "Schedule", moment: datetime) -> str:
    """On its own clocks: `2026-11-28 03:00 CET`, with seconds if it has any."""
    there = one.in_its_zone(moment)
    return f"{there:%Y-%m-%d} {_time(one, there)} {there.tzname()}"


def _briefly(one: "Schedule", moment: datetime, before: datetime) -> str:
    """Without what is the same as in `before`, a moment shown beside it."""
    there, was = one.in_its_zone(moment), one.in_its_zone(before)
    day = "" if there.date() == was.date() else f"{_day(there, was)} "
    return f"{day}{_time(one, there)}{'' if there.tzname() == was.tzname() else f' {there.tzname()}'}"


def _day(there: datetime, was: datetime) -> str:
    return f"{there:%m-%d}" if there.year == was.year else f"{there:%Y-%m-%d}"


def _time(one: "Schedule", there: datetime) -> str:
    return f"{there:%H:%M:%S}" if there.second or len(one.cron.split()) == 6 else f"{there:%H:%M}"


def _away(one: "Schedule", moment: datetime) -> str:
    return timestamps.duration(max(0.0, -_since(one, moment)))


def _since(one: "Schedule", moment: datetime) -> float:
    return (one.now - moment).total_seconds()


def _ago(one: "Schedule", moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return f"{_clock(one, moment)}, {timestamps.duration(max(0.0, _since(one, moment)))} ago"
