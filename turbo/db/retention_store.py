"""Statements of retention: find rows that are old enough, and delete them (turbo.maintenance.row_retention)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from turbo.db.lane import Lane
from turbo.db.store import Row, Store

STATEMENT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """Seconds after which a finished task, an audit row, a row of usage or of a transcript is deleted; None keeps it for ever."""

    completed: float | None = None
    failed: float | None = None
    cancelled: float | None = None
    actions: float | None = None
    usage: float | None = None
    transcripts: float | None = None

    @property
    def any(self) -> bool:
        return self.any_task or any(age is not None for age in (self.actions, self.usage, self.transcripts))

    @property
    def any_task(self) -> bool:
        return any(age is not None for age in (self.completed, self.failed, self.cancelled))


@dataclass(frozen=True, slots=True)
class DueTasks:
    """One read of finished tasks: ids that are old enough, how many rows were read, and where the next read begins."""

    task_ids: list[str]
    read: int
    after: object
    after_id: str | None


@dataclass(frozen=True, slots=True)
class DeletedTasks:
    completed: int
    failed: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class DeletedActions:
    """One batch of the audit trail: rows read and deleted, the last row's place, and the table's pages."""

    read: int
    deleted: int
    last: str
    pages: int


@dataclass(frozen=True, slots=True)
class DeletedTranscripts:
    """One batch of the transcripts: rows read and deleted, and where the next read begins."""

    read: int
    deleted: int
    after: object


class RetentionStore(Store):
    def __init__(self, lane: Lane, ages: RetentionAges) -> None:
        super().__init__(lane)
        self.ages = ages

    async def audit_trail_is_partitioned(self) -> bool:
        (row,) = await self._ask("partitioned")
        return bool(row[0])

    async def due_tasks(self, after: object, after_id: str | None, limit: int) -> DueTasks:
        """Read up to `limit` finished tasks after a place (`after`: a timestamp, `after_id`: a task's id)."""
        (row,) = await self._ask("due", after=after, after_id=after_id, limit=limit)
        return DueTasks(*row)

    async def delete_tasks(self, task_ids: Sequence[str]) -> DeletedTasks:
        """Delete those that are still old enough. Raises psycopg.Error; see db.is_about_one_row."""
        (row,) = await self._ask("tasks", task_id=list(task_ids))
        return DeletedTasks(*row[:3])

    async def delete_actions(self, after: str, to_page: int, limit: int) -> DeletedActions:
        """Delete from the audit trail between a place (`after`: a ctid as text) and a page, `limit` rows at most."""
        (row,) = await self._ask("actions", after=after, to_page=to_page, limit=limit)
        return DeletedActions(*row[:4])

    async def next_action(self, after: str, to_page: int) -> str | None:
        """The place of the first row that `delete_actions` would read."""
        parameters = {**asdict(self.ages), "after": after, "to_page": to_page, "limit": 1}
        found = await self._rows("retention/actions", parameters, STATEMENT_SECONDS, "which")
        return found[0][0] if found else None

    async def delete_usage(self, limit: int) -> int:
        """Delete the oldest rows of usage that are old enough, `limit` at most. How many there were."""
        (row,) = await self._ask("usage", limit=limit)
        return int(row[0])

    async def delete_events(self, limit: int) -> int:
        """Delete the oldest events that are as old as audit rows may be, `limit` at most. How many there were."""
        (row,) = await self._ask("events", limit=limit)
        return int(row[0])

    async def delete_transcripts(self, after: object, limit: int) -> DeletedTranscripts:
        """Read up to `limit` rows of transcripts from a moment on, and delete those that are old enough and not needed."""
        (row,) = await self._ask("transcripts", after=after, limit=limit)
        return DeletedTranscripts(*row[:3])

    async def close(self) -> None:
        """Close the connection until the next pass."""
        await self._lane.close()

    async def end(self) -> None:
        """End the lane; a statement under way is cut off."""
        await self._lane.over()

    async def _ask(self, name: str, **parameters: object) -> list[Row]:
        return await self._rows(f"retention/{name}", {**asdict(self.ages), **parameters}, STATEMENT_SECONDS)
