"""Statements about the end of a run: record results, and give tasks back."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from turbo.db.errors import is_about_one_row
from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.store import Store, claim_columns
from turbo.domain.claim import ClaimRef
from turbo.domain.result import RunResult
from turbo.domain.states import RowStatement, TaskState, Verdict, task_state

INFRA_CAP = 5
"""Rescues and infrastructure outcomes of one task before it fails as poison: a task that kills its worker must not take
down the fleet, worker by worker."""


@dataclass(frozen=True, slots=True)
class ResultAnswer:
    """What the database answers to one result.

    `becomes` is the task's new status. None: not recorded, or a status that only an adopted table has."""

    task_id: str
    token: int
    verdict: Verdict
    becomes: TaskState | None


class ResultStore(Store):
    """Bound to one worker. Results go over a lane that no claim uses: a long batch of them never holds up a claim."""

    def __init__(self, lane: Lane, worker_id: str, refusals: Refusals) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._refusals = refusals

    async def finish(self, results: Sequence[RunResult]) -> list[ResultAnswer]:
        """Record a batch in one transaction with its audit trail. Every result gets an answer; see sql/tasks/finish.sql."""
        parameters = {
            "worker": self._worker_id,
            "results": json.dumps([_document(result, self._worker_id) for result in results]),
            "infra_cap": INFRA_CAP,
        }
        return [
            ResultAnswer(task_id, token, Verdict(verdict), task_state(becomes))
            for task_id, token, verdict, becomes in await self._rows("tasks/finish", parameters)
        ]

    async def release(
        self, claims: Iterable[tuple[ClaimRef, str | None]], reason: str, *, delay: float = 0.0
    ) -> list[ClaimRef]:
        """Give tasks back uncounted, each with the agent's session id where one is to be resumed.

        They can be claimed again in `delay` seconds. Returns those that were given back. One whose row the database refuses
        stays running, with nobody who knows it: an orphan (sql/tasks/reconcile.sql)."""
        items = list(claims)
        try:
            return await self._release(items, reason, delay)
        except psycopg.Error as error:
            if not is_about_one_row(error):
                raise
            if len(items) == 1:
                self._refusals.refused(RowStatement.RELEASE, items[0][0].task_id, error)
                return []
        half = len(items) // 2
        first = await self.release(items[:half], reason, delay=delay)
        return first + await self.release(items[half:], reason, delay=delay)

    async def _release(self, items: Sequence[tuple[ClaimRef, str | None]], reason: str, delay: float) -> list[ClaimRef]:
        parameters = {
            "worker": self._worker_id,
            **claim_columns(claim for claim, _ in items),
            "session": [session for _, session in items],
            "reason": reason,
            "delay": delay,
        }
        return [ClaimRef(row[0], row[1]) for row in await self._rows("tasks/release", parameters)]


def _document(result: RunResult, worker_id: str) -> dict[str, object]:
    """One result as sql/tasks/finish.sql reads it. Usual values are left out: server and client pay for every word."""
    document: dict[str, object] = {
        "task_id": result.task_id,
        "token": result.fencing_token,
        "outcome": result.outcome,
        "output": result.output,
        "ms": result.execution_ms,
    }
    if result.detail:
        document["detail"] = result.detail
    if result.worker_id != worker_id:
        document["worker"] = result.worker_id
    if result.retry_delay_seconds:
        document["delay"] = result.retry_delay_seconds
    if result.final:
        document["final"] = True
    if result.uncounted:
        document["uncounted"] = True
    if result.error is not None:
        document["error"] = result.error
    if result.failure_kind is not None:
        document["kind"] = result.failure_kind
    if result.agent_session_id is not None:
        document["session"] = result.agent_session_id
    return document
