"""A schedule, as the client inserts it and returns it: when it fires, what its task is, and what became of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from turbo.client.new_task import BadField, NewTask, check_text, check_whole
from turbo.domain.schedule import MISSED_SECONDS, NAME_LENGTH, CatchUp, Overlap, ScheduleError, Timetable, timetable
from turbo.domain.visible import visible

SLOTS_SHOWN = 3
MOST_JITTER = 86_400

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * SUN",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""What crontab takes, and cronsim does not."""


class UnknownSchedule(LookupError):
    """No schedule of this name; the message has the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no schedule {_shown(name)}")


class ScheduleRefused(ValueError):
    """The database does not take this schedule, or the task of this run. The text says why, and what to write instead."""


class ScheduleExists(ScheduleRefused):
    """There is a schedule of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a schedule {_shown(name)} already; to change it, add it again and say replace")


class MayNotSchedule(ScheduleRefused):
    """The session's role may not write schedules, or not see them."""

    def __init__(self, *, reading: bool) -> None:
        what, who = ("see", "turbo_reader") if reading else ("change or run", "turbo_admin")
        super().__init__(
            f"this role may not {what} schedules: {who} may (GRANT {who} TO ..., after turbo migrate --roles)"
        )


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to insert; the columns of agent_schedules by their names. None: the column's default.

    `cron` has five fields, or six with the second first. `overlap`: skip or queue; `catch_up`: none, one or all. Raises BadField.
    """

    name: str
    cron: str
    task_description: str
    timezone: str | None = None
    enabled: bool = True
    overlap: str | None = None
    catch_up: str | None = None
    jitter_seconds: int | None = None
    max_failures: int | None = None
    task_type: str | None = None
    task_priority: int | None = None
    input_data: Any = None
    queue: str | None = None
    timeout_seconds: int | None = None
    max_retries: int | None = None
    concurrency_key: str | None = None

    def __post_init__(self) -> None:
        for column in ("name", "cron", "timezone", "overlap", "catch_up"):
            check_text(column, getattr(self, column))
        if self.name is None or not self.name.strip():
            raise BadField("name", "is empty: write a short one, as in 'nightly-triage'")
        if len(self.name) > NAME_LENGTH:
            raise BadField("name", f"has {len(self.name)} characters, more than {NAME_LENGTH}: write a shorter one")
        if re.search(r"[\x00-\x1f\x7f-\x9f]", self.name):
            raise BadField("name", f"{_shown(self.name)} has a control character: leave it out")
        self.timetable()
        _one_of("overlap", self.overlap, [one.value for one in Overlap])
        _one_of("catch_up", self.catch_up, [one.value for one in CatchUp])
        check_whole("jitter_seconds", self.jitter_seconds, 0, MOST_JITTER)
        check_whole("max_failures", self.max_failures, 1)
        if not isinstance(self.enabled, bool):
            raise BadField("enabled", "must be true or false")
        self.task()

    def timetable(self) -> Timetable:
        """Its slots. Raises BadField: the expression is none, or never comes; or the time zone is unknown."""
        if self.cron is None:
            raise BadField("cron", "is missing: '0 3 * * *' is every day at three")
        if same := _NICKNAMES.get(self.cron.strip().lower()):
            raise BadField("cron", f"is {_shown(self.cron)}: write '{same}'")
        try:
            return timetable(self.cron, "UTC" if self.timezone is None else self.timezone)
        except ScheduleError as error:
            column, _, why = str(error).partition(" ")
            raise BadField(column, why) from None

    def task(self) -> NewTask:
        """What it inserts at a slot, checked as every task is. Raises BadField."""
        return NewTask(
            self.task_description,
            task_type=self.task_type,
            task_priority=self.task_priority,
            input_data=self.input_data,
            queue=self.queue,
            timeout_seconds=self.timeout_seconds,
            max_retries=self.max_retries,
            concurrency_key=self.concurrency_key,
        )

    def parameters(self, *, replace: bool) -> dict[str, object]:
        """Those of client/add_schedule.sql."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        short = {"task_description": "text", "task_priority": "priority", "timeout_seconds": "timeout"}
        given: dict[str, object] = {short.get(column, column): value for column, value in columns.items()}
        del given["input_data"]
        return {**given, "input": self.task().input_json(), "replace": replace}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule. Of its task, None means the default of agent_tasks.

    `next_slots`: the next three, in its own time zone; none if it is paused, or cannot fire. `late_seconds`: for how long its
    first slot has waited for a worker; None: for less than a minute. `last_at`: the last slot that was fired or passed over;
    `fired_at`: the last one that has a task; `run_at`: the last run by hand. `skipped`: slots passed over, `skipped_at` the last
    of them. `failures`: in a row. `error`: why it does not fire, why its last task was refused, or why it has paused itself.
    `now`: the database's clock, when this was read.
    """

    name: str
    cron: str
    timezone: str
    enabled: bool
    overlap: str
    catch_up: str
    jitter_seconds: int
    max_failures: int | None
    task_type: str | None
    task_description: str
    task_priority: int | None
    input_data: Any
    queue: str | None
    timeout_seconds: int | None
    max_retries: int | None
    concurrency_key: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    since: datetime
    next_at: datetime | None
    last_at: datetime | None
    fired_at: datetime | None
    run_at: datetime | None
    skipped: int
    skipped_at: datetime | None
    failures: int
    error: str | None
    now: datetime
    next_slots: tuple[datetime, ...] = ()
    late_seconds: float | None = None

    @property
    def state(self) -> str:
        """on, late (a slot has been due for over a minute: no worker fires it), error, or paused."""
        if not self.enabled:
            return "paused"
        if self.error is not None:
            return "error"
        return "on" if self.late_seconds is None else "late"

    def in_its_zone(self, moment: datetime) -> datetime:
        """`moment` as its clocks show it; in UTC if its zone is unknown here."""
        try:
            return _there(moment, timetable(self.cron, self.timezone).zone)
        except ScheduleError:
            return moment.astimezone(UTC)


def read_schedule(row: Mapping[str, Any]) -> Schedule:
    """A row of client/schedules.sql."""
    now: datetime = row["now"]
    if not row["enabled"] or (row["next_at"] is None and row["error"] is not None):
        return Schedule(**row)
    try:
        table = timetable(row["cron"], row["timezone"])
    except ScheduleError as error:  # no worker has looked at it yet
        return Schedule(**{**row, "error": row["error"] or str(error)})
    slots, late = _slots(table, row["next_at"] or table.after(row["since"]), now)
    return Schedule(**row, next_slots=tuple(_there(slot, table.zone) for slot in slots), late_seconds=late)


def _slots(table: Timetable, first: datetime | None, now: datetime) -> tuple[list[datetime], float | None]:
    """The next slots, and for how long `first`, the one that is due next, is late."""
    if first is None:
        return [], None
    if first > now:
        return [first, *table.next(SLOTS_SHOWN - 1, first)], None
    late = (now - first).total_seconds()
    return table.next(SLOTS_SHOWN, now), late if late > MISSED_SECONDS else None


def _there(moment: datetime, zone: ZoneInfo) -> datetime:
    """`moment` on that zone's clocks, with the offset and the name that the zone has then: differences of such moments are true."""
    there = moment.astimezone(zone)
    return moment.astimezone(timezone(there.utcoffset() or timedelta(), there.tzname() or "UTC"))


@dataclass(frozen=True, slots=True)
class ScheduleTask:
    """A task of a schedule. `slot`: the slot that it was inserted for, or the moment of its run by hand."""

    task_id: str
    status: str
    slot: datetime | None
    by_hand: bool
    run_after: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failure_kind: str | None
    error_message: str | None


def known_name(name: str) -> str:
    """`name`. Raises UnknownSchedule for what no text in PostgreSQL can be."""
    try:
        check_text("name", name)
    except BadField:
        raise UnknownSchedule(repr(name)) from None
    return name


def read_schedule_task(row: Mapping[str, Any]) -> ScheduleTask:
    """A row of client/schedule_tasks.sql. A run by hand has a fraction of a second in its key."""
    text = str(row["slot"])
    try:
        slot = datetime.fromisoformat(text)
    except ValueError:  # a key that turbo did not make
        slot = None
    return ScheduleTask(**{**row, "slot": slot, "by_hand": "." in text})


def _one_of(column: str, value: str | None, known: list[str]) -> None:
    if value is not None and value not in known:
        raise BadField(column, f"is {_shown(value)}: write {', '.join(known)}")


def _shown(text: str) -> str:
    return f"'{visible(text if len(text) <= 60 else text[:60] + '…')}'"
