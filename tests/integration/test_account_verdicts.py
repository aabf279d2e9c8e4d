"""What a run's word is worth to its account, step by step: the real Accounts, Queue and database, and an executor of the
test's own in the place of a second agent CLI (docs/executors.md), which can be probed or not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.support.stores import Stores
from turbo.accounts.breaker import AccountTimings
from turbo.accounts.manager import AccountManager, accounts_of
from turbo.db.lane import Lane
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.run import Run, Running
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.type_filter import TypeFilter
from turbo.executors.protocol import Executor
from turbo.observability.metrics import Metrics

REFUSED = Outcome(OutcomeKind.AUTH_FAILED, error="401")
LIMITED = Outcome(OutcomeKind.USAGE_LIMITED, error="limit")
BROKEN = Outcome.infrastructure("no such program")


@dataclass
class Agent:
    """An executor that cannot be probed."""

    name: str = "agent"
    account: str | None = "max"
    durable: bool = True

    async def run(self, run: Run) -> Outcome:
        raise NotImplementedError


@dataclass
class ProbedAgent(Agent):
    """One whose probes wait for the test."""

    words: "asyncio.Queue[Outcome]" = field(default_factory=asyncio.Queue)
    asked: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)

    async def probe(self) -> Outcome:
        self.asked.put_nowait(None)
        return await self.words.get()


@dataclass
class Side:
    """One worker's accounts."""

    accounts: AccountManager
    stores: Stores
    lane: Lane
    metrics: Metrics
    told: list[TypeFilter]

    async def says(self, outcome: Outcome, executor: str = "agent") -> Outcome:
        run = Running(Task(task_id="t", task_type="default", task_description="x"), executor, None)
        return await self.accounts.review(run, outcome)

    async def sweep(self) -> None:
        result = await self.stores.claims.poll(["default"])
        self.accounts.polled(result.accounts, result.asked_at)


class Sides:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.made: list[Side] = []

    def make(self, *executors: Executor, host: str = "alpha", **timings: float) -> Side:
        lane, metrics, told = Lane(self.dsn, "test"), Metrics(), list[TypeFilter]()
        by_name = {e.name: e for e in executors}
        stores = Stores(f"w-{len(self.made)}-abcdef", lane, lane, host=host, accounts=accounts_of(by_name))
        accounts = AccountManager(
            stores.accounts,
            host,
            by_name,
            {"default": executors[0].name, "noop": "noop"},
            metrics,
            told.append,
            shared={"max"},
            timings=AccountTimings(**{"resume_spread": 0.0, **timings}),
        )
        accounts.start(lambda name, error: None)
        side = Side(accounts, stores, lane, metrics, told)
        self.made.append(side)
        return side

    def sql(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as db:
            cursor = db.execute(query)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
async def sides(dsn: str) -> AsyncIterator[Sides]:
    some = Sides(dsn)
    yield some
    for side in some.made:
        await side.accounts.stop()
        await side.lane.close()


STATE = "select state, reason, trips from agent_accounts"


async def test_refusal_without_account_and_probe_fails_the_task(sides: Sides) -> None:
    side = sides.make(Agent(account=None))
    assert side.accounts.names == ()
    outcome = await side.says(REFUSED)
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.AUTH)
    outcome = await side.says(LIMITED)
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.USAGE_LIMIT)
    assert await side.says(BROKEN) == BROKEN
    assert sides.sql(STATE) == []


async def test_executor_name_is_the_account_when_none_is_given(sides: Sides) -> None:
    agent = ProbedAgent(account=None)
    side = sides.make(agent)
    agent.words.put_nowait(REFUSED)
    assert (await side.says(REFUSED)).kind is OutcomeKind.AUTH_FAILED
    assert sides.sql("select account, host, state from agent_accounts") == [("agent", "alpha", "paused")]
    assert side.accounts.types() == TypeFilter(include=("noop",))
    await side.sweep()
    assert side.accounts.types() == TypeFilter(include=("noop",))


async def test_unprobeable_account_backs_off_and_is_tested_by_a_task(sides: Sides) -> None:
    side = sides.make(Agent(), backoff_first=0.2, backoff_last=60.0)
    for trips in (1, 2, 3):
        outcome = await side.says(REFUSED)
        assert outcome.kind is OutcomeKind.AUTH_FAILED, "no try is counted"
        assert sides.sql(STATE) == [("paused", "auth", trips)]
        (row,) = await side.stores.accounts.rows("max")
        assert row.seconds is not None
        assert 0.1 * 2**trips * 0.8 - 0.1 < row.seconds <= 0.1 * 2**trips
        async with asyncio.timeout(10):  # half open, and nobody to ask: the next task is the probe
            while side.accounts.types() != TypeFilter():
                await asyncio.sleep(0.01)
        assert sides.sql(STATE) == [("open", None, trips)]
    assert await side.says(BROKEN) == BROKEN, "a program that does not start blames no login"


