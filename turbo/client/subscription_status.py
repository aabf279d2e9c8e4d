"""Subscriptions that need a person, for `turbo status` and `turbo doctor`."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from turbo.client.operations import Query, Steps
from turbo.client.subscription import FAILING
from turbo.domain.finding import Finding, warn

SUBSCRIPTIONS_LISTED = 50
ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True)
class SubscriptionTrouble:
    """A subscription that delivers nothing. `failures`: in a row; `error`: why the last one failed. `waiting_seconds`: for how long the
    oldest event has waited. `unheld_seconds`: for how long no worker has delivered it, None if one does."""

    name: str
    target: str
    failures: int
    error: str | None
    waiting_seconds: float | None
    unheld_seconds: float | None

    @property
    def finding(self) -> Finding:
        """The problem in words, and what to do."""
        if self.failures >= FAILING:
            error = (self.error or "")[:ERROR_LENGTH]
            waits = f"; the oldest event has waited for {self.waiting_seconds:.0f} s" if self.waiting_seconds else ""
            return warn(
                f"subscription {self.name}: target {self.target} failed {self.failures} times in a row: {error}{waits}",
                f"mend the target; try it on its worker's host: turbo subscription test {shlex.quote(self.target)} --config FILE",
            )
        return warn(
            f"subscription {self.name}: no live worker has a target {self.target}; its events wait",
            "add it under notify in a worker.yaml, and restart that worker; or see the workers' log for `subscription`",
        )


def subscription_troubles(rows: Iterable[Mapping[str, Any]]) -> list[SubscriptionTrouble]:
    """The rows of status/subscriptions.sql."""
    return [SubscriptionTrouble(**{name: value for name, value in row.items() if name != "of_all"}) for row in rows]


def troubles() -> Steps[tuple[list[SubscriptionTrouble], int]]:
    """The subscriptions that need a person, and how many more there are. None for a role that may not see them, and where the database
    does not know subscriptions yet."""
    try:
        rows = (yield Query("status/subscriptions", {"limit": SUBSCRIPTIONS_LISTED, "failing": FAILING})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return [], 0
    return subscription_troubles(rows), max(0, rows[0]["of_all"] - len(rows)) if rows else 0


def subscription_findings(
    subscriptions: Iterable[SubscriptionTrouble], more: int, *, any_worker: bool = True
) -> list[Finding]:
    """A problem each. Where no worker is alive, that none has a target is no news."""
    found = [one.finding for one in subscriptions if any_worker or one.failures >= FAILING]
    if more:
        found.append(warn(f"{more} more subscriptions need a person", "turbo subscription list"))
    return found
