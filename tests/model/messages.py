"""What people tell tasks, at any moment: delivered to a run, refused, closed by a cancel, or a follow-up of its author; never gone.

A worker here hands messages on as its desk does (turbo/worker/message_desk.py): a run has at its start what the claim brought; one
that converses is told more until it ends; which run was told what is written down then, or later, or never.
"""

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, FakeWorker, Mark, Op, Run
from tests.model.leases import BEATS_TO_DEATH
from tests.model.people import ANY, TASKS_AT_MOST
from tests.model.strangers import Strangers
from tests.model.truth import TaskTruth
from tests.model.world import Picture, Row
from turbo.db.settle_store import SettleStep
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import FINAL
from turbo.domain.work import Message

REFUSED = (psycopg.errors.ForeignKeyViolation, psycopg.errors.ObjectNotInPrerequisiteState)
ENDS = st.sampled_from((OutcomeKind.SUCCEEDED, OutcomeKind.SUCCEEDED, OutcomeKind.FAILED, OutcomeKind.ASKED))
HEARD = st.sampled_from((True, True, False))
"""Whether the workers hear of a message at once: a notification can be lost, and a poll is its twin."""


class Messages(Strangers):
    # ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────

    def telling(self, task_id: str, heard: bool = True) -> Op:
        self.numbers += 1
        body, of = f"m{self.numbers} to {task_id}", self.truth.tasks[task_id]

        async def send() -> str:
            try:
                async with self.world.teller.use() as db:
                    await db.execute(
                        "insert into public.agent_messages (task_id, body) values (%s, %s)", [task_id, body]
                    )
                    return ""
            except REFUSED as error:
                if self.world.teller.begin is not None:
                    await self.world.teller.end("rollback")
                    self.world.teller.begin = "begin"
                return error.sqlstate or ""

        return Op(
            "tell", None, self.world.teller, send, lambda refused, _: self._told(body, of, task_id, refused, heard)
        )

    def _told(self, body: str, of: TaskTruth, task_id: str, refused: str, heard: bool) -> None:
        self.seen["message refused" if refused else "message"] += 1
        if self.exact:
            over = self.before.tasks[task_id]["status"] in FINAL
            assert over == bool(refused), f"{task_id} is {self.before.tasks[task_id]['status']}, and {body}: {refused}"
        if refused:
            return
        self.truth.messages[body] = of
        for worker in self.workers:
            if heard:
                worker.stores.claims.message_told()
            worker.told = (worker.told or heard) if self.exact else None

    def tell_op(self, i: int, k: int) -> Op | None:
        # Mostly one that runs.
        running = sorted(t for t, r in self.before.tasks.items() if r["status"] == "running" and t in self.truth.tasks)
        task_id = self.pick(running if running and k % 2 else sorted(self.truth.tasks), i)
        return task_id and self.telling(task_id)

    @precondition(lambda self: self.truth.tasks and len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(i=ANY, of=st.sampled_from(("pending", "running", "running", "blocked", "waiting", "completed")), heard=HEARD)
    def tell(self, i: int, of: str, heard: bool) -> None:
        such = [t for t, r in self.before.tasks.items() if r["status"] == of and t in self.truth.tasks]
        self.do(self.telling(self.pick(such or sorted(self.truth.tasks), i), heard))

    # ── the desks of the workers ────────────────────────────────────────────────────────────────────────────────────

    def run_begins(self, worker: FakeWorker, run: Run) -> None:
        """Its program has what the claim brought."""
        self._hears(worker, run, run.task.messages)
        if self.exact and worker.told is not None:
            open_ = {body for body, m in self.before.messages.items() if self._is_for(m, run.task.task_id)}
            given = {message.body for message in run.task.messages}
            assert given <= open_, f"{run.claim} is told {given - open_}, which is not open"
            assert given == open_ or not worker.told, f"{run.claim} is not told {open_ - given}"

    def _is_for(self, message: Row, task_id: str) -> bool:
        return message["delivered_at"] is None and self.truth.messages.get(message["body"]) is self.truth.tasks[task_id]

    def _hears(self, worker: FakeWorker, run: Run, messages: "list[Message] | tuple[Message, ...]") -> None:
        for message in messages:
            assert message.body.endswith(f" to {run.task.task_id}"), f"{run.claim} is told {message.body}"
            assert (message.body, run.task.fencing_token) not in self.heard, f"{run.claim} is told {message.body} twice"
            self.heard.add((message.body, run.task.fencing_token))
            run.known[message.message_id] = message.body
            worker.marks[message] = Mark(run.claim, run.converses)
            self.seen["told while it runs" if run.converses else "told at its start"] += 1

    def read_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if any(run.converses for run in w.alive_runs)], i)
        return worker and self.reading(worker)

    def reading(self, worker: FakeWorker) -> Op:
        runs = {run.claim: run for run in worker.alive_runs if run.converses}
        known = [number for run in runs.values() for number in run.known]

        async def send() -> dict[ClaimRef, list[Message]]:
            return await worker.messages.open(list(runs), known)

        def take(found: dict[ClaimRef, list[Message]], lost: bool) -> None:
            for claim, messages in {} if lost else sorted(found.items()):
                if claim in worker.runs:
                    self._hears(worker, runs[claim], messages)

        return Op("read", worker, worker.message_lane, send, take)

    def mark_op(self, i: int, k: int) -> Op | None:
        worker = self.pick([w for w in self.workers if w.marks], i)
        return worker and self.marking(worker)

    def marking(self, worker: FakeWorker) -> Op:
        marks = dict(worker.marks)

        async def send() -> None:
            await worker.messages.mark({m: (mark.claim.token, mark.delivered) for m, mark in marks.items()})

        def take(_answer: None, lost: bool) -> None:
            if self.exact:
                self._marks_were_right(marks)
            if not lost:
                worker.marks = {m: mark for m, mark in worker.marks.items() if marks.get(m) != mark}

        return Op("mark", worker, worker.message_lane, send, take)

    def _marks_were_right(self, marks: dict[Message, Mark]) -> None:
        """What a run has that is not the row's last one any more, the next run is still to be told."""
        now = self.world.picture().messages
        for message, mark in marks.items():
            was, task = self.before.messages.get(message.body), self.before.tasks.get(mark.claim.task_id)
            if was is None or task is None or was["delivered_at"] is not None:
                continue
            last = abs(task["fencing_token"] or 0) == mark.claim.token
            delivered = now[message.body]["delivered_at"] is not None
            assert delivered == (last and mark.delivered), (
                f"{message.body}, {mark}: delivered is {delivered}, {task['fencing_token']}"
            )
            self.seen["delivered"] += delivered

    @precondition(lambda self: self.truth.messages and any(r.converses for w in self.workers for r in w.alive_runs))
    @rule(i=ANY, lost=st.sampled_from([False, False, True]))
    def read_messages(self, i: int, lost: bool) -> None:
        self.do(self.read_op(i, 0), lost=lost)

    @precondition(lambda self: any(w.marks for w in self.workers))
    @rule(i=ANY, lost=st.sampled_from([False, False, True]))
    def write_down(self, i: int, lost: bool) -> None:
        self.do(self.mark_op(i, 0), lost=lost)

    def throw_back(self) -> None:
        super().throw_back()
        for worker in self.workers:
            worker.told = None

    # ── what becomes of them ────────────────────────────────────────────────────────────────────────────────────────

    def settled(self, found: SettleStep) -> int:
        self._follow_ups_are_known()
        return super().settled(found)

    def _follow_ups_are_known(self) -> None:
        """What the settler inserted: of whose messages, and that those are no others' too."""
        picture = self.world.picture()
        new = {t: r for t, r in picture.tasks.items() if t not in self.truth.tasks and t.startswith("f")}
        for task_id, row in sorted(new.items(), key=lambda item: int(item[0][1:])):
            of = row["continues"]
            bodies = [body for body, m in picture.messages.items() if m["follow_up"] == task_id]
            assert "\n\n".join(bodies) == row["task_description"], f"{task_id} says {row['task_description']}: {bodies}"
            assert row["submitted_by"] == "postgres"
            if self.exact:
                assert self.before.tasks[of]["status"] == "completed", f"{of} was not completed, and has {task_id}"
                assert not {b for b in bodies if not self._is_for(self.before.messages[b], of)}, f"{task_id}: {bodies}"
            self.truth.tasks[task_id] = TaskTruth("blocked", waits=self.next_in_line(of))
            self.truth.made[task_id] = bodies
            self.seen["message became a follow-up"] += len(bodies)

    def also_holds(self, picture: Picture) -> None:
        super().also_holds(picture)
        there = {id(task): task_id for task_id, task in self.truth.tasks.items()}
        for body, of in self.truth.messages.items():
            row, task_id = picture.messages.get(body), there.get(id(of))
            if row is None:
                assert task_id is None, f"{body} is gone"
            elif task_id is not None:
                self._message_holds(body, row, task_id, picture)
        strange = set(picture.messages) - set(self.truth.messages)
        assert not strange, f"messages from nowhere: {strange}"

    def _message_holds(self, body: str, row: Row, task_id: str, picture: Picture) -> None:
        told = (body, row["fencing_token"]) in self.heard
        assert row["fencing_token"] is None or told, f"{body}: run {row['fencing_token']} was never given it"
        if row["delivered_at"] is None:
            assert row["follow_up"] is None, f"{body} is open, and its follow-up is {row['follow_up']}"
        elif row["follow_up"] is not None:
            assert body in self.truth.made.get(row["follow_up"], ()), f"{body} is not in {row['follow_up']}"
        elif not told or self._closed(row, task_id, picture):
            assert self._closed(row, task_id, picture), f"{body} is closed, nobody was told, and no line says why"

    def _closed(self, row: Row, task_id: str, picture: Picture) -> bool:
        """Whether the trail says why, after the end of the task."""
        trail = picture.trail.get(task_id, [])[self.truth.tasks[task_id].since :]
        for number, entry in enumerate(trail):
            if entry["action_type"] == "undelivered" and row["message_id"] in entry["detail"]["messages"]:
                ends = [e["to_status"] for e in trail[:number] if e["to_status"] in FINAL]
                assert ends or self.truth.tasks[task_id].polled, f"{task_id} is not over, and {row['body']} was closed"
                was = self.before.messages.get(row["body"])
                self.seen["message closed"] += was is not None and was["delivered_at"] is None
                return True
        return False

    def left_over(self, picture: Picture) -> list[str]:
        """Open messages that no run will take."""
        tasks = {id(task): picture.tasks[task_id] for task_id, task in self.truth.tasks.items()}
        open_ = [body for body, row in picture.messages.items() if row["delivered_at"] is None]
        return [body for body in open_ if _no_run_takes(tasks.get(id(self.truth.messages[body])))]

    def nothing_is_open(self) -> None:
        """Where nothing moves any more: no message is open without a reason, and a poll says so of each that is."""
        left = self.left_over(self.world.picture())
        assert self.run(self.workers[0].settle.unsettled()) or not left, f"{left} are left over, and no poll says so"
        self.settles(self.workers[0])
        left = self.left_over(self.before)
        assert not left, f"{left} stay open"

    # ── scenes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.workers and len(self.truth.tasks) + 2 < TASKS_AT_MOST)
    @rule(
        i=ANY,
        when=st.lists(
            st.sampled_from(("before", "while it runs", "unread", "as it ends", "after")), min_size=1, max_size=3
        ),
        marked=st.booleans(),
        outcome=ENDS,
        then=st.sampled_from(("nothing", "pending", "cancelled", "completed", "delete", "answer", "runs again")),
    )
    def a_message_comes(self, i: int, when: list[str], marked: bool, outcome: OutcomeKind, then: str) -> None:
        """Before a run, in it, in its last moment, after it: and then a person, or the next run, has something to say."""
        worker = self.pick(self.workers, i)
        self.a_new_task(retries=1)
        task_id = max(
            (t for t, r in self.before.tasks.items() if r["status"] == "pending"), key=self._first, default=""
        )
        if not task_id or task_id not in self.truth.tasks:
            return
        if "before" in when:
            self.step(self.telling(task_id))
        self.is_heard(worker)
        if (run := self.claims_one(worker)) is None or run.task.task_id != task_id:
            return
        if "while it runs" in when:
            self.step(self.telling(task_id))
            if run.converses:
                self.step(self.reading(worker))
        if "unread" in when:
            self.step(self.telling(task_id))
        if marked:
            self.step(self.marking(worker))
        self.ends(worker, run, outcome)
        record = self.recording(worker, [worker.spool[run.claim]])
        if "as it ends" in when:
            self.side_by_side(self.telling(task_id), record)
            self.everything_holds()
        else:
            self.step(record)
        if "after" in when and task_id in self.truth.tasks:
            self.step(self.telling(task_id))
        if then == "runs again":
            self.settles(worker)
            self.claims_one(worker)
        elif then != "nothing" and task_id in self.truth.tasks:
            self.step(self.edit(task_id, then))
        self.settles(worker)

    def _first(self, task_id: str) -> int:
        return self.before.tasks[task_id]["task_priority"] or 0

    @precondition(lambda self: self.workers and len(self.truth.tasks) + 2 < TASKS_AT_MOST)
    @rule(
        i=ANY,
        j=ANY,
        outcome=ENDS,
        what=st.lists(st.sampled_from(("is settled", "is claimed", "cancelled", "delete", "pending")), max_size=2),
        again=st.booleans(),
    )
    def a_message_is_written_for_long(self, i: int, j: int, outcome: OutcomeKind, what: list[str], again: bool) -> None:
        """Its transaction stays open while the run ends, and while more is done to the task. Then the id may come again."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        task_id = run.task.task_id
        other = self.another(worker, j)
        self.step(self.telling(task_id))
        telling = self.telling(task_id)
        answer = self.run(self.world.open(self.world.teller, telling.send))
        self.ends(worker, run, outcome)
        self.step(self.recording(worker, [worker.spool[run.claim]]))
        for one in what:
            if one == "is settled":
                self.settles(other)
            elif one == "is claimed":
                self.step(self.claiming(other, run.task.queue, 3))
            elif task_id in self.truth.tasks:
                self.step(self.edit(task_id, one))
        if again and task_id in self.truth.deleted:
            self.inserted(task_id, None, 99, run.task.queue)
            self.everything_holds()
        self.run(self.world.teller.end())
        self.exact = False
        telling.take(answer, False)
        self.everything_holds()
        self.claims_one(other)
        self.settles(other)

    @precondition(lambda self: self.workers)
    @rule(i=ANY, j=ANY, one=st.sampled_from(("tell", "read", "mark")), two=st.integers(0, 4), first=st.booleans())
    def a_message_meets_another_statement(self, i: int, j: int, one: str, two: int, first: bool) -> None:
        """One of the two is carried out and not committed while the other begins."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        other = self.another(worker, j)
        self.step(self.telling(run.task.task_id))
        if run.converses:
            self.step(self.reading(worker))
        if two == 4:
            self.silence(worker, BEATS_TO_DEATH)
        self.ends(worker, run, OutcomeKind.SUCCEEDED)
        makers = (
            lambda: self.recording(worker, [worker.spool[run.claim]]),
            lambda: self.edit(run.task.task_id, "cancelled"),
            lambda: self.settling(other, "left_over"),
            lambda: self.comparing(worker),
            lambda: self.rescuing(other),
        )
        if two == 2:
            self.step(makers[0]())
        that = {"tell": lambda: self.telling(run.task.task_id), "read": lambda: self.reading(worker)}.get(
            one, lambda: self.marking(worker)
        )()
        this = makers[two]()
        self.side_by_side(*((that, this) if first else (this, that)))
        self.everything_holds()
        if two == 4:
            self._is_claimed_meanwhile(worker, other)

    def _is_claimed_meanwhile(self, worker: FakeWorker, other: FakeWorker) -> None:
        """Another worker has its task by now; then it writes down what its own run was told."""
        self.time_passes(70)
        self.is_heard(other)
        self.step(self.sweeping(other))
        self.step(self.claiming(other, QUEUES[0], 3))
        if worker.marks:
            self.step(self.marking(worker))

    @precondition(lambda self: self.workers and len(self.truth.tasks) + 2 < TASKS_AT_MOST)
    @rule(
        i=ANY, kept=st.sampled_from(("the run", "the message", "the mark", "the end")), then=ENDS, another=st.booleans()
    )
    def a_failover_loses_a_message(self, i: int, kept: str, then: OutcomeKind, another: bool) -> None:
        """The standby had `kept`, and not what came after. Numbers of messages come again."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        if kept == "the run":
            self.the_standby_catches_up()
        self.step(self.telling(run.task.task_id))
        if kept == "the message":
            self.the_standby_catches_up()
        if run.converses:
            self.step(self.reading(worker))
        if kept != "the run":
            self.step(self.marking(worker))
        if kept == "the mark":
            self.the_standby_catches_up()
        self.ends(worker, run, then)
        if kept != "the run":
            self.step(self.recording(worker, [worker.spool[run.claim]]))
        if kept == "the end":
            self.the_standby_catches_up()
        self.settles(worker)
        self.throw_back()
        self.everything_holds()
        if another and run.task.task_id in self.truth.tasks:
            self.do(self.telling(run.task.task_id))
            self.everything_holds()
        if worker.marks:
            self.step(self.marking(worker))
        if worker.spool:
            self.step(self.recording(worker, list(worker.spool.values())))
        self.replays(worker)
        self.settles(worker)


def _no_run_takes(row: Row | None) -> bool:
    return (
        row is None or row["status"] == "completed" or (row["status"] == "cancelled" and row["failure_kind"] != "needs")
    )
