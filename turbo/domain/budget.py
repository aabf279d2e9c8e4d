"""Budgets: what runs may use in a period, of an account, a queue, a task type, or by one who submits."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from turbo.domain.type_filter import EVERYTHING, Routes, TypeFilter, executors_of, served_types


class Period(StrEnum):
    """How often a budget begins anew, on the clocks of its time zone. A week begins on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as a worker sees it. What it covers: None means any.

    `closed`: it is spent. `behind`: some usage that it covers is not added yet. `ends_in`: seconds until its period ends, None for a
    total. `usd_left`: US dollars, None without a limit of that kind. `counts_runs`: it limits the number of runs."""

    name: str
    account: str | None = None
    queue: str | None = None
    task_type: str | None = None
    submitted_by: str | None = None
    closed: bool = False
    behind: bool = False
    ends_in: float | None = None
    usd_left: float | None = None
    counts_runs: bool = False

    @property
    def shut(self) -> bool:
        """Nothing that it covers may be claimed."""
        return self.closed or self.behind

    def covers(self, queue: str, task_type: str, account: str) -> bool:
        """Whoever has submitted it."""
        return self.queue in (None, queue) and self.task_type in (None, task_type) and self.account in (None, account)


@dataclass(frozen=True, slots=True)
class SpentQueue:
    """What budgets keep from being claimed in one queue: by `types`, and of some submitters: `submitters` are the documents that
    tasks/claim.sql reads, none if there are none."""

    types: TypeFilter = EVERYTHING
    submitters: tuple[Mapping[str, object], ...] = ()

    @property
    def nothing(self) -> bool:
        """There is nothing to claim."""
        return self.types.none


NOTHING_SPENT = SpentQueue()


@dataclass(frozen=True, slots=True)
class Payers:
    """The accounts that a run of an executor uses: one of `one_of`, and all of `each_of`."""

    one_of: frozenset[str] = frozenset()
    each_of: frozenset[str] = frozenset()

    def spent(self, accounts: Collection[str]) -> bool:
        """Whether no run can be, with the budgets of these accounts spent. One of several closes nothing: a run takes another one,
        until all of them are spent."""
        return not self.each_of.isdisjoint(accounts) or (bool(self.one_of) and self.one_of <= set(accounts))


NO_PAYERS = Payers()


def spent_queue(queue: str, budgets: Iterable[Budget], routes: Routes, payers: Mapping[str, Payers]) -> SpentQueue:
    """What `budgets` that are shut close of `queue`. `payers`: by executor."""
    types = EVERYTHING
    submitters: list[Mapping[str, object]] = []
    shut = [one for one in budgets if one.shut and one.queue in (None, queue)]
    for budget in shut:
        let_through = _types_outside(budget, routes, shut, payers)
        if budget.submitted_by is None:
            types &= let_through
        elif let_through.restricted:
            restriction = (
                {"types": list(let_through.exclude)}
                if let_through.include is None
                else {"open": list(let_through.include)}
            )
            submitters.append({"by": budget.submitted_by, **restriction})
    return SpentQueue(types, tuple(submitters)) if types.restricted or submitters else NOTHING_SPENT


def _types_outside(budget: Budget, routes: Routes, shut: Iterable[Budget], payers: Mapping[str, Payers]) -> TypeFilter:
    """The task types that a budget does not cover, by its type and its account."""
    closed = {one.account for one in shut if one.account is not None and _as_wide(one, budget)}

    def outside(executor: str) -> bool:
        if budget.account is None:
            return False
        return not payers.get(executor, NO_PAYERS).spent(closed)

    if budget.task_type is not None:
        found = executors_of(routes, budget.task_type)
        return EVERYTHING if any(map(outside, found)) else TypeFilter(exclude=(budget.task_type,))
    return TypeFilter(include=()) if budget.account is None else served_types(routes, outside)


def _as_wide(one: Budget, other: Budget) -> bool:
    """Whether it covers all that the other one covers, of its own account."""
    return one.task_type in (None, other.task_type) and one.submitted_by in (None, other.submitted_by)
