"""A worker of which the new primary has never heard, while it runs what it claimed from the old one."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.asked import Asked
from tests.model.people import ANY
from turbo.domain.outcome import OutcomeKind

THEN = ("is heard", "is heard", "dies", "dies for good")


class Forgotten(Asked):
    @precondition(lambda self: self.workers)
    @rule(i=ANY, then=st.sampled_from(("fails", "is released", "is late")))
    def a_claim_is_forgotten(self, i: int, then: str) -> None:
        """Its worker takes it back, and gives it up; then it is claimed with a token of the sequence that went back. Or
        another worker is first, and gives it up before the success of the first comes in."""
        worker = self.pick(self.workers, i)
        self.a_new_task(retries=1)
        self.is_heard(worker)
        self.the_standby_catches_up()
        if (run := self.claims_one(worker)) is None:
            return
        self.throw_back()
        self.everything_holds()
        if then == "is late":
            other = self.another(worker, i)
            if (again := self.claims_one(other)) is not None:
                self.step(self.releasing(other, again))
            self.ends(worker, run, OutcomeKind.SUCCEEDED)
            self.step(self.recording(worker, [worker.spool[run.claim]]))
            return
        self.step(self.comparing(worker))
        if run.claim not in worker.runs:
            return
        if then == "fails":
            self.ends(worker, run, OutcomeKind.FAILED)
            self.step(self.recording(worker, [worker.spool[run.claim]]))
            self.step(self.sweeping(worker))
        else:
            self.step(self.releasing(worker, run))
        self.claims_one(worker)

    @precondition(lambda self: self.workers)
    @rule(i=ANY, pruned=st.sampled_from([True, True, False]), then=st.sampled_from(THEN))
    def a_registration_is_forgotten(self, i: int, pruned: bool, then: str) -> None:
        """It takes its claim back before its next beat, and so before it registers again."""
        before = self.pick(self.workers, i)
        self.dies(before, False)
        self.a_new_task()
        self.the_standby_catches_up()
        worker = self.start(before.slot)
        self.everything_holds()
        if self.claims_one(worker) is None:
            return
        self.throw_back()
        self.everything_holds()
        self.step(self.comparing(worker))
        other = self.another(worker, i)
        if pruned:
            self.run(other.stores.registry.prune())
            self.everything_holds()
        if then == "is heard":
            self.is_heard(worker)
        else:
            self.dies(worker, then == "dies for good")
