"""A run that the fleet has given up, while its program lives on: what becomes of the task meanwhile, and what is made of
the worker's late word about it."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, SECOND, FakeWorker, Run
from tests.model.people import ANY
from tests.model.stage import Stage
from tests.model.work import OUTCOMES
from turbo.domain.outcome import OutcomeKind

SINCE = st.sampled_from(("nothing", "edited", "edited", "edited", "replaced", "claimed", "failed", "released"))
"""What happened to the task since: an edit by hand, another row under its id, or another worker's run of it and that run's end."""
EDITS = st.sampled_from(("pending", "pending", "pending", "cancelled", "completed", "failed", "later", "delete"))


Fate = tuple[str, str]
FATES = st.lists(st.tuples(SINCE, EDITS), min_size=2, max_size=3)


class GivenUp(Stage):
    @precondition(lambda self: self.workers)
    @rule(i=ANY, fates=FATES, outcome=st.sampled_from(OUTCOMES), infra=st.sampled_from([0, 4]))
    def results_come_late(self, i: int, fates: list[Fate], outcome: OutcomeKind, infra: int) -> None:
        worker, runs = self.are_given_up(i, fates, infra=infra)
        for run in runs:
            self.ends(worker, run, outcome)
            self.step(self.recording(worker, [worker.spool[run.claim]]))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, fates=FATES, forgotten=st.sampled_from([False, False, True]))
    def a_worker_comes_back_and_compares(self, i: int, fates: list[Fate], forgotten: bool) -> None:
        worker, _ = self.are_given_up(i, fates, forgotten=forgotten)
        self.is_heard(worker)
        self.step(self.comparing(worker))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, fates=FATES, delay=st.sampled_from([0.0, 60 * SECOND]))
    def a_worker_comes_back_and_releases(self, i: int, fates: list[Fate], delay: float) -> None:
        worker, runs = self.are_given_up(i, fates)
        for run in runs:
            self.step(self.releasing(worker, run, delay))

    def are_given_up(
        self, i: int, fates: list[Fate], *, infra: int = 0, forgotten: bool = False
    ) -> tuple[FakeWorker, list[Run]]:
        """Runs of one worker that was silent for too long, or (`forgotten`) whose claims a failover lost; each has its
        fate."""
        worker: FakeWorker = self.pick(self.workers, i)
        for _ in fates:
            self.a_new_task(retries=1, infra=infra)
        self.is_heard(worker)
        if forgotten:
            self.the_standby_catches_up()
        runs = [run for _ in fates if (run := self.claims_one(worker)) is not None]
        if forgotten:
            self.throw_back()
            self.everything_holds()
            other = self.another(worker, i)
        else:
            other = self.is_taken_from(worker, i)
        for run, (since, edit) in zip(runs, fates, strict=False):
            self.goes_on_without(run, other, since, edit)
        return worker, runs

    def goes_on_without(self, run: Run, other: FakeWorker, since: str, edit: str) -> None:
        task_id = run.task.task_id
        if since == "edited" and task_id in self.truth.tasks:
            self.step(self.edit(task_id, edit))
        elif since == "replaced" and task_id in self.truth.tasks:
            self.step(self.edit(task_id, "delete"))
            if task_id in self.truth.deleted:
                self.inserted(task_id, None, 9, QUEUES[0])
                self.everything_holds()
        elif since not in ("nothing", "edited", "replaced"):
            self.time_passes(70)
            self.step(self.sweeping(other))
            self.step(self.claiming(other, QUEUES[0], 3))
            again = next((r for r in other.alive_runs if r.task.task_id == task_id), None)
            if again is None:
                return
            if since == "failed":
                self.ends(other, again, OutcomeKind.FAILED)
                self.step(self.recording(other, [other.spool[again.claim]]))
            elif since == "released":
                self.step(self.releasing(other, again))
