"""Schedules and their workers, taken by hand: the present is where the test says, and each statement is one step."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg

from turbo.db.lane import Lane
from turbo.db.schedule_store import ScheduleStore
from turbo.observability.metrics import Metrics
from turbo.worker.scheduler import Scheduler

Connection = psycopg.Connection[Any]

KEY = "schedule "


def add(db: Connection, name: str = "s", cron: str = "0 3 * * *", text: str = "work", **columns: object) -> None:
    """Insert a schedule, as a person does."""
    values = {"name": name, "cron": cron, "task_description": text} | columns
    db.execute(
        f"insert into agent_schedules ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})",
        list(values.values()),
    )


def begin(db: Connection, moment: datetime, name: str = "s") -> None:
    """Let the slots of a schedule count from `moment`."""
    db.execute("update agent_schedules set since = %s, next_at = null, rev = rev + 1 where name = %s", [moment, name])


def row(db: Connection, name: str = "s") -> dict[str, Any]:
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("select * from agent_schedules where name = %s", [name]).fetchone()
    assert found is not None
    return found


def slots(db: Connection, name: str = "s") -> list[datetime]:
    """The slots that have a task, as the keys of the tasks say."""
    start = f"{KEY}{name}@"
    keys = db.execute(
        "select idempotency_key from agent_tasks where starts_with(idempotency_key, %s) order by 1", [start]
    )
    return [datetime.fromisoformat(key.removeprefix(start)) for (key,) in keys]


def once_each(db: Connection) -> None:
    """No slot has two tasks."""
    counts = Counter(
        db.execute(
            "select detail ->> 'schedule', detail ->> 'slot' from agent_actions"
            " where action_type = 'fired' and detail ? 'slot'"
        ).fetchall()
    )
    assert not [slot for slot, count in counts.items() if count > 1]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


class Hand:
    """One scheduler. `store`: its statements, one by one. `at`: one pass, at that moment."""

    def __init__(self, dsn: str, worker_id: str = "w-1-abc") -> None:
        self.lane = Lane(dsn, f"turbo claims {worker_id}")
        self.lane.prepare_statements(True)
        self.store = ScheduleStore(self.lane, worker_id)
        self.metrics = Metrics()
        self.scheduler = Scheduler(self.store, self.metrics)

    async def at(self, moment: datetime | None = None) -> int:
        """One pass. How many tasks it inserted."""
        self.store.now = None if moment is None else moment.isoformat()
        return sum(len(done.fired) for done in await self.scheduler.once())


@contextlib.asynccontextmanager
async def scheduling(dsn: str, worker_id: str = "w-1-abc") -> AsyncIterator[Hand]:
    hand = Hand(dsn, worker_id)
    try:
        yield hand
    finally:
        await hand.scheduler.stop()
        await hand.lane.close()
