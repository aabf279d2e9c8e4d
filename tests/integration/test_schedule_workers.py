"""Schedules with real workers: slots by the clock, silence between them, death of whoever fires, and what a failure does."""

import psycopg

from tests.support import schedules
from tests.support.waiting import until
from tests.support.workers import Bench


def test_two_workers_fire_each_second_once(db: psycopg.Connection, bench: Bench) -> None:
    """And go on when the one that fired last is killed."""
    a, b = bench.start(name="a").listening(), bench.start(name="b").listening()
    schedules.add(db, "tick", "* * * * * *", task_type="noop", overlap="queue", catch_up="all")
    until(lambda: len(schedules.slots(db, "tick")) >= 3, 40)
    (actor,) = db.execute(
        "select actor from agent_actions where action_type = 'fired' order by action_id desc limit 1"
    ).fetchone() or ("",)
    first, other = (a, b) if actor == a.worker_id else (b, a)
    first.kill()
    seen = len(schedules.slots(db, "tick"))
    until(lambda: len(schedules.slots(db, "tick")) >= seen + 3, 40)
    found = schedules.slots(db, "tick")
    assert [int(slot.timestamp()) for slot in found] == list(
        range(int(found[0].timestamp()), int(found[0].timestamp()) + len(found))
    ), "no second is left out"
    schedules.once_each(db)
    assert other.metric(db.info.dsn, "turbo_schedule_slots_total", result="fired") >= 2


def test_schedule_written_while_workers_wait_is_computed(db: psycopg.Connection, bench: Bench) -> None:
    """The error too, without a poll."""
    bench.start(poll_seconds=600).listening()
    schedules.add(db, "good", "0 3 * * *", timezone="Europe/Berlin")
    schedules.add(db, "bad", "0 0 30 2 *")
    until(lambda: schedules.row(db, "good")["next_at"] is not None, 20)
    until(lambda: "bad day-of-month" in (schedules.row(db, "bad")["error"] or ""), 20)
    assert schedules.row(db, "bad")["next_at"] is None


def test_lost_notification_costs_a_poll(db: psycopg.Connection, bench: Bench) -> None:
    bench.start(poll_seconds=1).listening()
    with db.transaction():
        db.execute("set local turbo.notify = 'off'")
        schedules.add(db, "quiet", "0 3 * * *")
    until(lambda: schedules.row(db, "quiet")["next_at"] is not None, 20)


def test_failed_tasks_pause_their_schedule_soon(db: psycopg.Connection, bench: Bench) -> None:
    """Before the next slot, which is a year away."""
    worker = bench.start(poll_seconds=600).listening()
    schedules.add(db, "yearly", "0 0 1 1 *", max_failures=1, max_retries=0, input_data='{"exit": 1}')
    until(lambda: schedules.row(db, "yearly")["next_at"] is not None, 20)
    db.execute("update agent_schedules set next_at = date_trunc('second', now()) where name = 'yearly'")
    until(lambda: not schedules.row(db, "yearly")["enabled"], 40)
    assert schedules.row(db, "yearly")["error"] == "paused itself after a failure"
    worker.said("schedule yearly has paused itself")
