"""Three at a time: six workers, with the real listener and claimer, and more tasks of one key than they can run at once. Polls are an
hour apart, so every start is a wake-up's."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import psycopg
import pytest

from tests.support.limits import places, set_limit
from tests.support.rig import Rig
from tests.support.size import sized
from turbo.domain.task import Task

LIMIT = 3
LONG = 5.0
"""Seconds that fewer may run than could: a lost wake-up would be an hour."""


@dataclass
class Ledger:
    """Who runs, as this process knows it: a run begins when its claim is answered, and ends before its result is sent."""

    tasks: int
    running: int = 0
    runs: int = 0
    overlaps: int = 0
    longest: float = 0.0
    short_since: float | None = None

    def began(self) -> None:
        self.running += 1
        self.runs += 1
        self.overlaps += self.running > LIMIT
        self._judge()

    def ended(self) -> None:
        self.running -= 1
        self._judge()

    def _judge(self) -> None:
        now = time.monotonic()
        if self.short_since is not None:
            self.longest = max(self.longest, now - self.short_since)
        short = self.running < min(LIMIT, self.tasks - self.runs + self.running)
        self.short_since = now if short else None


class CountedRig(Rig):
    ledger: Ledger

    def start(self, task: Task) -> None:
        self.ledger.began()
        super().start(task)

    async def work(self) -> None:
        while True:
            task, _ = await self.claimed(3600)
            await asyncio.sleep(random.uniform(0, 0.002))
            self.ledger.ended()
            await self.finish(task)


async def crowd(dsn: str, tasks: int, seconds: float | None = None) -> Ledger:
    """Until all have run, or for `seconds`."""
    ledger = Ledger(tasks)
    with psycopg.connect(dsn, autocommit=True) as db:
        set_limit(db, "k", LIMIT)
        db.execute(
            "insert into agent_tasks (task_description, concurrency_key) select 'x', 'k' from generate_series(1, %s)",
            [tasks],
        )
    async with AsyncExitStack() as stack:
        workers = []
        for number in range(6):
            rig = CountedRig(dsn, name=f"w{number}", slots_size=1 + number % 3)
            rig.ledger = ledger
            await stack.enter_async_context(rig)
            workers.append(asyncio.create_task(rig.work()))
        end = time.monotonic() + (seconds or 3600)
        while ledger.runs < tasks and time.monotonic() < end:
            await asyncio.sleep(0.05)
            for worker in workers:
                if worker.done():
                    worker.result()
        for worker in workers:
            worker.cancel()
    return ledger


@pytest.mark.quiet
@pytest.mark.sized
@pytest.mark.timeout(900)
@pytest.mark.parametrize("without", ["", "delete from turbo_key_slots"])
async def test_no_more_than_the_limit_and_no_fewer_for_long(dsn, capsys, without):
    """The index alone is enough: without the rows that claims lock, two of them meet on a place, and one claims again."""
    with psycopg.connect(dsn, autocommit=True) as db:
        if without:
            db.execute(without)
    ledger = await crowd(dsn, sized(200, 2000))
    with capsys.disabled():
        print(f"\nthree at a time: {ledger.runs} runs, {ledger.overlaps} beyond, {ledger.longest:.2f} s below at most")
    assert (ledger.runs, ledger.overlaps) == (ledger.tasks, 0)
    assert ledger.longest < LONG


async def test_without_the_index_more_run_than_the_limit(dsn):
    """The control: a claim's look at the places is older than its sibling's commit."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop index agent_tasks_one_running_per_place")
        db.execute("delete from turbo_key_slots")
        ledger = await crowd(dsn, 2000, seconds=10)
        assert ledger.overlaps > 0
        assert len(set(places(db).values())) <= LIMIT
