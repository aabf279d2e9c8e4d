"""Budgets with real workers: what is spent too much is what was in flight; what a spent budget covers waits and goes on by itself."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.budgets import PAYERS, ROUTES, add, events, fold, keeping, row, spent, use
from tests.support.configs import config_of
from tests.support.size import sized
from tests.support.waiting import until, until_async
from tests.support.workers import Bench
from turbo.domain.budget import Budget, Payers, spent_queue
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING, TypeFilter
from turbo.worker.worker import Worker

SLOTS = 5
"""Of each of two workers: ten together."""

CENT = (ModelUsage("m", 10, cost_usd=0.01),)


class Paid:
    """An executor whose every run costs a cent."""

    name = "paid"
    account: str | None = "alpha"

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        self.runs: Counter[str] = Counter()
        self.left: list[float | None] = []
        self.flying = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, run: Run) -> Outcome:
        self.runs[run.task.task_id] += 1
        self.left.append(run.usd_left)
        self.flying += 1
        self.most = max(self.most, self.flying)
        await self.gate.wait()
        await asyncio.sleep(0.002)
        self.flying -= 1
        return Outcome(OutcomeKind.SUCCEEDED, "done", usage=CENT)


class Fleet:
    """Workers of one event loop, all with the same executor."""

    def __init__(self, dsn: str, path: Path, *, durable: bool) -> None:
        self.dsn, self.path = dsn, path
        self.executor = Paid(durable=durable)
        self.running: dict[str, tuple[Worker, asyncio.Task[int]]] = {}

    def start(self, name: str) -> None:
        settings = {"name": name, "slots": SLOTS, "state_dir": str(self.path / name), "poll_seconds": 5}
        config = config_of(
            self.path,
            worker=settings,
            executors={"paid": {"kind": "command", "command": ["true"]}},
            routes={"default": "paid"},
        )
        worker = Worker(config, dsn=self.dsn, executors={"paid": self.executor})
        self.running[name] = worker, asyncio.create_task(worker.run())

    async def stop(self, name: str) -> None:
        worker, task = self.running.pop(name)
        worker.stop()
        assert await task == 0


@contextlib.asynccontextmanager
async def fleet(dsn: str, path: Path, *names: str, durable: bool = False) -> AsyncIterator[Fleet]:
    one = Fleet(dsn, path, durable=durable)
    try:
        for name in names:
            one.start(name)
        yield one
    finally:
        one.executor.gate.set()
        for name in list(reversed(one.running)):  # a worker puts back the signals as it found them
            await one.stop(name)


def insert(db: psycopg.Connection[Any], count: int, **columns: object) -> None:
    values = {"task_description": "x", "max_retries": 0} | columns
    db.execute(
        f"insert into agent_tasks ({', '.join(values)}) select {', '.join(['%s'] * len(values))}"
        f" from generate_series(1, {count})",
        list(values.values()),
    )


def counts(db: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(db.execute("select status, count(*) from agent_tasks group by 1").fetchall())


def waits(db: psycopg.Connection[Any]) -> Callable[[], bool]:
    """The budget is spent, and nothing runs any more."""
    return lambda: row(db)["paused_until"] is not None and "running" not in counts(db)


@pytest.mark.sized
@pytest.mark.parametrize("durable", [True, False])
async def test_a_cap_holds_up_to_what_is_in_flight(dsn: str, tmp_path: Path, durable: bool) -> None:
    """Two workers of five slots, and one of them is started again in the middle. Raised, the budget lets the rest go on. A run of an
    agent, which is `durable`, keeps its slot until it is recorded; a light one does not, and so as many again can be in flight."""
    tasks, cap = sized(120, 500), sized(60, 250)
    in_flight = 2 * SLOTS * (1 if durable else 2)
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=cap / 100, account="alpha")
        insert(db, tasks)
        async with fleet(dsn, tmp_path, "a", "b", durable=durable) as one:
            await until_async(lambda: one.executor.runs.total() >= cap // 2)
            await one.stop("b")
            one.start("b2")
            await until_async(waits(db))
            assert one.executor.most <= 2 * SLOTS
            assert cap <= one.executor.runs.total() <= cap + in_flight - 1
            await until_async(lambda: spent(db)[0] == pytest.approx(one.executor.runs.total() / 100))
            left = db.execute("select count(*), sum(retry_count) from agent_tasks where status = 'pending'").fetchone()
            assert left == (tasks - one.executor.runs.total(), 0), "no attempt is burnt"
            assert [event for event, _ in events(db)] == ["budget_warned", "budget_spent"]
            db.execute("update agent_budgets set usd = 1000")
            await until_async(lambda: counts(db) == {"completed": tasks})
            assert max(one.executor.runs.values()) == 1


async def test_without_the_ledger_the_cap_does_not_hold(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "create function public.lost() returns trigger language plpgsql as 'begin return null; end';"
            "create trigger lost before insert on agent_usage for each row execute function public.lost()"
        )
        add(db, usd=0.2)
        insert(db, 60)
        async with fleet(dsn, tmp_path, "a", "b"):
            await until_async(lambda: counts(db) == {"completed": 60})
        assert row(db)["paused_until"] is None


async def test_a_held_row_stops_claims_that_it_covers(dsn: str, tmp_path: Path) -> None:
    """And no result. The rest goes on."""
    with psycopg.connect(dsn, autocommit=True) as db, psycopg.connect(dsn) as person:
        add(db, runs=1, task_type="capped", period="total")
        async with fleet(dsn, tmp_path, "a") as one:
            await until_async(lambda: row(db)["since"] is not None)
            person.execute("select from agent_budgets for update")
            one.executor.gate.clear()
            insert(db, 20, task_type="capped")
            await until_async(lambda: one.executor.flying == SLOTS)
            insert(db, 10, task_type="free", task_priority=1)
            one.executor.gate.set()
            await until_async(lambda: counts(db) == {"completed": SLOTS + 10, "pending": 20 - SLOTS})
            assert row(db)["spent_runs"] == 0
            person.rollback()
            await until_async(lambda: row(db)["spent_runs"] == SLOTS)
            assert counts(db)["pending"] == 20 - SLOTS, "it is spent"
            db.execute("delete from agent_budgets")
            await until_async(lambda: counts(db) == {"completed": 30})


async def test_a_new_worker_keeps_to_budgets_it_cannot_add_to(dsn: str, tmp_path: Path) -> None:
    """Somebody keeps all folds out. It knows the budgets from its poll."""
    with psycopg.connect(dsn, autocommit=True) as db, psycopg.connect(dsn) as person:
        add(db, runs=5, task_type="capped")
        fold(db)
        person.execute("lock table agent_budgets in share update exclusive mode")
        insert(db, 3, task_type="capped", task_priority=9)
        insert(db, 3)
        async with fleet(dsn, tmp_path, "a"):
            await until_async(lambda: counts(db) == {"completed": 3, "pending": 3})
            person.rollback()
            await until_async(lambda: counts(db) == {"completed": 6})


async def test_a_run_gets_what_is_left(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, "all", usd=5)
        add(db, "eve", usd=0.5, submitted_by="eve")
        add(db, "me", usd=2, submitted_by=db.info.user)
        add(db, "elsewhere", usd=0.1, queue="other")
        async with fleet(dsn, tmp_path, "a") as one:
            await until_async(lambda: row(db, "me")["since"] is not None)
            for number in range(2):
                insert(db, 1)
                await until_async(lambda n=number: counts(db) == {"completed": n + 1})  # type: ignore[misc]
            assert one.executor.left == [2.0, pytest.approx(1.99)]


async def test_by_submitter_only_their_tasks_wait(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, "eve", runs=0, submitted_by="eve")
        add(db, "bob", runs=0, submitted_by="bob", task_type="review")
        for who in ("eve", "bob", "ann"):
            for task_type in ("review", "other"):
                insert(db, 1, submitted_by=who, task_type=task_type)
        async with fleet(dsn, tmp_path, "a"):
            await until_async(lambda: counts(db) == {"completed": 3, "pending": 3})
            assert db.execute(
                "select submitted_by, task_type from agent_tasks where status = 'pending' order by 1, 2"
            ).fetchall() == [("bob", "review"), ("eve", "other"), ("eve", "review")]
            db.execute("update agent_budgets set runs = 9")
            await until_async(lambda: counts(db) == {"completed": 6})


def test_a_budget_of_runs_holds_for_programs(dsn: str, bench: Bench) -> None:
    """They use nothing, so only such a budget brings them into the ledger."""
    bench.start(poll_seconds=600).listening()
    with psycopg.connect(dsn, autocommit=True) as db:
        for number in range(3):
            bench.insert(f"before{number}")
        until(lambda: counts(db) == {"completed": 3})
        assert db.execute("select count(*) from agent_usage").fetchone() == (0,)
        add(db, runs=4)
        until(lambda: row(db)["since"] is not None)
        insert(db, 12)
        until(waits(db))
        assert 4 <= counts(db)["completed"] - 3 <= 5
        until(lambda: spent(db)[2] == counts(db)["completed"] - 3)
        db.execute("update agent_budgets set runs = 100")
        until(lambda: counts(db) == {"completed": 15})


async def test_the_end_of_a_period_comes_by_timer(dsn: str) -> None:
    """At midnight in Berlin, on the day that has 25 hours; no poll and no notification."""
    midnight = datetime(2026, 10, 25, 23, tzinfo=UTC)
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, usd=1, timezone="Europe/Berlin")
        use(db, "t1", 2, at=midnight.replace(hour=0))
        async with keeping(dsn) as keeper:
            store = keeper._store
            store.now = (midnight.replace(hour=22, minute=59, second=59)).isoformat()
            with keeper.folded.watch() as folds:
                keeper.start(lambda name, error: None)
                assert [one.closed for one in (await asyncio.wait_for(folds.get(), 20)).budgets] == [True]
                assert keeper.spent("default").nothing
                store.now = midnight.isoformat()
                assert [one.closed for one in (await asyncio.wait_for(folds.get(), 20)).budgets] == [False]
                assert not keeper.spent("default").nothing


async def test_what_a_run_has_spent_is_taken_off_its_budgets_alone(dsn: str) -> None:
    """A review is paid by another account than the agent's turn before it."""
    task = Task("t1", "default", "x", queue="default")
    used = [("alpha", 5.0), ("critic", 0.25)]
    with psycopg.connect(dsn, autocommit=True) as db:
        add(db, "reviews", usd=1, account="critic")
        async with keeping(dsn) as keeper:
            await keeper.once()
            assert await keeper.usd_left(task, "critic", used) == 0.75
            assert await keeper.usd_left(task, "alpha", used) is None
            add(db, "all", usd=6)
            await keeper.once()
            assert await keeper.usd_left(task, "critic", used) == 0.75
            assert await keeper.usd_left(task, "alpha", used) == 0.75, "of the budget for all"
            db.execute("update agent_budgets set usd = 5 where name = 'all'")
            await keeper.once()
            assert await keeper.usd_left(task, "critic", used) == -0.25


