"""What checked work has used is told once, whichever of its runs ends first: lost leases, kills, and two claims on one host."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.checks import checks
from tests.support.schemas import fit_of
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run, StopSignal, UsedSoFar
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.checks import state
from turbo.executors.checks.judge import Delivery, Judge, Judgement
from turbo.executors.checks.loop import Checks, TakeTurn, Turn
from turbo.executors.checks.returned import ReturnsChecked
from turbo.executors.checks.schema import SchemaJudge
from turbo.executors.checks.state import NAME
from turbo.host.atomic_file import write_atomically

TASK = Task("t", "x", "make it good", fencing_token=7)


class Shop:
    """Runs of one task on one host, without workers. The check of each claim holds until its `go`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.work.mkdir()
        self.file = path / "logs" / NAME
        self.turns = 0
        self.so_far: UsedSoFar = tuple
        self.judges: tuple[Judge, ...] = ()

    async def turn(self, _turn: Turn) -> Outcome:
        """Costs a dollar."""
        self.turns += 1
        return replace(Outcome.succeeded("done"), session_id="s", usage=(ModelUsage("m", 1000, 10, cost_usd=1.0),))

    def start(
        self, token: int, stop: StopSignal, turn: TakeTurn | None = None, when_safe: Callable[..., None] | None = None
    ) -> "asyncio.Task[Outcome]":
        task = replace(TASK, fencing_token=token, infra_count=token - 7)
        run = Run(task, self.work, self.path / "logs" / f"{token}.log", stop, uses=self._uses)
        if when_safe is not None:
            run.when_safe = when_safe
        return asyncio.create_task(self.checks(token).run(run, self.work, None, turn or self.turn))

    def checks(self, token: int) -> Checks:
        if self.judges:
            return Checks(self.judges, rounds=3)
        return checks(self.path / str(token), f"echo x >> began; while [ ! -e go{token} ]; do sleep 0.05; done")

    def _uses(self, so_far: UsedSoFar) -> None:
        self.so_far = so_far

    async def checking(self, times: int = 1) -> None:
        began = self.work / "began"
        await until_async(lambda: began.exists() and len(began.read_text().split()) >= times)

    def go(self, token: int) -> None:
        (self.work / f"go{token}").touch()

    def token(self) -> int:
        found: int = json.loads(self.file.read_text())["token"]
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def usd(*outcomes: Outcome) -> list[float]:
    return [sum(used.cost_usd or 0 for used in outcome.usage) for outcome in outcomes]


async def test_lost_run_tells_what_the_next_claim_does_not(shop: Shop) -> None:
    stop = StopSignal()
    running = shop.start(7, stop)
    await shop.checking()
    stop.set(StopCause.LOST)
    lost = await running
    shop.go(8)
    following = await shop.start(8, StopSignal())
    assert (lost.kind, following.kind, shop.turns) == (OutcomeKind.CANCELLED, OutcomeKind.SUCCEEDED, 1)
    assert usd(lost, following) == [1.0, 0.0], "a claim on another host would tell nothing of it, either"


@pytest.mark.parametrize("first", [7, 8])
async def test_two_claims_on_one_host_tell_a_turn_once(shop: Shop, first: int) -> None:
    """The later one has begun before the lost run knows; then one of the two ends first."""
    stop = StopSignal()
    losing = shop.start(7, stop)
    await shop.checking()
    following = shop.start(8, StopSignal())
    await shop.checking(2)
    assert shop.token() == 8, "what was used is the later claim's by now"
    if first == 8:
        shop.go(8)
        await following
    stop.set(StopCause.LOST)
    lost = await losing
    shop.go(8)
    assert usd(lost, await following) == [0.0, 1.0]
    assert shop.turns == 1


async def test_turn_that_ends_after_the_next_claim_began(shop: Shop) -> None:
    """An earlier run was killed in its check. Each of the later claims has a turn of its own, and one of them is lost in it."""
    earlier = shop.start(7, StopSignal())
    await shop.checking()
    earlier.cancel()
    await asyncio.wait([earlier])
    found = json.loads(shop.file.read_text())
    shop.file.write_text(json.dumps({**found, "done": None, "feedback": "go on"}))

    stop, hold = StopSignal(), asyncio.Event()

    async def held(turn: Turn) -> Outcome:
        await hold.wait()
        return await shop.turn(turn)

    losing = shop.start(8, stop, held)
    await until_async(lambda: shop.token() == 8)
    following = shop.start(9, StopSignal())
    await shop.checking(2)
    hold.set()
    await shop.checking(3)
    assert shop.token() == 9, "the lost run leaves the later claim's state alone"
    stop.set(StopCause.LOST)
    lost = await losing
    shop.go(9)
    assert usd(lost, await following) == [1.0, 2.0]
    assert shop.turns == 3


