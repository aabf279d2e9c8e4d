"""Row retention: the leader deletes finished tasks and audit rows that are older than the configuration allows.

    leads ──▶ a pass: tasks by their end, then the audit trail by its pages, then the rest by their time ──▶ an hour ──▶ …

Deletes nothing unless configured. Small batches with a pause between, over a connection that exists during a pass only,
so that no claim waits for it. Never deleted: unfinished tasks, tasks that turbo never claimed (an old poller's rows), rows
that another table refers to (logged once). The audit trail has its own age and outlives its task. Every statement is right
with two leaders at once; a pass that is cut short goes on with the next.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from psycopg import errors

from turbo import db
from turbo.db.retention_store import RetentionStore
from turbo.domain.states import RowStatement
from turbo.maintenance.leadership import Leadership
from turbo.observability.metrics import Metrics
from turbo.runtime.service import LoopService

log = logging.getLogger(__name__)

PASS_SECONDS = 3600.0
RETRY_SECONDS = 60.0
"""After a pass that the database's absence cut short."""

READ_ROWS = 5_000
BATCH = 1_000
PAGES = 512
TRANSCRIPT_ROWS = 200
"""A row is up to a megabyte of text."""

PAUSE_SECONDS = 0.2
"""After a batch that deleted something: at most 5,000 rows a second, however much there is to catch up on."""

EMPTY_PAUSE_SECONDS = 0.02
"""After a read that found nothing old enough."""


class RowRetention(LoopService):
    name = "retention"

    def __init__(
        self,
        store: RetentionStore,
        leadership: Leadership,
        metrics: Metrics,
        *,
        every: float = PASS_SECONDS,
        batch: int = BATCH,
        pause: float = PAUSE_SECONDS,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`every`: seconds between passes; `pause`: seconds between batches of `batch` rows. `before`: what is to be read of tasks
        before they are deleted."""
        super().__init__()
        self._store = store
        self._leadership = leadership
        self._metrics = metrics
        self._every = every
        self._batch = batch
        self._pause = pause
        self._before = before
        self._warned: set[str] = set()
        self.deleted: Counter[str] = Counter()

    async def stop(self) -> None:
        """A batch under way is cut off; a later pass finds what it did not delete."""
        await self._store.end()
        await super().stop()

    async def run(self) -> None:
        self.started.set()
        if not self._store.ages.any:
            return
        while True:
            await self._leadership.wait()
            await asyncio.sleep((await self.once()) * random.uniform(0.9, 1.1))

    async def once(self) -> float:
        """One pass, as long as this worker leads. Returns the seconds until the next."""
        self.deleted.clear()
        try:
            if self._store.ages.any_task:
                if self._before is not None:
                    await self._before()
                await self._tasks()
            if self._store.ages.actions is not None:
                if await self._store.audit_trail_is_partitioned():
                    self._warn_once("retention leaves the partitioned agent_actions alone: drop its old partitions")
                else:
                    await self._actions()
                await self._oldest("agent_events", "events", self._store.delete_events)
            if self._store.ages.usage is not None:
                await self._oldest("agent_usage", "usage rows", self._store.delete_usage)
            if self._store.ages.transcripts is not None:
                await self._transcripts()
        except errors.InsufficientPrivilege as error:
            self._warn_once(f"retention may not delete: {db.reason(error)}; see docs/security.md")
        except db.DATABASE_ERRORS as error:
            if db.is_transient(error):
                return min(self._every, RETRY_SECONDS)
            log.error("retention stopped: %s", db.reason(error))
        finally:
            await self._store.close()
            if self.deleted:
                log.info("retention deleted %s", ", ".join(f"{n} {what}" for what, n in self.deleted.items()))
        return self._every

    async def _tasks(self) -> None:
        after: object = "-infinity"
        after_id: str | None = None
        while self._leadership.held:
            due = await self._store.due_tasks(after, after_id, READ_ROWS)
            after, after_id = due.after, due.after_id
            for start in range(0, len(due.task_ids), self._batch):
                if not self._leadership.held:
                    return
                await self._delete(due.task_ids[start : start + self._batch])
                await asyncio.sleep(self._pause)
            if due.read < READ_ROWS:
                return
            if not due.task_ids:
                await asyncio.sleep(EMPTY_PAUSE_SECONDS)

    async def _delete(self, task_ids: Sequence[str]) -> None:
        """Delete a batch. A row that another table refers to, or that a trigger refuses, is found by halves and stays."""
        try:
            deleted = await self._store.delete_tasks(task_ids)
        except psycopg.Error as error:
            if not db.is_about_one_row(error):
                raise
            if len(task_ids) == 1:
                self._metrics.refused_rows.labels(RowStatement.RETENTION).inc()
                where = error.diag.table_name or error.diag.constraint_name or ""
                self._warn_once(
                    f"retention keeps finished tasks that table {where} refers to ({error.diag.constraint_name})"
                    if isinstance(error, psycopg.IntegrityError)
                    else f"retention keeps finished tasks whose deletion a trigger refuses: {db.reason(error)}"
                )
                return
            half = len(task_ids) // 2
            await self._delete(task_ids[:half])
            await self._delete(task_ids[half:])
            return
        self._count("agent_tasks", deleted.completed + deleted.failed + deleted.cancelled)
        self.deleted += Counter(
            {"completed": deleted.completed, "failed": deleted.failed, "cancelled": deleted.cancelled}
        )

    async def _actions(self) -> None:
        first_page, pages, after = 0, 1, "(0,0)"
        limit = self._batch
        while first_page < pages and self._leadership.held:
            try:
                batch = await self._store.delete_actions(after, first_page + PAGES, limit)
            except psycopg.Error as error:
                if not db.is_about_one_row(error):
                    raise
                if limit == 1:
                    after = await self._store.next_action(after, first_page + PAGES) or after
                    self._metrics.refused_rows.labels(RowStatement.RETENTION).inc()
                    self._warn_once(f"retention keeps audit rows whose deletion is refused: {db.reason(error)}")
                limit = max(1, limit // 2)
                continue
            pages = batch.pages
            self._count("agent_actions", batch.deleted)
            self.deleted += Counter({"audit rows": batch.deleted})
            if batch.read == limit:
                after = batch.last
            else:
                first_page += PAGES
                after = f"({first_page},0)"
            limit = min(2 * limit, self._batch)
            await asyncio.sleep(self._pause if batch.deleted else EMPTY_PAUSE_SECONDS)

    async def _oldest(self, table: str, what: str, delete: Callable[[int], Awaitable[int]]) -> None:
        while self._leadership.held:
            deleted = await delete(self._batch)
            self._count(table, deleted)
            self.deleted += Counter({what: deleted})
            if deleted < self._batch:
                return
            await asyncio.sleep(self._pause)

    async def _transcripts(self) -> None:
        """Those that are kept stay in the way of the next read: it begins after them."""
        after: object = "-infinity"
        while self._leadership.held:
            batch = await self._store.delete_transcripts(after, TRANSCRIPT_ROWS)
            after = batch.after
            self._count("agent_transcripts", batch.deleted)
            self.deleted += Counter({"batches of transcripts": batch.deleted})
            if batch.read < TRANSCRIPT_ROWS:
                return
            await asyncio.sleep(self._pause if batch.deleted else EMPTY_PAUSE_SECONDS)

    def _count(self, table: str, rows: int) -> None:
        if rows:
            self._metrics.retention.labels(table).inc(rows)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)
