"""`Client.budgets` and `AsyncClient.budgets`: what runs may use. Both drive the same operations."""

from functools import partial

from turbo.client.budget import (
    BudgetLine,
    BudgetRefused,
    MayNotBudget,
    NewBudget,
    UnknownBudget,
    read_budget_line,
)
from turbo.client.named_tables import AsyncDoes, Does, read, written
from turbo.client.operations import Query, QueryResult, Steps, like
from turbo.client.schedule import UnknownSchedule, known_name


def _set(budget: NewBudget) -> Steps[BudgetLine]:
    yield from _written(Query("client/set_budget", budget.parameters()))
    return (yield from _get(budget.name))


def _get(name: str) -> Steps[BudgetLine]:
    rows = (yield from _read("client/budgets", names=[_known(name)], limit=1)).rows
    if not rows:
        raise UnknownBudget(name)
    return read_budget_line(rows[0])


def _listed(limit: int | None) -> Steps[list[BudgetLine]]:
    return [read_budget_line(row) for row in (yield from _read("client/budgets", names=None, limit=limit)).rows]


def _names(prefix: str, limit: int) -> Steps[list[str]]:
    return [row["name"] for row in (yield from _read("client/budget_names", pattern=like(prefix), limit=limit)).rows]


def _remove(name: str) -> Steps[None]:
    if not (yield from _written(Query("client/remove_budget", {"name": _known(name)}))).count:
        raise UnknownBudget(name)


def _known(name: str) -> str:
    try:
        return known_name(name)
    except UnknownSchedule:
        raise UnknownBudget(name) from None


def _read(statement: str, **parameters: object) -> Steps[QueryResult]:
    return (yield from read(Query(statement, parameters), partial(MayNotBudget, reading=True)))


def _written(query: Query) -> Steps[QueryResult]:
    return (yield from written(query, partial(MayNotBudget, reading=False), BudgetRefused))


class Budgets:
    """The budgets of a database. Raises UnknownBudget for a name that none has, MayNotBudget for a role that may not."""

    def __init__(self, run: Does) -> None:
        self._run = run

    def set(
        self,
        name: str,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        runs: int | None = None,
        period: str | None = None,
        account: str | None = None,
        queue: str | None = None,
        task_type: str | None = None,
        submitted_by: str | None = None,
        timezone: str | None = None,
        warn_at: float | None = None,
    ) -> BudgetLine:
        """Write a budget: insert it, or change the one of this name to just this. It counts its period anew then.

        In each `period` (hour, day, week, month or total; day by default) on the clocks of `timezone` (UTC), runs of this `account`, in
        this `queue`, of this `task_type`, by this `submitted_by` (None: any) may use so many US dollars, `tokens` (input, output and
        cache writes) or `runs`; 0 closes what it covers. `warn_at`: the share from which on it is nearly spent (0.8).

        Raises BadField, BudgetRefused (the text says why).
        """
        budget = NewBudget(
            name,
            usd=usd,
            tokens=tokens,
            runs=runs,
            period=period,
            account=account,
            queue=queue,
            task_type=task_type,
            submitted_by=submitted_by,
            timezone=timezone,
            warn_at=warn_at,
        )
        return self.write(budget)

    def write(self, budget: NewBudget) -> BudgetLine:
        """Write a budget that was checked before; else as `set`."""
        return self._run(_set(budget))

    def get(self, name: str) -> BudgetLine:
        """One budget, and what is spent of it."""
        return self._run(_get(name))

    def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Names with this prefix, for shell completion: only those that mean nothing to a shell."""
        return self._run(_names(prefix, limit))

    def remove(self, name: str) -> None:
        """Delete it. What it closed is open at once."""
        self._run(_remove(name))

    def list(self, limit: int | None = None) -> list[BudgetLine]:
        """The budgets by name, each with what is spent of it."""
        return self._run(_listed(limit))


class AsyncBudgets:
    """`Budgets` with `await`: the same methods, arguments and exceptions (a test compares them)."""

    def __init__(self, run: AsyncDoes) -> None:
        self._run = run

    async def set(
        self,
        name: str,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        runs: int | None = None,
        period: str | None = None,
        account: str | None = None,
        queue: str | None = None,
        task_type: str | None = None,
        submitted_by: str | None = None,
        timezone: str | None = None,
        warn_at: float | None = None,
    ) -> BudgetLine:
        """See Budgets.set."""
        budget = NewBudget(
            name,
            usd=usd,
            tokens=tokens,
            runs=runs,
            period=period,
            account=account,
            queue=queue,
            task_type=task_type,
            submitted_by=submitted_by,
            timezone=timezone,
            warn_at=warn_at,
        )
        return await self.write(budget)

    async def write(self, budget: NewBudget) -> BudgetLine:
        """See Budgets.write."""
        return await self._run(_set(budget))

    async def get(self, name: str) -> BudgetLine:
        """See Budgets.get."""
        return await self._run(_get(name))

    async def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """See Budgets.names."""
        return await self._run(_names(prefix, limit))

    async def remove(self, name: str) -> None:
        """See Budgets.remove."""
        await self._run(_remove(name))

    async def list(self, limit: int | None = None) -> list[BudgetLine]:
        """See Budgets.list."""
        return await self._run(_listed(limit))
