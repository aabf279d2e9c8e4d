"""What people ask of a task that runs, and how its run then ends."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.given_up import GivenUp
from tests.model.people import ANY
from turbo.outcome import OutcomeKind

ASKED = ("cancelled", "cancelled", "later", "later", "later", "pending", "completed", "failed", "put off", "delete")


class Asked(GivenUp):
    @precondition(lambda self: self.workers)
    @rule(
        i=ANY,
        what=st.sampled_from(ASKED),
        end=st.sampled_from(("fails", "fails", "succeeds", "is released", "is taken")),
    )
    def somebody_asks(self, i: int, what: str, end: str) -> None:
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        self.step(self.edit(run.task.task_id, what))
        if end == "is released":
            self.step(self.releasing(worker, run))
        elif end == "is taken":
            self.is_taken_from(worker, i)
        else:
            self.ends(worker, run, OutcomeKind.FAILED if end == "fails" else OutcomeKind.SUCCEEDED)
            self.step(self.recording(worker, [worker.spool[run.held]]))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, what=st.sampled_from((None, None, *ASKED)), compared=st.booleans())
    def nobody_knows_of_a_claim(self, i: int, what: str | None, compared: bool) -> None:
        """Its answer is lost on the wire."""
        worker = self.pick(self.workers, i)
        self.a_new_task()
        self.is_heard(worker)
        self.claims_one(worker, lost=True)
        mine = [t for t, r in self.before.tasks.items() if r["assigned_worker_id"] == worker.id]
        if what is not None and mine:
            self.step(self.edit(self.pick(mine, i), what))
        if compared:
            self.step(self.comparing(worker))