async def test_an_account_is_shut_while_nothing_can_be_added(dsn: str) -> None:
    """A pool goes on with its other accounts then: those that no budget is for."""
    task = Task("t1", "default", "x", queue="default")
    with psycopg.connect(dsn, autocommit=True) as db, psycopg.connect(dsn) as other:
        add(db, usd=10, account="alpha")
        async with keeping(dsn) as keeper:
            with keeper.folded.watch() as folds:
                keeper.start(lambda name, error: None)
                await asyncio.wait_for(folds.get(), 20)
                assert await keeper.spent_accounts(task) == set()
                other.execute("lock table agent_budgets in exclusive mode")
                keeper.used()
                await asyncio.wait_for(keeper.up_to_date(), 20)
                assert await keeper.spent_accounts(task) == {"alpha"}
                other.rollback()
                await asyncio.wait_for(folds.get(), 20)
                assert await keeper.spent_accounts(task) == set()


def test_what_a_budget_closes_by_its_scope() -> None:
    def closed(of: str = "default", **scope: Any) -> tuple[TypeFilter, list[dict[str, object]]]:
        found = spent_queue(
            of,
            [Budget("b", closed=True, **scope)],
            ROUTES,
            PAYERS,
        )
        return found.types, [dict(one) for one in found.submitters]

    assert closed() == (TypeFilter(include=()), [])
    assert closed("a", queue="b") == (EVERYTHING, [])
    assert closed("a", queue="a") == (TypeFilter(include=()), [])
    assert closed(account="alpha") == (TypeFilter(exclude=("review",)), [])
    assert closed(account="nobody") == (EVERYTHING, [])
    assert closed(task_type="x") == (TypeFilter(exclude=("x",)), [])
    assert closed(task_type="x", account="alpha") == (EVERYTHING, [])
    assert closed(task_type="review", account="alpha") == (TypeFilter(exclude=("review",)), [])
    assert closed(submitted_by="eve") == (EVERYTHING, [{"by": "eve", "open": []}])
    assert closed(submitted_by="eve", account="alpha") == (EVERYTHING, [{"by": "eve", "types": ["review"]}])
    assert spent_queue("a", [replace(Budget("b"), behind=True)], ROUTES, {}).nothing
    assert spent_queue("a", [Budget("b")], ROUTES, {}).types == EVERYTHING


def test_pool_is_closed_once_all_its_accounts_are_spent() -> None:
    payers = {"claude": Payers(one_of=frozenset({"alpha", "beta"}), each_of=frozenset({"reviews"}))}

    def closed(*budgets: Budget) -> TypeFilter:
        return spent_queue("default", [replace(one, closed=True) for one in budgets], ROUTES, payers).types

    alpha, beta = Budget("a", account="alpha"), Budget("b", account="beta")
    assert closed(alpha) == closed(beta) == EVERYTHING
    assert closed(alpha, beta) == closed(Budget("c", account="reviews")) == TypeFilter(exclude=("review",))
    assert closed(alpha, replace(beta, queue="another")) == EVERYTHING
    assert closed(alpha, replace(beta, task_type="review")) == TypeFilter(exclude=("review",))
    assert closed(alpha, replace(beta, submitted_by="eve")) == EVERYTHING
