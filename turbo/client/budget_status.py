"""Budgets that keep tasks waiting, or soon will, for `turbo status` and `turbo doctor`."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from turbo.client.operations import Query, Steps
from turbo.domain.finding import Finding, warn

BUDGETS_LISTED = 50
FOR_EVER_YEAR = 9000


@dataclass(frozen=True, slots=True)
class BudgetTrouble:
    """A budget that is spent (`paused_until`), nearly spent, not counted by any worker (`uncounted`), or that a worker does not keep,
    because it is older (`older`: its id). What it covers, and the limits: None means any, and none."""

    name: str
    account: str | None
    queue: str | None
    task_type: str | None
    submitted_by: str | None
    usd: float | None
    tokens: int | None
    runs: int | None
    spent_usd: float
    spent_tokens: int
    spent_runs: int
    paused_until: datetime | None
    timezone: str
    uncounted: bool
    older: str | None

    @property
    def finding(self) -> Finding:
        """The problem in words, and what to do."""
        word = shlex.quote(self.name)
        if self.older is not None:
            return warn(
                f"budget {self.name} does not hold: worker {self.older} is older, and knows no budgets",
                "stop that worker, or start it again with this turbo",
            )
        if self.uncounted:
            return warn(
                f"budget {self.name} is not counted: no worker has added up what it covers",
                "start a worker, or see the workers' log for `budgets`",
            )
        if self.paused_until is None:
            return warn(
                f"budget {self.name} is nearly spent: {self._spent}", f"raise it, if need be: turbo budget set {word}"
            )
        return warn(
            f"budget {self.name} is spent ({self._spent}): {self._covered} {self._until}",
            f"or raise it: turbo budget set {word}, or remove it: turbo budget remove {word}",
        )

    @property
    def _spent(self) -> str:
        parts = [f"{self.spent_usd:,.2f} of {self.usd:,.2f} USD"] if self.usd is not None else []
        parts += [f"{self.spent_tokens:,} of {self.tokens:,} tokens"] if self.tokens is not None else []
        parts += [f"{self.spent_runs:,} of {self.runs:,} runs"] if self.runs is not None else []
        return ", ".join(parts)

    @property
    def _covered(self) -> str:
        scope = (
            ("account", self.account),
            ("queue", self.queue),
            ("type", self.task_type),
            ("submitter", self.submitted_by),
        )
        named = ", ".join(f"{what} {value}" for what, value in scope if value is not None)
        return f"tasks of {named} wait" if named else "all tasks wait"

    @property
    def _until(self) -> str:
        assert self.paused_until is not None
        if self.paused_until.astimezone(UTC).year >= FOR_EVER_YEAR:
            return "for good"
        try:
            zone: Any = ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            zone = UTC
        return f"until {self.paused_until.astimezone(zone):%Y-%m-%d %H:%M %Z}"


def budget_troubles(rows: Iterable[Mapping[str, Any]]) -> list[BudgetTrouble]:
    """The rows of status/budgets.sql."""
    return [BudgetTrouble(**{name: value for name, value in row.items() if name != "of_all"}) for row in rows]


def troubles() -> Steps[tuple[list[BudgetTrouble], int]]:
    """The budgets that a person should know of, and how many more there are. None for a role that may not see them, and where the
    database does not know budgets yet."""
    try:
        rows = (yield Query("status/budgets", {"limit": BUDGETS_LISTED})).rows
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return [], 0
    return budget_troubles(rows), max(0, rows[0]["of_all"] - len(rows)) if rows else 0


def findings(budgets: Iterable[BudgetTrouble], more: int, *, any_worker: bool = True) -> list[Finding]:
    """A problem each. Where no worker is alive, that none counts is no news."""
    found = [one.finding for one in budgets if any_worker or not one.uncounted]
    if more:
        found.append(warn(f"{more} more budgets are spent, or nearly", "turbo budget list"))
    return found
