"""The statement about progress: the last line and the tokens so far of running tasks, in `agent_progress`."""

from collections.abc import Mapping, Sequence

from turbo.db.lane import Lane
from turbo.db.store import Store
from turbo.domain.claim import ClaimRef
from turbo.domain.run import Progress


class ProgressStore(Store):
    """Bound to one worker. It has a lane for itself: showing progress must not hold up work."""

    def __init__(self, lane: Lane, worker_id: str) -> None:
        super().__init__(lane)
        self._worker_id = worker_id

    async def write(self, latest: Mapping[ClaimRef, Progress], ended: Sequence[ClaimRef], deadline: float) -> None:
        """Write the latest progress of runs, and delete the rows of ended ones. `deadline` in seconds."""
        parameters = {
            "worker": self._worker_id,
            "task_id": [claim.task_id for claim in latest],
            "token": [claim.token for claim in latest],
            "line": [progress.text for progress in latest.values()],
            "input_tokens": [progress.input_tokens for progress in latest.values()],
            "output_tokens": [progress.output_tokens for progress in latest.values()],
            "over_id": [claim.task_id for claim in ended],
            "over_token": [claim.token for claim in ended],
        }
        await self._rows("tasks/progress", parameters, deadline)
