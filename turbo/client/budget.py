"""A budget, as the client writes it and returns it: what it covers, how much, and what is spent of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from turbo.client.new_task import BadField, check_text, check_whole
from turbo.domain.budget import Period
from turbo.domain.schedule import NAME_LENGTH
from turbo.domain.visible import visible

MOST_USD = 1e12
MOST_COUNT = 2**63 - 1


class UnknownBudget(LookupError):
    """No budget of this name; the message has the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no budget '{visible(name if len(name) <= 60 else name[:60] + '…')}'")


class BudgetRefused(ValueError):
    """The database does not take this budget. The text says why, and what to write instead."""


class MayNotBudget(BudgetRefused):
    """The session's role may not write budgets, or not see them."""

    def __init__(self, *, reading: bool) -> None:
        what, who = ("see", "turbo_reader") if reading else ("change", "turbo_admin")
        super().__init__(
            f"this role may not {what} budgets: {who} may (GRANT {who} TO ..., after turbo migrate --roles)"
        )


@dataclass(frozen=True, slots=True)
class NewBudget:
    """A budget to write; the columns of agent_budgets by their names. What it covers: None means any. How much: None means no limit of
    that kind, 0 nothing. Otherwise None means the column's default. Raises BadField."""

    name: str
    usd: float | None = None
    tokens: int | None = None
    runs: int | None = None
    period: str | None = None
    account: str | None = None
    queue: str | None = None
    task_type: str | None = None
    submitted_by: str | None = None
    timezone: str | None = None
    warn_at: float | None = None

    def __post_init__(self) -> None:
        for column in ("name", "period", "account", "queue", "task_type", "submitted_by", "timezone"):
            check_text(column, getattr(self, column))
        if self.name is None or not self.name.strip():
            raise BadField("name", "is empty: write a short one, as in 'daily'")
        if len(self.name) > NAME_LENGTH:
            raise BadField("name", f"has {len(self.name)} characters, more than {NAME_LENGTH}: write a shorter one")
        if re.search(r"[\x00-\x1f\x7f-\x9f]", self.name):
            raise BadField("name", "has a control character: leave it out")
        if self.period is not None and self.period not in list(Period):
            raise BadField("period", f"is '{visible(self.period[:60])}': write {', '.join(Period)}")
        if self.usd is not None and not 0 <= self.usd <= MOST_USD:
            raise BadField("usd", f"is {self.usd}: write 0 or more; 0 closes what the budget covers")
        check_whole("tokens", self.tokens, 0, MOST_COUNT)
        check_whole("runs", self.runs, 0, MOST_COUNT)
        if self.warn_at is not None and not (math.isfinite(self.warn_at) and 0 < self.warn_at <= 1):
            raise BadField("warn_at", f"is {self.warn_at}: write a share of the limit, above 0 and up to 1")
        if self.usd is None and self.tokens is None and self.runs is None:
            raise BadField("usd", "tokens or runs is missing: a budget limits at least one of them")

    def parameters(self) -> dict[str, object]:
        """Those of client/set_budget.sql."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A budget, and what is spent of it in the current period.

    What it covers (`account`, `queue`, `task_type`, `submitted_by`): None means any. `usd`, `tokens`, `runs`: None means no limit
    of that kind. `since`: the period that is counted begins then; None: no worker has counted it yet. `ends`: the current period
    does, None for a total. `paused_until`: it is spent, and what it covers is not claimed until then. `now`: the database's clock,
    when this was read."""

    name: str
    account: str | None
    queue: str | None
    task_type: str | None
    submitted_by: str | None
    period: str
    timezone: str
    usd: float | None
    tokens: int | None
    runs: int | None
    warn_at: float
    created_by: str
    created_at: datetime
    updated_at: datetime
    since: datetime | None
    spent_usd: float
    spent_tokens: int
    spent_runs: int
    warned: bool
    paused_until: datetime | None
    ends: datetime | None
    now: datetime

    @property
    def state(self) -> str:
        """open, near (warn_at of a limit is used), spent, or new (no worker has counted it yet)."""
        if self.since is None:
            return "new"
        if self.paused_until is not None and self.paused_until > self.now:
            return "spent"
        return "near" if self.warned else "open"

    @property
    def used(self) -> float:
        """The share of the limit that is used most: 1 or more is spent."""
        limits = ((self.spent_usd, self.usd), (self.spent_tokens, self.tokens), (self.spent_runs, self.runs))
        return max((spent / limit if limit else 1.0) for spent, limit in limits if limit is not None)


def read_budget_line(row: Mapping[str, Any]) -> BudgetLine:
    """A row of client/budgets.sql."""
    return BudgetLine(**row)
