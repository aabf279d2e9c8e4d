"""The slots of schedules, step by step: overlap, what was missed, failures, refusals; and what others do at the same moment."""

import asyncio
import contextlib
import json
from datetime import datetime, timedelta

import psycopg
import pytest

from tests.support import schedules
from tests.support.schedules import add, begin, once_each, row, slots, utc
from turbo.db.lane import Lane
from turbo.db.retention_store import RetentionAges, RetentionStore
from turbo.db.schedule_store import Firing
from turbo.domain.schedule import CatchUp
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.row_retention import RowRetention
from turbo.observability.metrics import Metrics

THREE = utc(2026, 1, 1, 3)
DAY = timedelta(days=1)


def end(db: psycopg.Connection, status: str = "completed") -> None:
    """All tasks that are not over end."""
    db.execute(
        "update agent_tasks set status = %s where status in ('pending', 'scheduled', 'running', 'waiting')", [status]
    )


@pytest.fixture
async def hand(dsn):
    async with schedules.scheduling(dsn) as one:
        yield one


async def test_slots_task_is_as_the_schedule_says(db, hand):
    add(
        db, "Nightly: triage / 1", task_type="report", task_priority=7, input_data='{"a": [1, "x"]}', queue="q", timeout_seconds=9,
        max_retries=1, concurrency_key="k", timezone="Europe/Berlin",
    )  # fmt: skip
    begin(db, utc(2026, 1, 1), "Nightly: triage / 1")
    assert await hand.at(utc(2026, 1, 1, 2)) == 1
    cursor = db.cursor(row_factory=psycopg.rows.dict_row)
    task = cursor.execute("select * from agent_tasks").fetchone()
    expected = {
        "task_id": "Nightly-triage-1-20260101T020000Z", "task_type": "report", "task_description": "work", "task_priority": 7,
        "input_data": {"a": [1, "x"]}, "queue": "q", "timeout_seconds": 9, "max_retries": 1, "concurrency_key": "k",
        "idempotency_key": "schedule Nightly: triage / 1@2026-01-01T02:00:00Z", "submitted_by": db.info.user, "status": "pending",
    }  # fmt: skip
    assert {name: task[name] for name in expected} == expected
    trail = db.execute("select action_type, actor, to_status, detail from agent_actions").fetchall()
    assert trail == [
        ("fired", "w-1-abc", "pending", {"schedule": "Nightly: triage / 1", "slot": "2026-01-01T02:00:00+00:00"})
    ]
    one = row(db, "Nightly: triage / 1")
    assert (one["last_at"], one["fired_at"], one["next_at"]) == (
        utc(2026, 1, 1, 2),
        utc(2026, 1, 1, 2),
        utc(2026, 1, 2, 2),
    )


async def test_longest_name_fits_an_index(db, hand):
    name = "\U0001f4a5" * 200
    add(db, name)
    begin(db, utc(2026, 1, 1), name)
    assert await hand.at(THREE) == 1
    assert db.execute("select task_id from agent_tasks").fetchone() == ("schedule-20260101T030000Z",)


# ── overlap ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["pending", "scheduled", "running", "waiting", "blocked"])
async def test_slot_is_passed_over_while_a_task_is_not_over(db, hand, status):
    add(db)
    begin(db, utc(2026, 1, 1))
    assert await hand.at(THREE) == 1
    db.execute("set session_replication_role = replica")
    db.execute("update agent_tasks set status = %s", [status])
    db.execute("reset session_replication_role")
    assert await hand.at(THREE + DAY) == 0
    one = row(db)
    assert (one["skipped"], one["skipped_at"], one["last_at"]) == (1, THREE + DAY, THREE + DAY)
    assert one["next_at"] == THREE + 2 * DAY
    assert one["error"] is None
    db.execute("set session_replication_role = replica")
    db.execute("update agent_tasks set status = 'completed'")
    assert await hand.at(THREE + 2 * DAY) == 1


