"""People, and an older poller beside turbo: they insert, edit, delete and pause, and mean it."""

from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.base import Base
from tests.model.fleet import OLDER, QUEUES, SECOND, Op
from tests.model.truth import QUEUED, TaskTruth
from turbo.domain.states import FINAL

ANY = st.integers(0, 11)
KEYS = (None, "a", "b")
ANSWERS = {"answer": ("to ", "yes"), "also answer": ("also to ", "no, not now")}
"""What is answered to a question (with its text), and to a hold."""
HAND = (
    "pending", "cancelled", "completed", "failed", "later", "put off", "delete", "poll", "hold", "needs nothing", *ANSWERS
)  # fmt: skip
ASKS = {"later": "scheduled", "hold": "waiting"}
LATER = f"now() + make_interval(secs => {600 * SECOND})"
TASKS_AT_MOST = 20
REFUSALS = (
    psycopg.errors.ObjectInUse,
    psycopg.errors.UniqueViolation,
    psycopg.errors.CheckViolation,
    psycopg.errors.ObjectNotInPrerequisiteState,
)


class People(Base):
    @precondition(lambda self: len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(
        key=st.sampled_from(KEYS),
        priority=st.sampled_from([None, 1, 5, 9]),
        queue=st.sampled_from([*QUEUES[:1] * 3, *QUEUES]),
        delay=st.sampled_from([0, 0, 600]),
        retries=st.sampled_from([0, 0, 1, 2]),
        infra=st.sampled_from([0, 0, 4]),
    )
    def insert(self, key: str | None, priority: int | None, queue: str, delay: int, retries: int, infra: int) -> None:
        self.numbers += 1
        task_id = f"t{self.numbers}"
        self.inserted(task_id, key, priority, queue, delay, retries)
        self.has_seen_bad_days(task_id, infra)

    def inserted(
        self, task_id: str, key: str | None, priority: int | None, queue: str, delay: int = 0, retries: int = 0
    ) -> None:
        self.world.admin.execute(
            "insert into public.agent_tasks (task_id, task_description, concurrency_key, task_priority, queue, max_retries,"
            " run_after) values (%s, 'x', %s, %s, %s, %s, now() + make_interval(secs => %s))",
            [task_id, key, priority, queue, retries, delay * SECOND],
        )
        self.truth.tasks[task_id] = TaskTruth(
            "scheduled" if delay else "pending",
            former=self.truth.deleted.pop(task_id, set()),
            since=len(self.world.picture().trail.get(task_id, [])),
        )

    @precondition(lambda self: self.truth.tasks and len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(i=ANY, delay=st.sampled_from([0, 600]), queue=st.sampled_from(QUEUES))
    def the_same_id_once_more(self, i: int, delay: int, queue: str) -> None:
        """A row that is over is deleted, or was, and another is inserted under its id, as a nightly job does."""
        over = sorted(t for t, r in self.before.tasks.items() if r["status"] in FINAL and t in self.truth.tasks)
        if not self.truth.deleted and over:
            self.do(self.edit(self.pick(over, i), "delete"))
            self.everything_holds()
        if task_id := self.pick(sorted(self.truth.deleted), i):
            self.inserted(task_id, None, 9, queue, delay)

    @rule(key=st.sampled_from(["a", "a", "b", "c"]), running=st.sampled_from([None, 1, 2, 3, 3]), heard=st.booleans())
    def a_limit_is_set(self, key: str, running: int | None, heard: bool) -> None:
        """Or removed. Workers that do not hear of it know by their next poll."""
        if running is None:
            self.world.admin.execute("delete from public.agent_limits where concurrency_key = %s", [key])
        else:
            self.world.admin.execute(
                "insert into public.agent_limits values (%s, %s)"
                " on conflict (concurrency_key) do update set running = excluded.running",
                [key, running],
            )
        if heard:
            for worker in self.workers:
                worker.stores.claims.limits_told()
        self.seen["limit set"] += 1

    def has_seen_bad_days(self, task_id: str, infra: int) -> None:
        if infra:
            self.world.past_the_triggers(
                "update public.agent_tasks set infra_count = %s where task_id = %s", infra, task_id
            )

    def hand_op(self, i: int, k: int) -> Op | None:
        # Mostly what runs: there an edit is no plain thing.
        running = sorted(t for t, r in self.before.tasks.items() if r["status"] == "running" and t in self.truth.tasks)
        task_id = self.pick(running if running and i % 2 else sorted(self.truth.tasks), i // 2)
        return task_id and self.edit(task_id, HAND[k % len(HAND)])

    def edit(self, task_id: str, what: str) -> Op:
        sets = {
            "later": f"status = 'scheduled', run_after = {LATER}",
            "put off": f"run_after = {LATER}",
            "poll": "status = 'running', assigned_worker_id = 'old-1', started_at = now()",
            "hold": "status = 'waiting'",
            "needs nothing": "needs = null",
            "a gpu": "requires = '{\"gpu\": true}'",
            "nothing": "requires = null",
            **{
                name: f"answer = case question ->> 'kind' when 'hold' then '{hold}' else '{text}' || (question ->> 'text') end"
                for name, (text, hold) in ANSWERS.items()
            },
        }.get(what, f"status = '{what}'")
        query = f"update public.agent_tasks set {sets} where task_id = '{task_id}'"
        if what == "delete":
            query = f"delete from public.agent_tasks where task_id = '{task_id}'"
        if what == "poll":
            query += " and status = 'pending' returning task_id"
        else:
            query += " returning task_id"

        async def send() -> tuple[str, str | None, list[Any]]:
            try:
                async with self.world.hand.use() as db:
                    rows = await (await db.execute(query)).fetchall()
                    row = await (
                        await db.execute(
                            "select status, fencing_token, answer from public.agent_tasks where task_id = %s", [task_id]
                        )
                    ).fetchone()
                    return "", row[0] if row else None, [rows, row]
            except REFUSALS as error:
                if self.world.hand.begin is not None:
                    await self.world.hand.end("rollback")
                    self.world.hand.begin = "begin"
                return error.sqlstate or "", None, []

        return Op("hand", None, self.world.hand, send, lambda answer, _: self.hand_taken(task_id, what, answer))

    def hand_taken(self, task_id: str, what: str, answer: tuple[str, str | None, list[Any]]) -> None:
        refused, status, found = answer
        task, row = self.truth.tasks[task_id], self.before.tasks.get(task_id)
        live = row is not None and row["status"] == "running" and row["fencing_token"] is not None
        if self.exact:
            assert not (live and what == "delete" and not refused), f"{task_id} was deleted under its agent"
        self.seen["refused by hand"] += bool(refused)
        if what in ANSWERS:
            if self.exact and row is not None:
                told = row["status"] == "waiting" and row["question"] is not None
                assert told != bool(refused) or (found and found[1][2] == row["answer"]), (
                    f"{task_id}: {row['status']}, {refused}"
                )
            self.seen["answered"] += not refused
            return
        if refused or not found[0]:
            return
        if what in ("a gpu", "nothing"):
            self.seen[f"requires {what}"] += 1
        elif what == "delete":
            self.seen["deleted"] += 1
            self.truth.deleted[task_id] = self.truth.tasks.pop(task_id).tokens()
        elif what == "poll":
            task.polled = True
            if self.exact:
                assert row is not None
                assert row["status"] == "pending", "the old poller took what was not to be had"
        elif status == "running" and found[1][1] is not None:
            task.wishes += what != "put off"
            self.seen["wish"] += what != "put off"
        elif what == "needs nothing":
            task.waits.needs.clear()
        elif what != "put off" and row is not None and self.exact and row["status"] != ASKS.get(what, what):
            # what stays as it was keeps its token
            self.seen["consumed by hand"] += bool(task.claims)
            task.consumed |= set(task.claims)
            if row["status"] in FINAL and what in ("pending", "later"):
                again: tuple[str, ...] = ("blocked",) if task.waits.needs or task.waits.line is not None else QUEUED
                if row["conversation"] is not None and OLDER in self.before.workers:
                    again = (*QUEUED, "blocked")
                assert status in again, f"{task_id} is retried by hand, and {status}"

    @precondition(lambda self: self.truth.tasks)
    @rule(i=ANY, what=st.sampled_from(HAND), of=st.sampled_from(("pending", "running", "scheduled", "waiting")))
    def hand_edit(self, i: int, what: str, of: str) -> None:
        such = [t for t, r in self.before.tasks.items() if r["status"] == of and t in self.truth.tasks]
        self.do(self.edit(self.pick(such or sorted(self.truth.tasks), i), what))

    @precondition(lambda self: any(r["status"] == "waiting" for r in self.before.tasks.values()))
    @rule(i=ANY, what=st.sampled_from(list(ANSWERS)), twice=st.booleans())
    def an_answer_comes(self, i: int, what: str, twice: bool) -> None:
        task_id = self.pick(sorted(t for t, r in self.before.tasks.items() if r["status"] == "waiting"), i)
        self.do(self.edit(task_id, what))
        self.everything_holds()
        if twice:
            self.do(self.edit(task_id, "also answer"))

    @precondition(lambda self: len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(priority=st.sampled_from([None, 5]))
    def insert_held(self, priority: int | None) -> None:
        self.numbers += 1
        task_id = f"t{self.numbers}"
        self.world.admin.execute(
            "insert into public.agent_tasks (task_id, task_description, task_priority, status) values (%s, 'x', %s, 'waiting')",
            [task_id, priority],
        )
        self.truth.tasks[task_id] = TaskTruth("waiting")

    @precondition(lambda self: any(r["status"] in FINAL for r in self.before.tasks.values()))
    @rule(i=ANY)
    def hand_retry(self, i: int) -> None:
        over = sorted(t for t, r in self.before.tasks.items() if r["status"] in FINAL)
        self.do(self.hand_op(2 * sorted(self.truth.tasks).index(self.pick(over, i)), 0))

    @precondition(lambda self: self.polled())
    @rule(i=ANY, again=st.booleans())
    def the_poller_is_done(self, i: int, again: bool) -> None:
        if task_id := self.pick(self.polled(), i):
            sets = (
                "status = 'pending', assigned_worker_id = null"
                if again
                else "status = 'completed', completed_at = now()"
            )
            self.world.admin.execute(f"update public.agent_tasks set {sets} where task_id = %s", [task_id])

    @rule(queue=st.sampled_from(QUEUES))
    def pause(self, queue: str) -> None:
        if queue in self.before.paused:
            self.world.admin.execute("delete from public.agent_queues where queue = %s", [queue])
        else:
            self.world.admin.execute("insert into public.agent_queues (queue) values (%s)", [queue])
