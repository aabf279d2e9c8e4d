"""Wake-ups: from which queues the claimer claims, and when it polls."""

import asyncio
import time

import pytest

from turbo.db.polls import PollResult
from turbo.worker.wakeups import WakeUps


def made(*queues: str, recheck: bool = True, poll_seconds: float = 3600.0) -> WakeUps:
    return WakeUps(queues or ("default",), poll_seconds=poll_seconds, recheck=recheck)


def result(*runnable: str, next_in: float | None = None, ended_below: int = 0, begun_below: int = 0) -> PollResult:
    return PollResult(0, next_in, runnable, (), ended_below=ended_below, begun_below=begun_below)


async def waits(wakeups: WakeUps, able: bool = True, seconds: float = 0.05) -> bool:
    try:
        await asyncio.wait_for(wakeups.wait(lambda: able), seconds)
    except TimeoutError:
        return True
    return False


async def test_notified_queue_is_claimed_from_once() -> None:
    wakeups = made("a", "b")
    wakeups.wake("a", by_notify=True)
    assert not await waits(wakeups)
    woken = wakeups.take_queues()
    assert (woken.queues, woken.by_notify, woken.called) == (("a",), frozenset({"a"}), frozenset())
    assert wakeups.take_queues().queues == ()
    assert await waits(wakeups)


async def test_foreign_queue_is_ignored() -> None:
    wakeups = made("a")
    wakeups.wake("other", by_notify=True)
    wakeups.call("other", 0)
    wakeups.call("other", 1)
    assert await waits(wakeups, seconds=0.2)


async def test_woken_queue_waits_until_the_claimer_is_able() -> None:
    wakeups = made()
    wakeups.wake_all()
    assert await waits(wakeups, able=False)
    assert not await waits(wakeups)


async def test_freed_slot_of_an_idle_worker_claims_only_for_a_key() -> None:
    wakeups = made()
    wakeups.set_idle(True)
    wakeups.slot_freed(key=False)
    assert wakeups.take_queues().queues == ()
    wakeups.slot_freed(key=True)
    assert wakeups.take_queues().queues == ("default",)
    wakeups.set_idle(False)
    wakeups.slot_freed(key=False)
    assert wakeups.take_queues().queues == ("default",)


async def test_earliest_due_task_sets_the_timer() -> None:
    wakeups = made()
    wakeups.due_in(3600)
    wakeups.due_in(0.02)
    wakeups.due_in(7200)
    began = time.monotonic()
    await asyncio.wait_for(wakeups.wait(lambda: True), 5)
    assert time.monotonic() - began >= 0.02
    due = wakeups.take_due_poll()
    assert due is not None
    assert not due.recheck
    assert not due.standby
    assert wakeups.take_due_poll() is None


async def test_poll_replaces_the_timer() -> None:
    wakeups = made()
    wakeups.due_in(0.0)
    wakeups.polled(result(next_in=3600))
    assert await waits(wakeups)


async def test_standby_counts_only_a_row_seen_twice() -> None:
    wakeups = made()
    wakeups.call("default", 1)
    await asyncio.wait_for(wakeups.wait(lambda: True), 5)
    due = wakeups.take_due_poll()
    assert due is not None
    assert due.standby
    assert wakeups.stood_by(result("default")).runnable == (), "a later row, perhaps"
    await asyncio.wait_for(wakeups.wait(lambda: True), 5)
    assert wakeups.take_due_poll() is not None
    assert wakeups.stood_by(result("default")).runnable == ("default",)
    wakeups.polled(result("default"))
    assert wakeups.take_queues().called == frozenset({"default"})


async def test_standby_that_sees_no_row_stops() -> None:
    wakeups = made()
    wakeups.call("default", 1)
    await asyncio.wait_for(wakeups.wait(lambda: True), 5)
    assert wakeups.take_due_poll() is not None
    wakeups.stood_by(result())
    assert await waits(wakeups, seconds=0.1)


@pytest.mark.parametrize("recheck", [True, False])
async def test_rechecks_go_on_until_the_open_transactions_end(recheck: bool) -> None:
    wakeups = made(recheck=recheck)
    wakeups.went_idle(result(begun_below=100))
    assert wakeups.rechecking is recheck
    if not recheck:
        return
    for _ in range(3):
        await asyncio.wait_for(wakeups.wait(lambda: True), 5)
        due = wakeups.take_due_poll()
        assert due is not None
        assert due.recheck
        wakeups.polled(result(ended_below=99))
        wakeups.rechecked()
    wakeups.polled(result(ended_below=100))
    assert not wakeups.rechecking


async def test_rechecks_end_where_the_fallback_poll_takes_over() -> None:
    wakeups = made(poll_seconds=0.008)
    wakeups.went_idle(result(begun_below=100))
    await asyncio.wait_for(wakeups.wait(lambda: True), 5)
    assert wakeups.take_due_poll() is not None
    wakeups.rechecked()
    assert not wakeups.rechecking


async def test_failed_turn_is_tried_again_whole() -> None:
    wakeups = made("a", "b")
    wakeups.retry()
    assert wakeups.take_due_poll() is not None
    assert set(wakeups.take_queues().queues) == {"a", "b"}
