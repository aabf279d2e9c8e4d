"""Quiet queues: their inserts notify nobody, and a worker looks for them (migrations/0029_quiet.sql)."""

from dataclasses import dataclass

from turbo.db.lane import Lane
from turbo.db.store import Row, Store

NO_LOOK = -1


@dataclass(frozen=True, slots=True)
class QuietLook:
    """`unsent`: how many inserts have left their wake-up to a keeper so far. `claims`: of all queues so far. `woken`: how many
    idle workers this look woke.
    `ended_below`, `begun_below`: transactions with lower ids have ended; those with ids from there on had not begun."""

    unsent: int
    claims: int
    woken: int
    ended_below: int
    begun_below: int


class QuietStore(Store):
    """For one worker."""

    def __init__(self, lane: Lane, worker_id: str) -> None:
        super().__init__(lane)
        self._worker_id = worker_id

    async def keep(self, queue: str, seconds: float, since: int | None = None) -> QuietLook | None:
        """Keep `queue` quiet for so long from now on. `since`: `unsent` of the look before; wake idle workers for what waits, at
        most eight for each insert since then. Without it nothing is looked at. None: another worker keeps the queue."""
        ((kept, *look),) = await self._step(queue, seconds, NO_LOOK if since is None else since)
        return _look(look) if kept else None

    async def end(self, queue: str) -> None:
        """Its inserts notify again. What was inserted before that is seen by a look that is sent after this."""
        await self._step(queue, 0.0, NO_LOOK)

    async def look(self, queue: str) -> QuietLook:
        """Wake idle workers for all that waits in `queue`, and three on standby."""
        ((_, *look),) = await self._step(queue, None, None)
        return _look(look)

    async def _step(self, queue: str, seconds: float | None, since: int | None) -> list[Row]:
        return await self._rows(
            "workers/keep_quiet", {"queue": queue, "keeper": self._worker_id, "seconds": seconds, "since": since}
        )


def _look(columns: list[int | None]) -> QuietLook:
    return QuietLook(*(column or 0 for column in columns))
