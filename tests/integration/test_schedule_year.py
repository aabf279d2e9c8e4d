"""A simulated year of schedules in three time zones, with both changes of the clock in each: every slot gets exactly one task, through
workers that die at any statement, lost answers, several workers at once, and failovers that lose the last firings."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import psycopg
import pytest

from tests.support import schedules
from tests.support.schedules import Hand, add, begin, slots, utc
from tests.support.size import FULL, sized
from tests.support.standby import Standby
from turbo.domain.schedule import timetable
from turbo.worker.scheduler import firing_of

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
CRONS = ("30 2 * * *", "30 45 1 * * *", "15,45 1-3 * * *", "*/30 1-3 * * *", "0 */6 * * *")
CHANGES = (utc(2026, 10, 3), utc(2026, 10, 24), utc(2026, 10, 31), utc(2027, 3, 13), utc(2027, 3, 27), utc(2027, 4, 3))
"""The days before the clocks of these zones change."""

YEAR = [(utc(2026, 7, 1), utc(2027, 7, 1))]
SPANS = YEAR if FULL else [(day, day + timedelta(days=2)) for day in CHANGES]

FAULTS = (
    "none",
    "none",
    "dies after its look",
    "dies in the firing",
    "answer lost",
    "two at once",
    "all at once",
    "failover",
    "held",
)


class Fleet:
    """`workers` schedulers on one database, and what goes wrong with them."""

    def __init__(self, dsn: str, hands: list[Hand], chosen: random.Random) -> None:
        self.dsn, self.hands, self.random = dsn, hands, chosen
        self.standby = Standby(dsn, ("agent_tasks", "agent_actions", "agent_schedules"))
        self.standby.caught_up()
        self.bit: Counter[str] = Counter()

    async def step(self, now: datetime, fault: str) -> None:
        """What is due at `now` is fired, or not, as `fault` says."""
        if fault == "failover":
            self.standby.takes_over()
            self.bit[fault] += 1
        elif self.random.random() < 0.5:
            self.standby.caught_up()
        one = self.random.choice(self.hands)
        match fault:
            case "dies after its look" | "dies in the firing" | "answer lost" | "two at once":
                await self._cut_off(now, fault)
            case "all at once":
                async with asyncio.TaskGroup() as group:
                    for hand in self.hands:
                        group.create_task(hand.at(now))
                self.bit[fault] += 1
            case "held":
                with psycopg.connect(self.dsn) as person:
                    person.execute(
                        "select from agent_schedules where name = %s for update", [self.random.choice(NAMES)]
                    )
                    await one.at(now)
                self.bit[fault] += 1
            case _:
                await one.at(now)

    async def _cut_off(self, now: datetime, fault: str) -> None:
        one, other = self.random.sample(self.hands, 2)
        one.store.now = other.store.now = now.isoformat()
        look = await one.store.look()
        firings = [firing_of(due, look) for due in look.due]
        if not firings:
            return
        if fault == "dies after its look":
            self.bit[fault] += 1
            return
        if fault == "dies in the firing":
            async with one.lane.use() as connection:
                await connection.execute("begin")
            done = await one.store.fire(firings)
            async with one.lane.use() as connection:
                await connection.execute("rollback")
        elif fault == "answer lost":
            done = await one.store.fire(firings)
            assert (await one.store.fire(firings)).moved == 0
        else:
            both = await asyncio.gather(one.store.fire(firings), other.store.fire(firings))
            assert {f.name for f in both[0].fired}.isdisjoint(f.name for f in both[1].fired)
            done = both[0]
        if done.moved:
            self.bit[fault] += 1


NAMES = [f"{zone} {cron}" for zone in ZONES for cron in CRONS]


@pytest.fixture
async def fleet(dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        hands = [await stack.enter_async_context(schedules.scheduling(dsn, f"w-{n}-abc")) for n in range(request.param)]
        yield Fleet(dsn, hands, random.Random(request.param))


@pytest.mark.sized
@pytest.mark.timeout(sized(120, 3600))
@pytest.mark.parametrize("fleet", [2, 10], indirect=True)
async def test_every_slot_of_a_year_has_one_task(dsn: str, db: psycopg.Connection, fleet: Fleet) -> None:
    for zone in ZONES:
        for cron in CRONS:
            add(db, f"{zone} {cron}", cron, timezone=zone, overlap="queue", catch_up="all")
    count = 0
    for first, end in SPANS if FULL or len(fleet.hands) < 10 else SPANS[:2]:
        for name in NAMES:
            begin(db, first, name)
        db.execute("update agent_schedules set last_at = null, rev = rev + 1")
        fleet.standby.caught_up()
        now = first
        while now < end:
            now = min(end, now + timedelta(seconds=fleet.random.randint(600, 60_000)))
            await fleet.step(now, fleet.random.choice(FAULTS))
        await fleet.hands[0].at(end)
        for zone in ZONES:
            for cron in CRONS:
                expected = []
                for slot in timetable(cron, zone).from_here(first):
                    if slot > end:
                        break
                    expected.append(slot)
                found = [slot for slot in slots(db, f"{zone} {cron}") if first < slot <= end]
                assert found == expected, f"{cron} in {zone}"
                count += len(found)
    schedules.once_each(db)
    print(
        f"{len(fleet.hands)} workers: {count} slots of {len(NAMES)} schedules, one task each; faults: {_listed(fleet.bit)}"
    )
    assert len(fleet.bit) >= sized(4, len(set(FAULTS)) - 1), "the faults bit"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {n}" for what, n in counts.most_common())
