"""What a run's word is worth to its account, step by step: the real Accounts, Queue and database, and an executor of the
test's own in the place of a second agent CLI (docs/executors.md), which can be probed or not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import psycopg
import pytest

from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo.accounts.breaker import AccountTimings
from turbo.accounts.manager import AccountManager, accounts_of
from turbo.db.lane import Lane
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind, Probe
from turbo.domain.run import Run, Running
from turbo.domain.states import PauseReason, StopCause
from turbo.domain.task import Task
from turbo.domain.type_filter import TypeFilter
from turbo.executors.protocol import Executor
from turbo.observability.metrics import Metrics

REFUSED = Outcome(OutcomeKind.AUTH_FAILED, error="401")
LIMITED = Outcome(OutcomeKind.USAGE_LIMITED, error="limit")
AWAY = Outcome.unavailable("529 Overloaded")
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
class GitAgent(Agent):
    """One without an account, whose repository is away or not, as the test says."""

    repository: Outcome = field(default_factory=Outcome.succeeded)

    def dependencies(self) -> dict[str, Probe]:
        return {"repository /r": self.examine}

    async def examine(self) -> Outcome:
        return self.repository


@dataclass
class Side:
    """One worker's accounts."""

    accounts: AccountManager
    stores: Stores
    lane: Lane
    metrics: Metrics
    told: list[TypeFilter]

    async def says(self, outcome: Outcome, executor: str = "agent", infra_count: int = 0) -> Outcome:
        task = Task(task_id="t", task_type="default", task_description="x", infra_count=infra_count)
        run = Running(task, executor, None)
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
            {"default": executors[0].name, "noop": "noop"} | {e.name: e.name for e in executors[1:]},
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
CAUSE = "select state, reason, unavailable, trips from agent_accounts"


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
        await until_async(
            lambda: side.accounts.types() == TypeFilter(), 10
        )  # half open, and nobody to ask: the next task is the probe
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


# ── what is away ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("probed", [AWAY, Outcome(OutcomeKind.TIMED_OUT, error="no answer")])
async def test_service_away_pauses_for_a_short_backoff(sides: Sides, probed: Outcome) -> None:
    agent = ProbedAgent()
    side = sides.make(agent, outage_first=0.2, outage_last=0.3, backoff_first=3600.0)
    agent.words.put_nowait(probed)
    assert await side.says(AWAY) == AWAY, "no attempt is counted"
    assert sides.sql(CAUSE) == [("paused", None, True, 1)]
    assert (await side.stores.accounts.rows("max"))[0].reason is PauseReason.UNAVAILABLE
    assert side.accounts.types() == TypeFilter(include=("noop",))
    for _ in range(3):
        agent.words.put_nowait(AWAY)
    agent.words.put_nowait(Outcome.succeeded())
    await until_async(lambda: side.accounts.types() == TypeFilter(), 10)
    assert sides.sql(CAUSE) == [("open", None, False, 0)]


async def test_outage_that_no_probe_confirms_is_free_three_times(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent)
    for infra_count in (0, 1, 2, 3):
        agent.words.put_nowait(Outcome.succeeded())
        outcome = await side.says(AWAY, infra_count=infra_count)
        counted = infra_count == 3
        assert outcome.kind is (OutcomeKind.FAILED if counted else OutcomeKind.INFRASTRUCTURE)
        assert outcome.failure_kind is FailureKind.UNAVAILABLE
    assert (await sides.make(Agent(account=None)).says(AWAY)).kind is OutcomeKind.INFRASTRUCTURE


async def test_task_that_rests_suspects_only_the_account_it_names(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent, backoff_first=3600.0)
    rests = replace(AWAY, uncounted=True, rest_seconds=10.0)
    assert await side.says(rests) == rests
    assert agent.asked.empty(), "a check of this executor says nothing of its login"
    named = replace(rests, account="max")
    agent.words.put_nowait(Outcome.succeeded())
    assert await side.says(named) == named, "the login is good: it rests"
    assert await side.says(named) == named, "and it need not be asked again so soon"
    await side.stores.accounts.suspect("max", why="x", unavailable=False, fresh=0.0, last=1.0)
    agent.words.put_nowait(REFUSED)
    outcome = await side.says(named)
    assert (outcome.kind, outcome.uncounted, outcome.rest_seconds) == (OutcomeKind.UNAVAILABLE, False, None)
    assert sides.sql(CAUSE) == [("paused", "auth", False, 1)], "the pause decides when it goes on"


async def test_probe_tells_a_dead_login_from_a_service_away(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent, backoff_first=3600.0)
    agent.words.put_nowait(REFUSED)
    assert (await side.says(AWAY)).kind is OutcomeKind.UNAVAILABLE
    assert sides.sql(CAUSE) == [("paused", "auth", False, 1)]
    sides.sql("delete from agent_accounts")
    await side.sweep()
    agent.words.put_nowait(AWAY)
    assert (await side.says(REFUSED)).kind is OutcomeKind.AUTH_FAILED
    assert sides.sql(CAUSE) == [("paused", None, True, 1)], "nobody is told to log in"


async def test_known_cause_outlasts_a_probe_without_an_answer(sides: Sides) -> None:
    agent = ProbedAgent()
    side = sides.make(agent, outage_first=0.05, outage_last=0.05)
    sides.sql(
        "insert into agent_accounts (account, host, state, reason, until) values"
        " ('max', 'alpha', 'paused', 'auth', now()), ('max', '*', 'paused', 'usage_limit', now())"
    )
    await side.sweep()
    agent.words.put_nowait(AWAY)
    await agent.asked.get()
    agent.words.put_nowait(Outcome.succeeded())
    await agent.asked.get()
    agent.words.put_nowait(AWAY)
    await agent.asked.get()
    await agent.asked.get()
    query = "select host, reason, unavailable from agent_accounts where state <> 'open'"
    assert sides.sql(query) == [("*", "usage_limit", False)], (
        "the login is good, and the limit not yet known to be over"
    )
    agent.words.put_nowait(Outcome.succeeded())


async def test_unprobeable_account_whose_service_is_away_backs_off(sides: Sides) -> None:
    side = sides.make(Agent(), outage_first=0.1, outage_last=0.1)
    assert await side.says(AWAY) == AWAY
    assert sides.sql(CAUSE) == [("paused", None, True, 1)]
    await until_async(lambda: side.accounts.types() == TypeFilter(), 10)  # the next task is the probe


async def test_repository_away_closes_only_who_needs_it(sides: Sides) -> None:
    agent, git = ProbedAgent(), GitAgent("git", None)
    side = sides.make(agent, git, outage_first=3600.0, outage_last=3600.0)
    assert side.accounts.names == ("max", "repository /r")
    git.repository = AWAY
    outcome = await side.says(Outcome.unavailable("gone", "repository /r"), "git")
    assert outcome.kind is OutcomeKind.UNAVAILABLE
    assert side.accounts.types() == TypeFilter(exclude=("git",))
    assert sides.sql("select account, host, unavailable from agent_accounts") == [("repository /r", "alpha", True)]
    assert agent.asked.empty(), "no login is suspected"
    git.repository = Outcome.succeeded()
    sides.sql("update agent_accounts set until = now()")
    await side.sweep()
    await until_async(lambda: side.accounts.types() == TypeFilter(), 10)


async def _suspected(side: Side) -> None:
    """The run that was refused last waits for its verdict: its write, its read and its look at who probes are done."""
    for _ in range(3):
        async with side.lane.use():
            pass
        await asyncio.sleep(0)