async def test_lost_turn_tells_what_a_killed_run_had_noted(shop: Shop) -> None:
    earlier = shop.start(7, StopSignal())
    await shop.checking()
    earlier.cancel()
    await asyncio.wait([earlier])
    found = json.loads(shop.file.read_text())
    shop.file.write_text(json.dumps({**found, "done": None, "feedback": "go on"}))
    stop = StopSignal()

    async def cut_off(turn: Turn) -> Outcome:
        stop.set(StopCause.LOST)
        return replace(await shop.turn(turn), kind=OutcomeKind.CANCELLED)

    lost = await shop.start(8, stop, cut_off)
    shop.go(9)
    assert usd(lost, await shop.start(9, StopSignal())) == [2.0, 1.0]
    assert shop.turns == 3


async def test_late_verdict_leaves_the_later_claims_state(shop: Shop) -> None:
    actions: list[Callable[[], None]] = []
    late = shop.start(7, StopSignal(), when_safe=actions.append)
    await shop.checking()
    later = shop.start(8, StopSignal())
    await shop.checking(2)
    shop.go(7)
    assert (await late).kind is OutcomeKind.SUCCEEDED
    (removes,) = actions
    removes()
    assert shop.token() == 8
    shop.go(8)
    assert (await later).kind is OutcomeKind.SUCCEEDED
    assert not shop.file.exists(), "the control: its own verdict removes it"


async def test_new_workspace_does_not_forget_what_was_used(shop: Shop) -> None:
    """A killed run's worktree is gone, and its agent begins anew."""
    earlier = shop.start(7, StopSignal())
    await shop.checking()
    earlier.cancel()
    await asyncio.wait([earlier])
    shop.go(8)

    class Fresh:
        fresh = True

    task = replace(TASK, fencing_token=8, infra_count=1)
    run = Run(task, shop.work, shop.path / "logs" / "8.log", StopSignal())
    outcome = await shop.checks(8).run(run, shop.work, Fresh(), shop.turn)  # type: ignore[arg-type]
    assert usd(outcome) == [2.0]
    assert shop.turns == 2


# ── a run that is killed while its worker goes on ───────────────────────────────────────────────────────────────────


async def test_run_killed_in_its_check_tells_its_turn(shop: Shop) -> None:
    """The next claim may be on another host, which has no state of it."""
    running = shop.start(7, StopSignal())
    await shop.checking()
    running.cancel()
    await asyncio.wait([running])
    assert [used.cost_usd for used in shop.so_far()] == [1.0]
    shop.go(8)
    following = await shop.start(8, StopSignal())
    assert (usd(following), shop.turns) == ([0.0], 1), "it goes straight to the check all the same"


async def test_lost_run_that_is_killed_leaves_the_rest(shop: Shop) -> None:
    stop = StopSignal()
    losing = shop.start(7, stop)
    await shop.checking()
    told_by_losing = shop.so_far
    following = shop.start(8, StopSignal())
    await shop.checking(2)
    stop.set(StopCause.LOST)
    losing.cancel()
    await asyncio.wait([losing])
    assert told_by_losing() == ()
    shop.go(8)
    assert usd(await following) == [1.0]


@pytest.mark.parametrize("cause", [StopCause.DRAIN, StopCause.CANCEL])
async def test_kill_after_the_end_of_a_check_loses_nothing(shop: Shop, cause: StopCause) -> None:
    """The run has ended, but not the work in its directory: what it returned is not heard."""
    stop = StopSignal()
    running = shop.start(7, stop, when_safe=lambda _: None)
    await shop.checking()
    stop.set(cause)
    assert usd(await running) == [1.0]
    assert [used.cost_usd for used in shop.so_far()] == [1.0]
    shop.go(8)
    assert usd(await shop.start(8, StopSignal())) == [0.0]


async def test_kill_while_the_state_is_written_counts_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slow(path: Path, content: str, *, durable: bool) -> None:
        writing.set()
        go_on.wait()
        write_atomically(path, content, durable=durable)

    monkeypatch.setattr(state, "write_atomically", slow)
    running = shop.start(7, StopSignal())
    await asyncio.to_thread(writing.wait)
    running.cancel()
    await asyncio.wait([running])
    telling = asyncio.create_task(asyncio.to_thread(lambda: shop.so_far()))
    go_on.set()
    assert [used.cost_usd for used in await telling] == [1.0]
    shop.go(8)
    assert usd(await shop.start(8, StopSignal())) == [0.0]


