"""Schedules against the real database, in every order of events that hypothesis can think of: looks that are stale when they are
fired, answers that are lost, people who edit, pause and delete, tasks that end and are deleted, a standby that lags behind.

A machine of its own (tests/model/machine.py is the fleet's): what a slot's task does once it is there is that of any task.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from psycopg.rows import dict_row

from tests.model.mutations import Mutation
from tests.support.schedules import Hand
from tests.support.standby import Standby
from turbo.db.schedule_store import Fired, Firing
from turbo.domain.schedule import timetable
from turbo.worker.scheduler import firing_of

START = datetime(2026, 10, 24, 22, tzinfo=UTC)
"""A few hours before the clocks of Berlin go back."""

CRONS = ("0 * * * *", "*/20 * * * *", "30 2 * * *")
NAMES = ("a", "b")
LIVE = ("pending", "scheduled", "running", "blocked", "waiting")
TABLES = ("agent_tasks", "agent_actions", "agent_schedules")


class World:
    """One database, two workers' statements, and a person's session. `reset` before each history."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.loop = asyncio.new_event_loop()
        self.db: psycopg.Connection[dict[str, Any]] = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self.hands = [Hand(dsn, f"w-{n}-abc") for n in range(2)]
        self.standby = Standby(dsn, TABLES)

    def reset(self) -> None:
        self.db.execute("truncate public.agent_tasks, public.agent_actions, public.agent_schedules")

    def close(self) -> None:
        for hand in self.hands:
            self.loop.run_until_complete(hand.lane.close())
        self.loop.close()
        self.db.close()


