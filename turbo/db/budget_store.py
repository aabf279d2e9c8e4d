"""Statements of budgets: add up what runs used (turbo.worker.budget_keeper)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from turbo.db.lane import Lane
from turbo.db.store import Store
from turbo.domain.budget import Budget


@dataclass(frozen=True, slots=True)
class Fold:
    """The budgets after a fold, and `asked_at`: when it was sent, in monotonic seconds. `more`: usage is left to be added at once.
    `left`: names of budgets that somebody has locked."""

    budgets: tuple[Budget, ...] = ()
    asked_at: float = 0.0
    more: bool = False
    left: tuple[str, ...] = ()


class BudgetStore(Store):
    def __init__(self, lane: Lane, *, now: str | None = None) -> None:
        """`now`: the present, for tests; None: the database's clock."""
        super().__init__(lane)
        self.now = now

    async def fold(self) -> Fold:
        """Add what runs used to the budgets (sql/budgets/fold.sql). LockNotAvailable: another worker is at it."""
        asked_at = time.monotonic()
        ((state,),) = await self._rows("budgets/fold", {"now": self.now})
        if state is None:
            return Fold(asked_at=asked_at)
        return Fold(read_budgets(state), asked_at, bool(state["more"]), tuple(state["left"]))

    async def submitter(self, task_id: str) -> str | None:
        found = await self._rows("budgets/submitter", {"task_id": task_id})
        return found[0][0] if found else None


def read_budgets(state: Mapping[str, Any] | None) -> tuple[Budget, ...]:
    """What turbo_budgets returns."""
    if state is None:
        return ()
    return tuple(
        Budget(
            name=one["name"],
            account=one["account"],
            queue=one["queue"],
            task_type=one["task_type"],
            submitted_by=one["submitted_by"],
            closed=one["closed"],
            behind=one["behind"],
            ends_in=one["in"],
            usd_left=None if one["usd_left"] is None else float(one["usd_left"]),
            counts_runs=one["runs"],
        )
        for one in state["budgets"]
    )
