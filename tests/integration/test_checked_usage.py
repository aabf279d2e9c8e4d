"""What checked work has used is told once, whichever of its runs ends first: lost leases, kills, and two claims on one host."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checks import checks
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run, StopSignal, UsedSoFar
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.checks.loop import Checks, TakeTurn, Turn
from turbo.executors.checks.state import NAME

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
    assert shop.so_far() == (), "a kill tells only what is not noted"
    state = json.loads(shop.file.read_text())
    shop.file.write_text(json.dumps({**state, "done": None, "feedback": "go on"}))

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
    assert [used.cost_usd for used in shop.so_far()] == [1.0], "killed here, it tells its own turn"
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
    state = json.loads(shop.file.read_text())
    shop.file.write_text(json.dumps({**state, "done": None, "feedback": "go on"}))
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