class Schedules(RuleBasedStateMachine):
    world: ClassVar[World]
    seen: ClassVar["Counter[str]"] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.now = START
        self.looks: list[tuple[int, Firing]] = []  # (worker, what it is about to fire)
        self.kept: dict[str, datetime] = {}  # name → its last_at, in this line of history
        self.saved = dict(self.kept)
        self.fenced: set[tuple[str, datetime]] = set()  # slots that had a task, in this line of history
        self.saved_fenced = set(self.fenced)
        self.before: dict[str, dict[str, Any]] = {}
        self.deleted = False

    @initialize()
    def write_schedules(self) -> None:
        for name in NAMES:
            self.write(name, "0 * * * *", "skip", "all", 2)
        self.the_standby_catches_up()

    # ── people ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, name: str, cron: str, overlap: str, catch_up: str, most: int | None) -> None:
        self.world.db.execute(
            "insert into public.agent_schedules (name, cron, timezone, overlap, catch_up, max_failures, task_description)"
            " values (%s, %s, 'Europe/Berlin', %s, %s, %s, 'x')",
            [name, cron, overlap, catch_up, most],
        )
        self.kept.pop(name, None)
        self.count_from_now(name)

    def count_from_now(self, name: str) -> None:
        """The clock of the model instead of the database's."""
        self.world.db.execute(
            "update public.agent_schedules set since = %s, rev = rev + 1 where name = %s and since > now() - interval '1 minute'",
            [self.now, name],
        )

    @rule(
        name=st.sampled_from(NAMES),
        cron=st.sampled_from(CRONS),
        overlap=st.sampled_from(("skip", "queue")),
        catch_up=st.sampled_from(("none", "one", "all")),
        most=st.sampled_from((None, 1, 2)),
    )
    def a_person_edits(self, name: str, cron: str, overlap: str, catch_up: str, most: int | None) -> None:
        self.world.db.execute(
            "update public.agent_schedules set cron = %s, overlap = %s, catch_up = %s, max_failures = %s where name = %s",
            [cron, overlap, catch_up, most, name],
        )
        self.count_from_now(name)

    @rule(name=st.sampled_from(NAMES), on=st.sampled_from((True, True, True, False)))
    def a_person_pauses(self, name: str, on: bool) -> None:
        self.world.db.execute("update public.agent_schedules set enabled = %s where name = %s", [on, name])
        self.count_from_now(name)

    @rule(name=st.sampled_from(NAMES), anew=st.booleans(), often=st.integers(0, 2))
    def a_person_deletes(self, name: str, anew: bool, often: int) -> None:
        if often:
            return
        self.world.db.execute("delete from public.agent_schedules where name = %s", [name])
        self.kept.pop(name, None)
        if anew:
            self.write(name, "*/20 * * * *", "queue", "all", None)

    @rule(i=st.integers(0, 9), status=st.sampled_from(("completed", "completed", "failed", "cancelled", "pending")))
    def a_task_ends(self, i: int, status: str) -> None:
        if (task := self.pick(self.tasks(), i)) is not None:
            self.world.db.execute(
                "update public.agent_tasks set status = %s where task_id = %s", [status, task["task_id"]]
            )

    @rule(i=st.integers(0, 9))
    def a_task_is_deleted(self, i: int) -> None:
        task = self.pick([t for t in self.tasks() if t["status"] not in LIVE], i)
        if task is not None:
            self.world.db.execute("delete from public.agent_tasks where task_id = %s", [task["task_id"]])

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(minutes=st.sampled_from((0, 1, 10, 20, 45, 60, 200, 1500)))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(minutes=st.sampled_from((10, 20, 60, 60, 200)), worker=st.integers(0, 1))
    def slots_come(self, minutes: int, worker: int) -> None:
        """And a worker fires what is due at once, as it should be."""
        self.now += timedelta(minutes=minutes)
        waiting, self.looks = self.looks, []
        self.a_worker_looks(worker)
        while self.looks:
            self.a_worker_fires(0, "fired")
            self.everything_holds()
        self.looks = waiting

    @rule(worker=st.integers(0, 1))
    def a_worker_looks(self, worker: int) -> None:
        hand = self.world.hands[worker]
        hand.store.now = self.now.isoformat()
        look = self.world.loop.run_until_complete(hand.store.look())
        self.looks += [(worker, firing_of(one, look)) for one in look.due]

    @precondition(lambda self: self.looks)
    @rule(i=st.integers(0, 9), end=st.sampled_from(("fired", "fired", "dies before", "dies in it", "answer lost")))
    def a_worker_fires(self, i: int, end: str) -> None:
        """What it saw may be long ago."""
        worker, firing = self.looks.pop(i % len(self.looks))
        if end == "dies before":
            return
        if end == "dies in it":
            self.fires(worker, firing, rolled_back=True)
            return
        done = self.fires(worker, firing)
        self.judge_firing(firing, done)
        if end == "answer lost":
            again = self.fires(worker, firing)
            assert again.moved == 0, "a firing that was sent again did something"

    def fires(self, worker: int, firing: Firing, *, rolled_back: bool = False) -> Fired:
        hand = self.world.hands[worker]
        hand.store.now = self.now.isoformat()

        async def send() -> Fired:
            if not rolled_back:
                return await hand.store.fire([firing])
            async with hand.lane.use() as connection:
                await connection.execute("begin")
            done = await hand.store.fire([firing])
            async with hand.lane.use() as connection:
                await connection.execute("rollback")
            return done

        return self.world.loop.run_until_complete(send())

    def judge_firing(self, firing: Firing, done: Fired) -> None:
        name = firing.schedule.name
        was = self.before.get(name)
        assert done.moved <= 1
        assert not done.left, "nobody has anything locked"
        if done.moved:
            self.seen["moved"] += 1
            assert was is not None, "a schedule that is gone fired"
            assert was["enabled"], "a paused schedule fired"
            assert (was["rev"], was["next_at"]) == (firing.schedule.rev, firing.schedule.next_at), "from a stale look"
        for slot in done.fired:
            at = datetime.fromisoformat(slot.slot)
            self.seen["fired"] += 1
            assert (name, at) not in self.fenced, f"{name} fired {at} twice"
            assert at <= self.now, f"{name} fired {at} before its time"
            assert name not in self.kept or at > self.kept[name], f"{name} fired {at} after a later slot"
            self.fenced.add((name, at))
        if was is not None and was["overlap"] == "skip" and done.fired:
            assert len(done.fired) == 1, "two at once under skip"
            others = [t for t in self.tasks_before if t["name"] == name and t["status"] in LIVE and t["last"]]
            assert not others, f"{name} fired while {others[0]['task_id']} was not over"
        if done.moved:
            counted = [t for t in self.tasks() if t["name"] == name and t["slot"] in self.rows()[name]["open_slots"]]
            assert all(t["status"] in LIVE for t in counted), f"{name}: the end of a task will be counted again"
        if done.moved and was is not None and was["max_failures"] is not None:
            row = self.rows().get(name)
            assert row is not None
            failed = sum(
                t["status"] == "failed"
                for t in self.tasks_before
                if t["name"] == name and t["slot"] in was["open_slots"]
            )
            others = [t["status"] for t in self.tasks_before if t["name"] == name and t["slot"] in was["open_slots"]]
            if "completed" not in others:
                assert row["failures"] == was["failures"] + failed, f"{name}: {failed} failures were counted wrong"
            if row["failures"] >= was["max_failures"]:
                self.seen["paused itself"] += 1
                assert not row["enabled"], f"{name} goes on after {row['failures']} failures"

    @rule(worker=st.integers(0, 1))
    def failures_are_counted(self, worker: int) -> None:
        self.world.loop.run_until_complete(self.world.hands[worker].store.judge())
        for name, row in self.rows().items():
            if row["enabled"] and row["max_failures"] is not None and name in self.before:
                same = row["max_failures"] == self.before[name]["max_failures"]
                assert not same or row["failures"] < row["max_failures"], f"{name} goes on after too many failures"

    # ── failover ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(often=st.integers(0, 2))
    def the_standby_catches_up(self, often: int = 0) -> None:
        if often:
            return
        self.world.standby.caught_up()
        self.saved, self.saved_fenced = dict(self.kept), set(self.fenced)

    @rule(often=st.integers(0, 3))
    def fail_over(self, often: int) -> None:
        if often:
            return
        self.world.standby.takes_over()
        self.kept, self.fenced = dict(self.saved), set(self.saved_fenced)
        self.seen["failovers"] += 1

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def everything_holds(self) -> None:
        rows = self.rows()
        for name, row in rows.items():
            if row["last_at"] is not None:
                assert name not in self.kept or row["last_at"] >= self.kept[name], f"{name} went back"
                self.kept[name] = row["last_at"]
            if row["next_at"] is not None and row["last_at"] is not None:
                assert row["next_at"] > row["last_at"], f"{name} waits for a slot that it dealt with"
            assert row["enabled"] or row["next_at"] is None, f"{name} is paused, and has a next slot"
        slots = Counter((t["name"], t["slot"]) for t in self.tasks())
        assert not [slot for slot, count in slots.items() if count > 1], "a slot has two tasks"
        self.before, self.tasks_before = rows, self.tasks()

    def teardown(self) -> None:
        if not self.world.db.closed:
            self.settle()

    def settle(self) -> None:
        """All faults are over: what is due is dealt with, and every schedule waits for its next slot."""
        for _ in range(3):
            self.looks.clear()
            self.a_worker_looks(0)
            while self.looks:
                self.a_worker_fires(0, "fired")
                self.everything_holds()
        for name, row in self.rows().items():
            if row["enabled"]:
                expected = timetable(row["cron"], "Europe/Berlin").after(self.now)
                assert row["next_at"] == expected, f"{name} waits for {row['next_at']}, not for {expected}"

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def pick(self, items: list[Any], i: int) -> Any:
        return items[i % len(items)] if items else None

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.world.db.execute("select * from public.agent_schedules")}

    def tasks(self) -> list[dict[str, Any]]:
        """The slots' tasks. `last`: turbo knows of it: it is the last one, or was not over when it was last looked at."""
        return list(
            self.world.db.execute(
                "select t.task_id, t.status, s.name, s.slot,"
                "       coalesce(k.fired_at = s.slot or s.slot = any (k.open_slots), false) as last"
                "  from public.agent_tasks t"
                " cross join lateral (select split_part(substr(t.idempotency_key, 10), '@', 1) as name,"
                "                            split_part(t.idempotency_key, '@', 2)::timestamptz as slot) s"
                "  left join public.agent_schedules k on k.name = s.name"
                " where t.idempotency_key like 'schedule %' order by t.idempotency_key"
            )
        )


MUTATIONS = (
    Mutation(
        "a slot is fired from the row as it was seen: rev",
        "turbo_fire",
        (
            (
                "and k.rev = (one ->> 'rev')::bigint and k.enabled and k.next_at is not",
                "and k.enabled and k.next_at is not",
            ),
        ),
    ),
    Mutation(
        "a slot is passed over while a task is not over",
        "turbo_fire",
        (("if s.overlap = 'skip' and unfinished then", "if false then"),),
    ),
    Mutation("the move to the next slot is written", "turbo_keep_schedule", (("next_at = s.next_at,", ""),)),
)
"""Guards of schedules that the model sees go, and how to take them away. The others have tests of their own
(tests/integration/test_schedule_slots.py)."""

NOTICED_IN_CI = (
    "a slot is passed over while a task is not over",
    "the move to the next slot is written",
)
