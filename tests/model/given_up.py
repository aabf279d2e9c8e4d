"""A run that the fleet has given up, while its program lives on: what becomes of the task meanwhile, and what is made of
the worker's late word about it."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, FakeWorker, Run
from tests.model.people import ANY
from tests.model.stage import Stage
from tests.model.work import OUTCOMES
from turbo.outcome import OutcomeKind

SINCE = st.sampled_from(("nothing", "edited", "edited", "edited", "claimed", "failed", "released"))
"""What happened to the task since: an edit by hand, or another worker's run of it and that run's end."""
EDITS = st.sampled_from(("pending", "pending", "pending", "cancelled", "completed", "failed", "later", "delete"))


class GivenUp(Stage):
    @precondition(lambda self: self.workers)
    @rule(i=ANY, since=SINCE, edit=EDITS, outcome=st.sampled_from(OUTCOMES), infra=st.sampled_from([0, 4]))
    def its_result_comes_late(self, i: int, since: str, edit: str, outcome: OutcomeKind, infra: int) -> None:
        if (found := self.starts_one(i, retries=1, infra=infra)) is None:
            return
        worker, run = found
        self.goes_on_without(run, self.is_taken_from(worker, i), since, edit)
        self.ends(worker, run, outcome)
        self.step(self.recording(worker, [worker.spool[run.held]]))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, since=SINCE, edit=EDITS, forgotten=st.sampled_from([False, False, True]))
    def its_worker_compares(self, i: int, since: str, edit: str, forgotten: bool) -> None:
        """`forgotten`: a failover lost the claim; else its worker was silent for too long."""
        worker = self.pick(self.workers, i)
        self.a_new_task(retries=1)
        self.is_heard(worker)
        if forgotten:
            self.the_standby_catches_up()
        if (run := self.claims_one(worker)) is None:
            return
        if forgotten:
            self.throw_back()
            self.everything_holds()
            other = self.another(worker, i)
        else:
            other = self.is_taken_from(worker, i)
        self.goes_on_without(run, other, since, edit)
        self.is_heard(worker)
        self.step(self.comparing(worker))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, since=SINCE, edit=EDITS, delay=st.sampled_from([0.0, 60.0]))
    def its_worker_gives_it_back(self, i: int, since: str, edit: str, delay: float) -> None:
        if (found := self.starts_one(i, retries=1)) is None:
            return
        worker, run = found
        self.goes_on_without(run, self.is_taken_from(worker, i), since, edit)
        self.step(self.releasing(worker, run, delay))

    def goes_on_without(self, run: Run, other: FakeWorker, since: str, edit: str) -> None:
        task_id = run.task.task_id
        if since == "edited":
            self.step(self.edit(task_id, edit))
        elif since != "nothing":
            self.time_passes(70)
            self.step(self.sweeping(other))
            self.step(self.claiming(other, QUEUES[0], 3))
            again = next((r for r in other.alive_runs if r.task.task_id == task_id), None)
            if again is None:
                return
            if since == "failed":
                self.ends(other, again, OutcomeKind.FAILED)
                self.step(self.recording(other, [other.spool[again.held]]))
            elif since == "released":
                self.step(self.releasing(other, again))
