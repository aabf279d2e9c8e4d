"""What scenes are made of. A scene is a short interleaving that a random walk would hardly find; it is drawn, mixed and
judged like any other step."""

import psycopg

from tests.model.failover import Failover
from tests.model.fleet import QUEUES, FakeWorker, Op, Run
from tests.model.leases import BEATS_TO_DEATH
from turbo.domain.states import FINAL

TASKS_OF_SCENES = 16


class Stage(Failover):
    def step(self, op: Op | None, *, lost: bool = False) -> None:
        self.do(op, lost=lost)
        self.everything_holds()

    def side_by_side(self, one: Op, two: Op) -> None:
        self.exact = False
        try:
            answers = self.run(self.world.interleaved(one.send, one.lane, two.send))
        except psycopg.errors.DeadlockDetected:
            raise AssertionError(f"{one.name} and {two.name} wait for each other") from None
        one.take(answers[0], False)
        two.take(answers[1], False)
        self.seen["two at once"] += 1

    def is_heard(self, worker: FakeWorker) -> None:
        self.beats(worker)
        self.everything_holds()

    def another(self, worker: FakeWorker, i: int = 0) -> FakeWorker:
        """Somebody else, and alive."""
        if None in self.slots:
            self.restart(i)
            self.everything_holds()
        other: FakeWorker = self.pick([w for w in self.workers if w is not worker], i)
        self.is_heard(other)
        return other

    def a_new_task(self, retries: int = 0, infra: int = 0, key: str | None = None, queue: str = QUEUES[0]) -> None:
        """One that goes first, and nobody stands in its way; where there is no room for another, an old one once more."""
        if queue in self.before.paused:
            self.pause(queue)
        first = 10 + self.numbers
        if len(self.truth.tasks) < TASKS_OF_SCENES:
            self.insert(key, first, queue, 0, retries, infra)
        elif over := [t for t, r in self.before.tasks.items() if r["status"] in FINAL and r["queue"] == queue]:
            self.numbers += 1
            self.do(self.edit(over[0], "pending"))
            self.world.past_the_triggers(
                "update public.agent_tasks set task_priority = %s where task_id = %s", first, over[0]
            )
            self.has_seen_bad_days(over[0], infra)
        self.everything_holds()

    def claims_one(self, worker: FakeWorker, *, lost: bool = False) -> Run | None:
        known = set(worker.runs)
        self.step(self.claiming(worker, QUEUES[0], 1), lost=lost)
        return next((run for held, run in worker.runs.items() if held not in known), None)

    def starts_one(self, i: int, retries: int = 0, infra: int = 0) -> tuple[FakeWorker, Run] | None:
        """Some worker runs some task."""
        worker = self.pick(self.workers, i)
        if worker is None:
            return None
        self.a_new_task(retries, infra)
        self.is_heard(worker)
        run = self.claims_one(worker)
        return None if run is None else (worker, run)

    def is_taken_from(self, worker: FakeWorker, i: int) -> FakeWorker:
        """A worker is silent for longer than its lease, and another takes its tasks back."""
        other = self.another(worker, i)
        self.silence(worker, BEATS_TO_DEATH)
        self.step(self.rescuing(other))
        return other
