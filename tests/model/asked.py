"""What people ask of a task that runs, and how its run then ends."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.given_up import GivenUp
from tests.model.people import ANY
from turbo.domain.outcome import OutcomeKind

ASKED = (
    None,
    None,
    "cancelled",
    "cancelled",
    "later",
    "later",
    "later",
    "pending",
    "completed",
    "failed",
    "put off",
    "delete",
)
ENDS = {
    "fails": OutcomeKind.FAILED,
    "fails again": OutcomeKind.FAILED,
    "succeeds": OutcomeKind.SUCCEEDED,
    "succeeds again": OutcomeKind.SUCCEEDED,
    "breaks": OutcomeKind.INFRASTRUCTURE,
    "breaks again": OutcomeKind.INFRASTRUCTURE,
    "asks": OutcomeKind.ASKED,
    "is released": None,
    "is taken": None,
}


class Asked(GivenUp):
    @precondition(lambda self: self.workers)
    @rule(
        i=ANY,
        infra=st.sampled_from([0, 4]),
        runs=st.lists(st.tuples(st.sampled_from(ASKED), st.sampled_from(list(ENDS))), min_size=2, max_size=3),
    )
    def somebody_asks(self, i: int, infra: int, runs: list[tuple[str | None, str]]) -> None:
        for what, end in runs:
            if (found := self.starts_one(i, infra=infra)) is None:
                return
            worker, run = found
            if what is not None:
                self.step(self.edit(run.task.task_id, what))
            if (outcome := ENDS[end]) is not None:
                self.ends(worker, run, outcome)
                self.step(self.recording(worker, [worker.spool[run.claim]]))
            elif end == "is released":
                self.step(self.releasing(worker, run))
            else:
                self.is_taken_from(worker, i)

    @precondition(lambda self: self.workers)
    @rule(i=ANY, what=st.sampled_from(ASKED), compared=st.booleans())
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
