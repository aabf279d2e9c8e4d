"""The rescuer: takes back the tasks of dead workers, so that any worker can claim them."""

import logging
from collections.abc import Iterable
from typing import Protocol

from turbo.db.worker_registry import WorkerRegistry
from turbo.domain.states import RescueReason, TaskState
from turbo.observability.metrics import Metrics
from turbo.worker.wakeups import WakeUps

log = logging.getLogger(__name__)


class Promoter(Protocol):
    """Promotes what falls due in queues that this worker may not serve (turbo.worker.poller)."""

    def promote_also(self, queues: Iterable[str]) -> None: ...


class Rescuer:
    """Two workers may rescue at once. A rescued task waits a short backoff before it runs again."""

    def __init__(self, registry: WorkerRegistry, wakeups: WakeUps, poller: Promoter, metrics: Metrics) -> None:
        self._registry = registry
        self._poller = poller
        self._wakeups = wakeups
        self._metrics = metrics

    async def mark_dead(self, worker_ids: list[str], host: str) -> bool:
        """Mark workers of this host dead whose process is gone. Whether the database knew one of them.

        Raises `db.DATABASE_ERRORS`."""
        return bool(await self._registry.mark_dead(worker_ids, host))

    async def rescue(self, reason: RescueReason) -> None:
        """Take back what workers marked dead held, but for rows that the database refuses: a later beat tries them again.

        Raises `db.DATABASE_ERRORS`."""
        found = await self._registry.rescue(reason)
        for rescued in found:
            self._metrics.rescued.labels(reason).inc()
            if rescued.status == TaskState.FAILED:
                self._metrics.poisoned.inc()
            log.warning(
                "rescued from dead worker %s: %s", rescued.was_on, rescued.status, extra={"task": rescued.task_id}
            )
        if found:
            self._poller.promote_also({rescued.queue for rescued in found})
            self._wakeups.poll_soon()  # learn when the rescued tasks are due
