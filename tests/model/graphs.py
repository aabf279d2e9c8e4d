"""Tasks that need others, and follow-ups: inserted at any moment, tied, settled and let go by any worker, in any order."""

import operator

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, FakeWorker, Op, Run
from tests.model.people import ANY, TASKS_AT_MOST
from tests.model.questions import Questions
from tests.model.truth import QUEUED, TaskTruth
from tests.model.waits import Need, Waits
from tests.model.world import Picture
from turbo.db.settle_store import SettleStep
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import FINAL

MODES = st.sampled_from(("cancel", "cancel", "run", "wait"))
STEPS = ("place", "tie", "settle", "left_over")
PASSES = 40
"""Of a settler, until nothing moves: more would be for ever."""


class Graphs(Questions):
    patient = True
    """Whether less than 30 days have passed since a need failed."""

    # ── what people insert ──────────────────────────────────────────────────────────────────────────────────────────

    def insert_needing(self, needs: list[str], mode: str, queue: str = QUEUES[0], *, held: bool = False) -> str | None:
        """A task that needs these. None: one of them is gone."""
        return self._insert_work(
            "needs, on_needs_failed, queue, status", [needs, mode, queue, "waiting" if held else "pending"],
            Waits({need: Need(mode, self.truth.tasks[need]) for need in needs}), held=held,
        )  # fmt: skip

    def insert_follow_up(self, of: str) -> str | None:
        return self._insert_work("continues", [of], self.next_in_line(of))

    def next_in_line(self, of: str) -> Waits:
        """What a new follow-up of that task waits for."""
        before = self.truth.tasks[of]
        line = before if before.waits.line is None else before.waits.line
        turn = 1 + max((t.waits.turn for t in self.truth.tasks.values() if t.waits.line is line), default=0)
        return Waits(line=line, turn=turn)

    def _insert_work(self, columns: str, values: list[object], waits: Waits, *, held: bool = False) -> str | None:
        self.numbers += 1
        task_id = f"t{self.numbers}"
        try:
            self.world.admin.execute(
                f"insert into public.agent_tasks (task_id, task_description, max_retries, {columns})"
                f" values (%s, 'x', 0, {', '.join(['%s'] * len(values))})",
                [task_id, *values],
            )
        except psycopg.errors.ForeignKeyViolation:  # it never ran, and never will: there is no conversation
            self.seen["no conversation to go on with"] += 1
            return None
        self.truth.tasks[task_id] = TaskTruth("waiting" if held else "blocked", waits=waits)
        self.everything_holds()
        return task_id

    @precondition(lambda self: self.truth.tasks and len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(
        i=ANY,
        j=ANY,
        mode=MODES,
        queue=st.sampled_from([QUEUES[0], *QUEUES]),
        held=st.sampled_from([False, False, True]),
    )
    def a_task_needs_others(self, i: int, j: int, mode: str, queue: str, held: bool) -> None:
        there = sorted(self.truth.tasks)
        self.insert_needing(sorted({self.pick(there, i), self.pick(there, j)}), mode, queue, held=held)

    @precondition(lambda self: self.truth.tasks and len(self.truth.tasks) < TASKS_AT_MOST)
    @rule(i=ANY, of=st.sampled_from(("running", "completed", "blocked", "pending")))
    def a_follow_up_comes(self, i: int, of: str) -> None:
        such = [t for t, r in self.before.tasks.items() if r["status"] == of and t in self.truth.tasks]
        self.insert_follow_up(self.pick(such or sorted(self.truth.tasks), i))

    # ── the settler ─────────────────────────────────────────────────────────────────────────────────────────────────

    def settle_op(self, i: int, k: int) -> Op | None:
        worker = self.pick(self.workers, i)
        return worker and self.settling(worker, STEPS[k % len(STEPS)])

    def settling(self, worker: FakeWorker, step: str) -> Op:
        async def send() -> SettleStep:
            return await getattr(worker.settle, step)()  # type: ignore[no-any-return]

        def take(found: SettleStep, _lost: bool) -> None:
            self.settled(found)

        return Op(step, worker, worker.results, send, take)

    def settled(self, found: SettleStep) -> int:
        self.seen["let go"] += found.released
        self.seen["cancelled by a need"] += found.cancelled
        return found.moved

    @precondition(lambda self: self.workers)
    @rule(i=ANY, k=ANY)
    def settle_a_step(self, i: int, k: int) -> None:
        self.do(self.settle_op(i, k))

    @precondition(lambda self: self.workers)
    @rule(i=ANY)
    def settle_all(self, i: int) -> None:
        if (worker := self.pick(self.workers, i)) is not None:
            self.settles(worker)

    def settles(self, worker: FakeWorker) -> None:
        for _ in range(PASSES):
            self.exact = True
            moved = 0
            for step in STEPS:
                found = self.settled(self.run(getattr(worker.settle, step)()))
                if found:
                    self.everything_holds()
                moved += found
            if not moved:
                return
        raise AssertionError("the settler never comes to rest")

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────────

    def also_holds(self, picture: Picture) -> None:
        running: dict[int, str] = {}
        for task_id, row in picture.tasks.items():
            task = self.truth.tasks[task_id]
            if row["status"] == "running" and row["conversation"] is not None:
                other = running.setdefault(row["conversation"], task_id)
                assert other == task_id, f"{other} and {task_id} both run in conversation {row['conversation']}"
            if task.waits.any:
                self._waits_hold(task_id, task, picture)
        self._counts_hold(picture)

    def _waits_hold(self, task_id: str, task: TaskTruth, picture: Picture) -> None:
        trail = picture.trail.get(task_id, [])
        new = trail[max(task.since, len(self.before.trail.get(task_id, []))) :]
        waits = task.waits
        waits.touched = waits.touched or any(e["action_type"] in ("edited", "answered") for e in new)
        # One that is put back because of an older worker was let go, and waits for nothing but that worker's end.
        if any(
            e["to_status"] == "blocked" and (e["action_type"], e["from_status"]) != ("blocked", "pending") for e in new
        ):
            waits.begin_again(self.truth.tasks, by_hand=waits.touched)
        waits.look(picture.tasks, self.truth.tasks)
        for entry in new:
            if entry["action_type"] == "unblocked" and not waits.let_go:
                assert not waits.unmet(), f"{task_id} is let go, and {waits.unmet()} is not met"
                self._in_turn(task_id, task, picture)
                waits.let_go = True
                self.seen["in turn"] += waits.line is not None
            elif entry["action_type"] == "needs_failed":
                failed = waits.failed(patient=self.patient)
                assert failed or waits.line is not None, f"{task_id} is cancelled, and nothing it needs failed"

    def _in_turn(self, task_id: str, task: TaskTruth, picture: Picture) -> None:
        """Follow-ups that no person touched are let go in their order: back to one that a person let run, which the next go on from.
        If the first task is deleted before they have their places, each goes on alone."""
        if task.waits.line is None or task.waits.touched:
            return
        line = [(t.waits.turn, name, t) for name, t in self.truth.tasks.items() if t.waits.line is task.waits.line]
        if not any(first is task.waits.line for first in self.truth.tasks.values()):
            number = picture.tasks[task_id]["conversation"]
            line = [one for one in line if picture.tasks[one[1]]["conversation"] == number]
        for turn, other_id, other in sorted(line, reverse=True, key=operator.itemgetter(0)):
            if turn < task.waits.turn and other.waits.touched and other.claims:
                return
            if turn < task.waits.turn and not other.waits.touched:
                status = picture.tasks[other_id]["status"]
                assert status in FINAL, f"{task_id} is let go, and {other_id}, which came before it, is {status}"

    def _counts_hold(self, picture: Picture) -> None:
        """Of each task that waits, and that no note speaks of, the count is that of the needs that are still open."""
        for task_id, row in picture.tasks.items():
            if row["status"] != "blocked" or task_id in picture.notes:
                continue
            count = picture.counts.get(task_id)
            assert count is not None, f"{task_id} waits, and nobody counts for what"
            if count["failed_need"] is None:
                left = [e["needs"] for e in picture.edges.get(task_id, []) if not e["settled"]]
                assert count["needs_left"] == len(left), f"{task_id}: {count['needs_left']} needs left, open are {left}"
                needs = self.truth.tasks[task_id].waits.needs
                gone = [
                    n for n in left if n not in picture.tasks or (n in needs and needs[n].gone and not needs[n].either)
                ]
                assert not gone, f"{task_id} waits for {gone}, which are gone"

    # ── scenes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.workers)
    @rule(
        i=ANY,
        j=ANY,
        mode=MODES,
        outcome=st.sampled_from((OutcomeKind.SUCCEEDED, OutcomeKind.FAILED)),
        order=st.permutations(("ends", "tie", "settle")),
        then=st.sampled_from(
            ("nothing", "is retried", "is deleted", "runs by hand", "is completed", "waits for nothing")
        ),
    )
    def a_need_ends(self, i: int, j: int, mode: str, outcome: OutcomeKind, order: list[str], then: str) -> None:
        """Its end, the tie and the settling in every order; then a person has something to say."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        need = run.task.task_id
        other = self.pick(sorted(self.truth.tasks), j)
        if (
            len(self.truth.tasks) >= TASKS_AT_MOST
            or (task_id := self.insert_needing(sorted({need, other}), mode)) is None
        ):
            return
        for what in order:
            if what == "ends":
                self.ends(worker, run, outcome)
                self.step(self.recording(worker, [worker.spool[run.claim]]))
            else:
                self.step(self.settling(worker, what))
        if then == "runs by hand":
            self.step(self.edit(task_id, "pending"))
        elif then == "waits for nothing":
            self.step(self.edit(task_id, "needs nothing"))
        elif then != "nothing" and need in self.truth.tasks:
            self.step(self.edit(need, {"is retried": "pending", "is deleted": "delete"}.get(then, "completed")))
        self.settles(worker)

    @precondition(lambda self: len(self.workers) > 1 and len(self.truth.tasks) + 3 <= TASKS_AT_MOST)
    @rule(
        i=ANY,
        j=ANY,
        how=st.sampled_from(("in turn", "by hand", "first once more")),
        outcome=st.sampled_from(OutcomeKind),
    )
    def a_conversation_goes_on(self, i: int, j: int, how: str, outcome: OutcomeKind) -> None:
        """Two follow-ups beside a run. One is set to pending by hand; or the first task is retried while a follow-up runs."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        first = run.task.task_id
        one, two = self.insert_follow_up(first), self.insert_follow_up(first)
        if one is None or two is None:
            return
        if how == "by hand":
            self.step(self.edit(two, "pending"))
            self._claims_all(worker)
        self.settles(worker)
        self._claims_all(self.another(worker, j))
        if outcome in (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED):
            self.ends(worker, run, outcome)
            self.step(self.recording(worker, [worker.spool[run.claim]]))
            self.settles(worker)
        self._claims_all(worker)
        if how == "first once more" and self.before.tasks[first]["status"] in FINAL:
            self.step(self.edit(first, "pending"))
            self._claims_all(worker)

    def _claims_all(self, worker: FakeWorker) -> None:
        self.is_heard(worker)
        for limit in (3, 3):
            self.step(self.claiming(worker, QUEUES[0], limit))

    @precondition(lambda self: self.workers and len(self.truth.tasks) + 2 <= TASKS_AT_MOST)
    @rule(
        i=ANY,
        kept=st.sampled_from(("the run", "the end", "the tie")),
        then=st.sampled_from(("compares", "succeeds", "settles")),
    )
    def a_failover_loses_a_release(self, i: int, kept: str, then: str) -> None:
        """The standby had `kept`, and not what came after: a task that was let go waits again, and perhaps runs."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        task_id = self.insert_needing([run.task.task_id], "cancel")
        if task_id is None:
            return
        if kept == "the tie":
            self.step(self.settling(worker, "tie"))
            self.the_standby_catches_up()
        elif kept == "the run":
            self.the_standby_catches_up()
        self.ends(worker, run, OutcomeKind.SUCCEEDED)
        self.step(self.recording(worker, [worker.spool[run.claim]]))
        if kept == "the end":
            self.the_standby_catches_up()
        self.settles(worker)
        self.world.past_the_triggers("update public.agent_tasks set task_priority = 999 where task_id = %s", task_id)
        self.everything_holds()
        again = self.claims_one(worker)
        self.throw_back()
        self.everything_holds()
        if again is not None and again.claim in worker.runs:
            self._ends_after_the_failover(worker, again, then)
        self.settles(worker)
        if task_id in self.truth.tasks and not self.before.edges.get(task_id):
            for need in self.truth.tasks[task_id].waits.needs.values():
                need.untied = True

    def _ends_after_the_failover(self, worker: FakeWorker, run: Run, then: str) -> None:
        if then == "compares":
            self.is_heard(worker)
            self.step(self.comparing(worker))
        elif then == "succeeds":
            self.ends(worker, run, OutcomeKind.SUCCEEDED)
            self.step(self.recording(worker, [worker.spool[run.claim]]))

    def nobody_waits_for_nothing(self) -> None:
        """Where nothing moves any more: who is blocked waits for one that is not over, or for the retry of one that failed."""
        rows = self.before.tasks
        for task_id, row in rows.items():
            if row["status"] == "blocked":
                left = [e for e in self.before.edges.get(task_id, []) if not e["settled"]]
                waits = any(
                    rows[e["needs"]]["status"] not in FINAL
                    or (e["mode"] == "wait" and rows[e["needs"]]["status"] != "completed")
                    for e in left
                )
                assert waits, f"{task_id} is blocked by nothing: {left}, of {self.before.edges.get(task_id)}"

    def rests(self) -> bool:
        """Nothing is queued, and nothing runs: who waits now, waits for somebody to do something."""
        return all(r["status"] not in (*QUEUED, "running") for r in self.before.tasks.values())