async def test_queue_overlap_fires_at_every_slot(db, hand):
    add(db, overlap="queue")
    begin(db, utc(2026, 1, 1))
    for day in range(3):
        assert await hand.at(THREE + day * DAY) == 1
    assert row(db)["skipped"] == 0
    db.execute("update agent_schedules set overlap = 'skip'")
    db.execute("update agent_tasks set status = 'completed' where task_id <> 's-20260101T030000Z'")
    assert await hand.at(THREE + 3 * DAY) == 0, "the first of them is not over"


async def test_retried_task_counts_as_not_over(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    await hand.at(THREE)
    end(db, "failed")
    await hand.store.judge()
    db.execute("update agent_tasks set status = 'pending'")
    assert await hand.at(THREE + DAY) == 0


# ── what was missed ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("catch_up", "fired"), [("none", []), ("one", [3]), ("all", [1, 2, 3])])
async def test_outage_of_three_days(db, hand, catch_up, fired):
    add(db, catch_up=catch_up, overlap="queue")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(utc(2026, 1, 3, 9)) == len(fired)
    assert slots(db) == [utc(2026, 1, day, 3) for day in fired]
    one = row(db)
    assert one["skipped"] == 3 - len(fired)
    assert (one["last_at"], one["next_at"]) == (utc(2026, 1, 3, 3), utc(2026, 1, 4, 3))
    assert await hand.at(utc(2026, 1, 3, 10)) == 0
    assert await hand.at(utc(2026, 1, 4, 3)) == 1


async def test_outage_of_minutes_catches_up_a_hundred(db, hand):
    add(db, cron="* * * * *", catch_up="all", overlap="queue")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(utc(2026, 1, 3)) == 100
    assert slots(db)[0] == utc(2026, 1, 2, 22, 21)
    assert row(db)["skipped"] == 900, "of those that were passed over, a thousand slots in all are counted"


async def test_statement_fires_a_hundred_slots_at_most(db, hand):
    """One for all 250 could take longer than a statement may, again and again, and claims would wait for it."""
    now = utc(2026, 11, 27, 12)
    for name, hours in {"a": 3, "b": 3, "c": 0.5, "d": 0.25, "e": 0}.items():
        add(db, name, "* * * * *", overlap="queue", catch_up="all")
        begin(db, now - timedelta(hours=hours), name)
    hand.store.now = now.isoformat()
    fired = [len(done.fired) for done in await hand.scheduler.once()]
    assert sum(fired) == 100 + 100 + 30 + 15
    assert max(fired) == 100
    assert len(slots(db, "d")) == 15, "none is forgotten"
    once_each(db)


async def test_all_caught_up_under_skip_is_one_task(db, hand):
    add(db, catch_up="all")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(utc(2026, 1, 3, 9)) == 1
    assert slots(db) == [utc(2026, 1, 1, 3)]
    assert row(db)["skipped"] == 2


async def test_statement_that_takes_too_long_is_sent_with_fewer_slots(db, hand, monkeypatch):
    """As of a hundred tasks of megabytes: it is cut off, however often it is sent."""
    for name in ("large", "small"):
        add(db, name, "* * * * *", overlap="queue", catch_up="all")
        begin(db, utc(2026, 1, 1), name)
    fire, cut_off = hand.store.fire, []

    async def fire_in_time(firings):
        slots = sum(len(one.slots) for one in firings)
        if slots > 20:
            cut_off.append(slots)
            raise psycopg.errors.QueryCanceled
        return await fire(firings)

    monkeypatch.setattr(hand.store, "fire", fire_in_time)
    hand.store.now = utc(2026, 1, 1, 2).isoformat()
    for _ in range(20):
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            await hand.scheduler.once()
            break
    assert cut_off[:2] == [100, 25]
    assert {name: len(slots(db, name)) for name in ("large", "small")} == {"large": 100, "small": 100}
    assert {row(db, name)["skipped"] for name in ("large", "small")} == {20}
    once_each(db)


@pytest.mark.parametrize("catch_up", CatchUp)
async def test_slot_that_is_late_by_a_stall_is_not_missed(db, hand, catch_up):
    add(db, cron="* * * * * *", catch_up=catch_up, overlap="queue")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(utc(2026, 1, 1, 0, 0, 5)) == 5


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_schedule_pauses_after_failures_in_a_row(db, hand):
    add(db, max_failures=2)
    begin(db, utc(2026, 1, 1))
    for day, status in enumerate(["failed", "completed", "failed", "cancelled"]):
        assert await hand.at(THREE + day * DAY) == 1
        end(db, status)
    assert await hand.at(THREE + 4 * DAY) == 1
    assert row(db)["failures"] == 1, "a success ends the row; a cancellation is neither"
    end(db, "failed")
    assert await hand.store.judge() == ["s"]
    one = row(db)
    assert (one["enabled"], one["failures"], one["next_at"]) == (False, 2, None)
    assert one["error"] == "paused itself after 2 failures in a row"
    assert await hand.at(THREE + 5 * DAY) == 0
    assert await hand.store.judge() == []
    db.execute("update agent_schedules set enabled = true")
    begin(db, THREE + 5 * DAY)
    assert await hand.at(THREE + 6 * DAY) == 1


async def test_failure_is_seen_at_the_next_slot(db, hand):
    add(db, max_failures=1)
    begin(db, utc(2026, 1, 1))
    await hand.at(THREE)
    end(db, "failed")
    assert await hand.at(THREE + DAY) == 0
    assert row(db)["error"] == "paused itself after a failure"


async def test_failure_that_retention_deletes_counts(db, dsn, hand):
    add(db, max_failures=1)
    begin(db, utc(2026, 1, 1))
    await hand.at(THREE)
    db.execute("set session_replication_role = replica")
    db.execute("update agent_tasks set status = 'failed', completed_at = now() - interval '9 days', fencing_token = -1")
    leadership = Leadership()
    leadership.update(True)
    lane = Lane(dsn, "retention")
    ages = RetentionAges(completed=86_400.0, failed=86_400.0, cancelled=86_400.0, actions=None)
    await RowRetention(RetentionStore(lane, ages), leadership, Metrics(), pause=0, before=hand.store.judge).once()
    assert slots(db) == []
    assert row(db)["error"] == "paused itself after a failure"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_refused_task_is_said_and_tried_again(db, hand):
    add(db, max_failures=3)
    begin(db, utc(2026, 1, 1))
    db.execute("alter table agent_tasks add constraint rule check (task_description <> 'work') not valid")
    assert await hand.at(THREE) == 0
    one = row(db)
    assert one["error"].startswith("its task was refused: ")
    assert "rule" in one["error"]
    assert (one["failures"], one["enabled"], one["next_at"]) == (1, True, THREE + DAY)
    db.execute("alter table agent_tasks drop constraint rule")
    assert await hand.at(THREE + DAY) == 1
    assert row(db)["error"] is None


async def test_refusals_pause_the_schedule_too(db, hand):
    add(db, max_failures=2)
    begin(db, utc(2026, 1, 1))
    db.execute("alter table agent_tasks add constraint rule check (task_description <> 'work') not valid")
    await hand.at(THREE)
    await hand.at(THREE + DAY)
    one = row(db)
    assert not one["enabled"]
    assert one["error"].startswith("paused itself after 2 failures in a row: its task was refused: ")


async def test_one_bad_schedule_holds_up_no_other(db, hand):
    add(db, "bad", cron="0 0 30 2 *")
    add(db, "refused", text="no")
    add(db, "good")
    for name in ("refused", "good"):
        begin(db, utc(2026, 1, 1), name)
    db.execute("alter table agent_tasks add constraint rule check (task_description <> 'no') not valid")
    assert await hand.at(THREE) == 1
    assert "bad day-of-month" in row(db, "bad")["error"]
    assert "rule" in row(db, "refused")["error"]
    assert slots(db, "good") == [THREE]


@pytest.mark.parametrize("code", ["XX000", "58000", "53400", "53100", "25006", "40001"])
async def test_error_that_may_pass_holds_up_no_other(db, hand, code):
    """Its slot stays due, and no failure is counted: it fires once the error is gone."""
    add(db, "bad", text="bad", max_failures=1)
    add(db, "good")
    for name in ("bad", "good"):
        begin(db, utc(2026, 1, 1), name)
    db.execute(
        "create function broken() returns trigger language plpgsql as $$ begin if new.task_description = 'bad' then"
        f" raise exception 'no way' using errcode = '{code}'; end if; return new; end $$"
    )
    db.execute("create trigger a_broken before insert on agent_tasks for each row execute function broken()")
    assert await hand.at(THREE) == 1
    assert slots(db, "good") == [THREE]
    bad = row(db, "bad")
    conflict = code == "40001"
    expected = None if conflict else "its task cannot be inserted, and is tried again: no way"
    assert (bad["error"], bad["failures"], bad["enabled"], bad["last_at"]) == (expected, 0, True, None)
    assert await hand.at(THREE) == 0
    assert row(db, "bad")["rev"] == bad["rev"], "the same error is not written again"
    db.execute("drop trigger a_broken on agent_tasks")
    assert await hand.at(THREE) == 1
    assert (slots(db, "bad"), row(db, "bad")["error"]) == ([THREE], None)


# ── ids, keys and locks of others ───────────────────────────────────────────────────────────────────────────────────


async def test_taken_id_gets_a_suffix(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    db.execute("insert into agent_tasks (task_id, task_description) values ('s-20260101T030000Z', 'mine')")
    assert await hand.at(THREE) == 1
    ids = db.execute("select task_id from agent_tasks where task_description = 'work'").fetchall()
    assert ids[0][0].startswith("s-20260101T030000Z-")


async def test_id_in_an_open_transaction_holds_up_nobody(db, dsn, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    with psycopg.connect(dsn) as person:
        person.execute("insert into agent_tasks (task_id, task_description) values ('s-20260101T030000Z', 'mine')")
        async with asyncio.timeout(5):
            assert await hand.at(THREE) == 1
        person.rollback()
    assert slots(db) == [THREE]


async def test_locked_schedule_is_left_and_others_fire(db, dsn, hand):
    add(db, "held")
    add(db, "free")
    for name in ("held", "free"):
        begin(db, utc(2026, 1, 1), name)
    await hand.at(utc(2026, 1, 1))
    with psycopg.connect(dsn) as person:
        person.execute("select from agent_schedules where name = 'held' for update")
        async with asyncio.timeout(5):
            assert await hand.at(THREE) == 1
        assert slots(db, "free") == [THREE]
    assert await hand.at(THREE) == 1, "once it is free again"
    assert slots(db, "held") == [THREE]


async def test_schedule_that_is_edited_while_due_fires_as_edited(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    hand.store.now = THREE.isoformat()
    look = await hand.store.look()
    assert len(look.due) == 1
    db.execute("update agent_schedules set cron = '0 4 * * *'")
    done = await hand.store.fire([Firing(look.due[0], (THREE,), 0, THREE, THREE + DAY)])
    assert (done.moved, done.fired, done.left) == (0, (), ())
    assert slots(db) == []
    begin(db, utc(2026, 1, 1))
    assert await hand.at(utc(2026, 1, 1, 4)) == 1


@pytest.mark.parametrize("edit", ["delete from agent_schedules", "update agent_schedules set enabled = false"])
async def test_schedule_that_goes_while_it_is_due_does_not_fire(db, hand, edit):
    add(db)
    begin(db, utc(2026, 1, 1))
    hand.store.now = THREE.isoformat()
    look = await hand.store.look()
    db.execute(edit)
    done = await hand.store.fire([Firing(look.due[0], (THREE,), 0, THREE, THREE + DAY)])
    assert (done.moved, done.fired) == (0, ())
    assert await hand.at(THREE) == 0


async def test_text_that_is_edited_while_due_is_the_new_one(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    await hand.at(utc(2026, 1, 1, 1))
    db.execute("update agent_schedules set task_description = 'new'")
    assert await hand.at(THREE) == 1
    assert db.execute("select task_description from agent_tasks").fetchone() == ("new",)


async def test_schedule_made_anew_repeats_no_slot(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    await hand.at(THREE)
    db.execute("delete from agent_schedules")
    add(db, overlap="queue")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(THREE) == 0, "its key is taken"
    assert len(slots(db)) == 1
    assert row(db)["error"] is None


async def test_slot_whose_task_was_deleted_is_not_repeated(db, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    await hand.at(THREE)
    end(db)
    db.execute("delete from agent_tasks")
    begin(db, utc(2026, 1, 1))
    assert await hand.at(THREE) == 0


# ── several workers ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [2, 10])
async def test_many_workers_fire_each_slot_once(db, dsn, workers):
    names = [f"s{n}" for n in range(30)]
    for name in names:
        add(db, name, overlap="queue")
        begin(db, utc(2026, 1, 1), name)
    async with asyncio.TaskGroup() as group:
        for n in range(workers):
            group.create_task(_several(dsn, f"w-{n}-abc"))
    for name in names:
        assert slots(db, name) == [THREE, THREE + DAY, THREE + 2 * DAY]
    schedules.once_each(db)


async def _several(dsn: str, worker_id: str) -> None:
    async with schedules.scheduling(dsn, worker_id) as hand:
        for day in range(3):
            await hand.at(THREE + day * DAY)
            await hand.at(THREE + day * DAY)


async def test_second_worker_finds_the_slot_taken(db, dsn, hand):
    """Stepped: both have looked before either fires. Without the fence the slot would be counted as moved twice."""
    add(db, overlap="queue")
    begin(db, utc(2026, 1, 1))
    async with schedules.scheduling(dsn, "w-2-abc") as other:
        looks = []
        for one in (hand, other):
            one.store.now = THREE.isoformat()
            looks.append(await one.store.look())
        firings = [Firing(look.due[0], (THREE,), 0, THREE, THREE + DAY) for look in looks]
        first, second = [await one.store.fire([firing]) for one, firing in zip((hand, other), firings, strict=True)]
    assert (first.moved, len(first.fired)) == (1, 1)
    assert (second.moved, len(second.fired), second.left) == (0, 0, ())


async def test_firing_that_another_has_in_hand_is_not_waited_for(db, dsn, hand):
    add(db)
    begin(db, utc(2026, 1, 1))
    hand.store.now = THREE.isoformat()
    look = await hand.store.look()
    due = [{"name": "s", "rev": look.due[0].rev, "next_at": None, "slots": [THREE.isoformat()], "missed": 0,
            "upto": THREE.isoformat(), "later": None, "error": None}]  # fmt: skip
    with psycopg.connect(dsn) as other:
        other.execute("select turbo_fire(%s, 'w', %s)", [json.dumps(due), THREE])
        async with asyncio.timeout(5):
            done = await hand.store.fire([Firing(look.due[0], (THREE,), 0, THREE, THREE + DAY)])
        assert (done.moved, done.left) == (0, ("s",))
        other.rollback()  # it dies: neither the task nor the move is there
    assert slots(db) == []
    assert await hand.at(THREE) == 1


async def test_hundred_schedules_due_at_one_second_fire(db, dsn, hand):
    """By two workers that look at the same moment."""
    for n in range(100):
        add(db, f"s{n}")
    db.execute("update agent_schedules set since = %s, next_at = null, rev = rev + 1", [utc(2026, 1, 1)])
    async with schedules.scheduling(dsn, "w-2-abc") as other:
        counts = await asyncio.gather(hand.at(THREE), other.at(THREE))
    assert sum(counts) == 100
    assert [slots(db, f"s{n}") for n in range(100)] == [[THREE]] * 100
    schedules.once_each(db)


# ── jitter ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_jitter_is_within_bounds_and_the_same_each_time(db, hand):
    now = datetime.now(tz=THREE.tzinfo).replace(microsecond=0)
    add(db, cron="* * * * *", jitter_seconds=3600, overlap="queue", catch_up="all")
    begin(db, now - timedelta(minutes=50))
    fired = await hand.at(now)
    assert fired >= 49, row(db)["error"]
    waits = [
        (at - slot).total_seconds()
        for at, slot in zip(
            [r[0] for r in db.execute("select run_after from agent_tasks order by idempotency_key")],
            slots(db),
            strict=True,
        )
    ]
    assert all(0 <= wait <= 3600 for wait in waits)
    assert len({round(wait) for wait in waits}) > 20
    statuses = dict(db.execute("select status, count(*) from agent_tasks group by 1").fetchall())
    assert statuses["scheduled"] > 5
    assert statuses["pending"] > 5, "those whose moment has passed are due at once"
