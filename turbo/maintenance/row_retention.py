"""RowRetention: the leader deletes finished tasks and trail rows that are older than the configuration allows.

    leads ──▶ a pass: tasks by their end, then the trail by its pages ──▶ an hour ──▶ …

Deletes nothing unless configured. Small batches with a pause between, over a connection that exists during a pass only, so
that no claim waits for it. Never deleted: what is not finished, what turbo never claimed (an old poller's rows), what
another table refers to (said once). The trail has an age of its own and outlives its task. Every statement is right with
two leaders at once; a pass that is cut short goes on with the next.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import errors

from turbo import db
from turbo.db.connect import Lane
from turbo.observability.metrics import Metrics
from turbo.runtime.service import Service
from turbo.sql import statement

log = logging.getLogger(__name__)

PASS_SECONDS = 3600.0
AGAIN_SECONDS = 60.0
"""After a pass that the database's absence cut short."""

LOOK = 5_000
BATCH = 1_000
PAGES = 512
PAUSE_SECONDS = 0.2
"""After a batch that deleted something: at most 5,000 rows a second, whatever there is to catch up on."""

BREATH_SECONDS = 0.02
"""After a look that found nothing old enough."""

STATEMENT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """Seconds after which a finished task or a trail row goes; None keeps it for ever."""

    completed: float | None = None
    failed: float | None = None
    cancelled: float | None = None
    actions: float | None = None

    @property
    def any_task(self) -> bool:
        return any(age is not None for age in (self.completed, self.failed, self.cancelled))


class RowRetention(Service):
    name = "retention"

    def __init__(
        self,
        lane: Lane,
        ages: RetentionAges,
        metrics: Metrics,
        *,
        every: float = PASS_SECONDS,
        batch: int = BATCH,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """`every`: seconds between passes; `pause`: between batches of `batch` rows."""
        super().__init__()
        self._lane = lane
        self._ages = ages
        self._metrics = metrics
        self._every = every
        self._batch = batch
        self._pause = pause
        self._leads = asyncio.Event()
        self._said: set[str] = set()
        self.deleted: Counter[str] = Counter()

    def leads(self, yes: bool) -> None:
        """What the last beat said. A pass under way ends with its batch when the lead is lost."""
        if yes:
            self._leads.set()
        else:
            self._leads.clear()

    async def stop(self) -> None:
        """A batch under way is cut off; a later pass finds what it did not delete."""
        await self._lane.over()
        await super().stop()

    async def run(self) -> None:
        if not self._ages.any_task and self._ages.actions is None:
            return
        while True:
            await self._leads.wait()
            await asyncio.sleep((await self.once()) * random.uniform(0.9, 1.1))

    async def once(self) -> float:
        """One pass, as long as this worker leads. Returns the seconds until the next."""
        self.deleted.clear()
        try:
            if self._ages.any_task:
                await self._tasks()
            if self._ages.actions is not None:
                if (await self._ask("retention/partitioned"))[0]:
                    self._warn_once("retention leaves the partitioned agent_actions alone: drop its old partitions")
                else:
                    await self._actions()
        except errors.InsufficientPrivilege as error:
            self._warn_once(f"retention may not delete: {db.reason(error)}; see docs/security.md")
        except (psycopg.Error, OSError) as error:
            if db.is_transient(error):
                return min(self._every, AGAIN_SECONDS)
            log.error("retention stopped: %s", db.reason(error))
        finally:
            await self._lane.close()
            if self.deleted:
                log.info("retention deleted %s", ", ".join(f"{n} {what}" for what, n in self.deleted.items()))
        return self._every

    async def _tasks(self) -> None:
        after, after_id = "-infinity", None
        while self._leads.is_set():
            due, looked_at, after, after_id = await self._ask(
                "retention/due", after=after, after_id=after_id, limit=LOOK
            )
            for start in range(0, len(due), self._batch):
                if not self._leads.is_set():
                    return
                await self._delete(due[start : start + self._batch])
                await asyncio.sleep(self._pause)
            if looked_at < LOOK:
                return
            if not due:
                await asyncio.sleep(BREATH_SECONDS)

    async def _delete(self, task_ids: Sequence[str]) -> None:
        """Delete a batch. What another table refers to, or a trigger refuses, is halved out of it and stays."""
        try:
            completed, failed, cancelled, _ = await self._ask("retention/tasks", task_id=list(task_ids))
        except (psycopg.IntegrityError, errors.RaiseException) as error:
            if len(task_ids) == 1:
                where = error.diag.table_name or error.diag.constraint_name or ""
                self._warn_once(
                    f"retention keeps finished tasks that table {where} refers to ({error.diag.constraint_name})"
                    if isinstance(error, psycopg.IntegrityError)
                    else f"retention keeps finished tasks that a trigger will not let go: {db.reason(error)}"
                )
                return
            half = len(task_ids) // 2
            await self._delete(task_ids[:half])
            await self._delete(task_ids[half:])
            return
        self._count("agent_tasks", completed + failed + cancelled)
        self.deleted += Counter({"completed": completed, "failed": failed, "cancelled": cancelled})

    async def _actions(self) -> None:
        first_page, pages, after = 0, 1, "(0,0)"
        while first_page < pages and self._leads.is_set():
            looked_at, deleted, last, pages, _ = await self._ask(
                "retention/actions", after=after, to_page=first_page + PAGES, limit=self._batch
            )
            self._count("agent_actions", deleted)
            self.deleted += Counter({"trail rows": deleted})
            if looked_at == self._batch:
                after = last
            else:
                first_page += PAGES
                after = f"({first_page},0)"
            await asyncio.sleep(self._pause if deleted else BREATH_SECONDS)

    async def _ask(self, name: str, **parameters: object) -> tuple[Any, ...]:
        async with self._lane.use(deadline=STATEMENT_SECONDS) as connection:
            row = await (await connection.execute(statement(name), {**asdict(self._ages), **parameters})).fetchone()
        assert row is not None
        return row

    def _count(self, table: str, rows: int) -> None:
        if rows:
            self._metrics.retention.labels(table).inc(rows)

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)