async def test_state_of_a_lost_workspace_is_not_taken_up(shop: Shop) -> None:
    """The worktree of a drained run is gone; the next run begins anew, and is killed in its turn, which has used nothing yet."""
    stop = StopSignal()
    drained = shop.start(7, stop)
    await shop.checking()
    stop.set(StopCause.DRAIN)
    assert (await drained).kind is OutcomeKind.CANCELLED

    class Fresh:
        fresh = True

    began = asyncio.Event()

    async def held(_turn: Turn) -> Outcome:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = replace(TASK, fencing_token=8, infra_count=1)
    run = Run(task, shop.work, shop.path / "logs" / "8.log", StopSignal())
    killed = asyncio.create_task(shop.checks(8).run(run, shop.work, Fresh(), held))  # type: ignore[arg-type]
    await began.wait()
    killed.cancel()
    await asyncio.wait([killed])
    shop.go(9)
    assert (await shop.start(9, StopSignal())).kind is OutcomeKind.SUCCEEDED
    assert shop.turns == 2, "the agent works before its work is checked"


# ── what a judge uses, and a judge that ends the run ────────────────────────────────────────────────────────────────


REVIEWED = ModelUsage("m", 7, cost_usd=0.5, executor="reviewer", account="critic")


@dataclass
class Reviews:
    """A judge that uses a model: it tells so while it works."""

    delivered: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def judge(self, delivery: Delivery) -> Judgement:
        delivery.run.uses(lambda: (REVIEWED,))
        self.delivered.set()
        await self.go_on.wait()
        return Judgement(usage=(REVIEWED,))

    def missing(self) -> str | None:
        return None


@dataclass
class Breaks:
    """A judge whose disk is full, once."""

    full: bool = True

    async def judge(self, _delivery: Delivery) -> Judgement:
        if self.full:
            self.full = False
            raise OSError("no space left")
        return Judgement()

    def missing(self) -> str | None:
        return None


async def test_review_before_a_judge_that_breaks_is_told(shop: Shop) -> None:
    reviews = Reviews()
    reviews.go_on.set()
    shop.judges = (reviews, Breaks())
    broken = shop.start(7, StopSignal())
    with pytest.raises(OSError, match="no space left"):
        await broken
    assert [(used.executor, used.cost_usd) for used in shop.so_far()] == [(None, 1.0), ("reviewer", 0.5)]
    following = await shop.start(8, StopSignal())
    assert [(used.executor, used.cost_usd) for used in following.usage] == [("reviewer", 0.5)]
    assert shop.turns == 1


async def test_killed_review_is_told_by_its_own_run(shop: Shop) -> None:
    reviews = Reviews()
    shop.judges = (reviews,)
    running = shop.start(7, StopSignal())
    await reviews.delivered.wait()
    running.cancel()
    await asyncio.wait([running])
    assert [(used.executor, used.cost_usd) for used in shop.so_far()] == [(None, 1.0), ("reviewer", 0.5)]
    reviews.go_on.set()
    following = await shop.start(8, StopSignal())
    assert [(used.executor, used.cost_usd) for used in following.usage] == [("reviewer", 0.5)]


@pytest.mark.parametrize("killed", [True, False])
async def test_killed_review_where_the_state_cannot_be_kept(shop: Shop, killed: bool) -> None:
    reviews = Reviews()
    shop.judges = (reviews,)
    (shop.path / "logs").write_text("no directory")
    running = shop.start(7, StopSignal())
    await reviews.delivered.wait()
    if killed:
        running.cancel()
        await asyncio.wait([running])
    else:
        reviews.go_on.set()
        assert usd(await running) == [1.5]
    assert [used.cost_usd for used in shop.so_far()] == [1.0, 0.5], "its end counts nothing twice"


async def test_stopped_comparison_keeps_what_a_handler_used(tmp_path: Path) -> None:
    backtracks = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    fit = fit_of(tmp_path, backtracks, cpu_seconds=60)
    used = (ModelUsage("m", 1000, 10, cost_usd=1.0),)

    class Handler:
        name = "handler"
        account: str | None = None
        durable = True

        async def run(self, _run: Run) -> Outcome:
            return replace(Outcome.succeeded({"a": "a" * 60 + "b"}), usage=used)

    told: list[UsedSoFar] = []
    run = Run(TASK, tmp_path, tmp_path / "1.log", StopSignal(), uses=told.append)
    running = asyncio.create_task(ReturnsChecked(Handler(), SchemaJudge(fit, reads_text=False)).run(run))
    await until_async(lambda: bool(list((tmp_path / "journal").glob("*.json"))))
    assert [so_far() for so_far in told] == [used], "killed here, it is told"
    run.stop.set(StopCause.CANCEL)
    outcome = await running
    assert (outcome.kind, outcome.usage) == (OutcomeKind.CANCELLED, used)