async def test_failures_during_a_probe_wait_for_a_newer_probe(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent)
    first = asyncio.create_task(side.says(REFUSED))
    await agent.asked.get()
    assert side.accounts.types().include == ("noop",), "closed from before anything was given back"
    second = asyncio.create_task(side.says(REFUSED))
    await _suspected(side)
    agent.words.put_nowait(Outcome.succeeded())
    assert (await first).kind is OutcomeKind.FAILED
    await agent.asked.get()  # the login may have died between that probe's beginning and the second refusal
    agent.words.put_nowait(REFUSED)
    assert (await second).kind is OutcomeKind.AUTH_FAILED
    assert sides.sql(STATE) == [("paused", "auth", 1)]


async def test_two_workers_of_a_host_share_one_probe(sides: Sides) -> None:
    agents = [ProbedAgent(), ProbedAgent()]
    left, right = (sides.make(agent) for agent in agents)
    first = asyncio.create_task(left.says(REFUSED))
    await agents[0].asked.get()
    second = asyncio.create_task(right.says(REFUSED))
    await _suspected(right)
    agents[0].words.put_nowait(REFUSED)
    assert [(await first).kind, (await second).kind] == [OutcomeKind.AUTH_FAILED] * 2
    assert agents[1].asked.empty()
    assert right.accounts.types() == TypeFilter(include=("noop",))


async def test_unanswered_probe_uses_no_attempt_and_pauses(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent)
    agent.words.put_nowait(Outcome.failed("529 Overloaded"))
    assert (await side.says(REFUSED)).kind is OutcomeKind.AUTH_FAILED
    assert sides.sql("select state, reason, why from agent_accounts") == [("paused", "auth", "529 Overloaded")]


async def test_broken_host_is_not_counted_but_a_sound_one_is(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent)
    agent.words.put_nowait(Outcome.succeeded())
    assert await side.says(BROKEN) == BROKEN
    assert await side.says(BROKEN) == BROKEN, "no second probe within a minute"
    assert agent.asked.qsize() == 1
    sides.sql("update agent_accounts set good_since = now() - interval '2 minutes'")
    agent.words.put_nowait(BROKEN)
    outcome = await side.says(BROKEN)
    assert (outcome.kind, outcome.uncounted) == (OutcomeKind.INFRASTRUCTURE, True)
    assert sides.sql(STATE) == [("paused", "auth", 1)]


async def test_probe_that_outlives_its_lease_changes_nothing(sides: Sides) -> None:
    agents = [ProbedAgent(), ProbedAgent()]
    slow, quick = (sides.make(agent, probe_lease=0.2) for agent in agents)
    first = asyncio.create_task(slow.says(REFUSED))
    await agents[0].asked.get()
    second = asyncio.create_task(quick.says(REFUSED))
    await agents[1].asked.get()  # the lease is over, so the other one probes
    agents[1].words.put_nowait(REFUSED)
    assert (await second).kind is OutcomeKind.AUTH_FAILED
    agents[0].words.put_nowait(Outcome.succeeded())
    assert (await first).kind is OutcomeKind.AUTH_FAILED
    assert sides.sql(STATE) == [("paused", "auth", 1)]


async def test_drain_does_not_wait_for_a_probe(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent)
    run = Running(Task(task_id="t", task_type="default", task_description="x"), "agent", None)
    verdict = asyncio.create_task(side.accounts.review(run, REFUSED))
    await agent.asked.get()
    run.stop.set(StopCause.DRAIN)
    assert await asyncio.wait_for(verdict, 5) == REFUSED, "it goes back as it is"
    assert not side.accounts.types().exclude
    assert side.accounts.types().include == ("noop",)


async def test_late_verdict_uses_no_attempt(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent, verdict=0.3)
    assert (await side.says(REFUSED)).kind is OutcomeKind.AUTH_FAILED
    assert side.accounts.types().include == ("noop",)
    assert sides.sql("select state from agent_accounts") == [("suspect",)]


async def _suspected(side: Side) -> None:
    """The run that was refused last waits for its verdict: its write, its read and its look at who probes are done."""
    for _ in range(3):
        async with side.lane.use():
            pass
        await asyncio.sleep(0)
