"""The statement about progress: the last line and the tokens so far of running tasks, in `agent_progress`."""

from collections.abc import Mapping, Sequence

import psycopg

from turbo.db.errors import is_about_one_row
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.store import Store
from turbo.domain.claim import ClaimRef
from turbo.domain.run import Progress
from turbo.domain.states import RowStatement


class ProgressStore(Store):
    """Bound to one worker. It has a lane for itself: showing progress must not hold up work."""

    def __init__(self, lane: Lane, worker_id: str, refusals: Refusals) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._refusals = refusals

    async def write(self, latest: Mapping[ClaimRef, Progress], ended: Sequence[ClaimRef], deadline: float) -> None:
        """Write the latest progress of runs, and delete the rows of ended ones. `deadline` in seconds. What the database
        refuses (a character that its encoding does not have) is left out."""
        try:
            await self._write(latest, ended, deadline)
            return
        except psycopg.Error as error:
            if not is_about_one_row(error):
                raise
            if len(latest) + len(ended) == 1:
                claim = next(iter([*latest, *ended]))
                self._refusals.refused(RowStatement.PROGRESS, claim.task_id, error)
                return
        for claim, progress in latest.items():
            await self.write({claim: progress}, (), deadline)
        for claim in ended:
            await self.write({}, [claim], deadline)

    async def _write(self, latest: Mapping[ClaimRef, Progress], ended: Sequence[ClaimRef], deadline: float) -> None:
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
