"""Statements about questions that wait for a person (turbo.maintenance.reminders)."""

from turbo.db.connect import Connection
from turbo.db.lane import Lane
from turbo.db.store import Store, rows


class QuestionStore(Store):
    """Bound to one worker, which reminders name."""

    def __init__(self, lane: Lane, worker_id: str) -> None:
        super().__init__(lane)
        self._worker_id = worker_id

    async def remind(self, most: int) -> list[str]:
        """Write the reminders that are due, at most `most`. The ids of their tasks."""
        return await self._use(lambda connection: self._remind(connection, most))

    async def _remind(self, connection: Connection, most: int) -> list[str]:
        async with connection.transaction():
            due = await rows(connection, "questions/due", {"most": most})
            if not due:
                return []
            parameters = {
                "worker": self._worker_id,
                "task_id": [row[0] for row in due],
                "asked_at": [row[1] for row in due],
                "number": [row[2] for row in due],
            }
            return [row[0] for row in await rows(connection, "questions/remind", parameters)]
