"""Budgets and the ledger, taken by hand: the present is where the test says, and each statement is one step."""

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import psycopg

from turbo.db.budget_store import BudgetStore
from turbo.db.lane import Lane
from turbo.domain.budget import Payers
from turbo.worker.budget_keeper import BudgetKeeper

Connection = psycopg.Connection[Any]

ROUTES = {"default": "shell", "review": "claude"}
PAYERS = {"claude": Payers(frozenset({"alpha"}))}


def add(db: Connection, name: str = "b", **columns: object) -> None:
    """Insert a budget, as a person does."""
    values = {"name": name} | columns
    db.execute(
        f"insert into agent_budgets ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})",
        list(values.values()),
    )


def use(
    db: Connection, task_id: str, usd: float | None = 1.0, token: int = 1, at: datetime | None = None, **columns: object
) -> None:
    """A run's row in the ledger."""
    values: dict[str, object] = {
        "task_id": task_id,
        "fencing_token": token,
        "executor": "x",
        "attempt": 1,
        "queue": "default",
        "task_type": "default",
        "submitted_by": "ann",
        "cost_usd": usd,
    }
    values |= columns | ({} if at is None else {"at": at})
    db.execute(
        f"insert into agent_usage ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})",
        list(values.values()),
    )


def fold(db: Connection, at: datetime | None = None) -> dict[str, Any]:
    row = db.execute("select public.turbo_fold(%s)", [at]).fetchone()
    assert row is not None
    state: dict[str, Any] = row[0]
    return state


def row(db: Connection, name: str = "b") -> dict[str, Any]:
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("select * from agent_budgets where name = %s", [name]).fetchone()
    assert found is not None
    return found


def spent(db: Connection, name: str = "b") -> tuple[float, int, int]:
    """US dollars, tokens and runs."""
    found = row(db, name)
    return float(found["spent_usd"]), found["spent_tokens"], found["spent_runs"]


def events(db: Connection) -> list[tuple[str, str]]:
    return db.execute("select event, about from agent_events order by event_id").fetchall()


@contextlib.asynccontextmanager
async def keeping(dsn: str) -> AsyncIterator[BudgetKeeper]:
    """A budget keeper that runs."""
    lane = Lane(dsn, "turbo claims w-1-abc")
    lane.prepare_statements(True)
    keeper = BudgetKeeper(BudgetStore(lane), ROUTES, PAYERS)
    try:
        yield keeper
    finally:
        await keeper.stop()
        await lane.close()
