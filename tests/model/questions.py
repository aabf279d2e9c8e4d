"""A run asks, and what becomes of its question: answered once or twice, expired, let go on by hand, or lost by a failover."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import SECOND, FakeWorker, Run
from tests.model.people import ANY
from tests.model.refused import Refused
from turbo.domain.outcome import OutcomeKind

THEN = st.sampled_from(("proceed", "deny", "fail"))
SINCE = st.sampled_from(
    ("answer", "answer", "answer", "also answer", "expires", "pending", "later", "hold", "cancelled", "put off")
)


class Questions(Refused):
    def asks(self, worker: FakeWorker, run: Run, within: float | None = None, then: str = "proceed") -> None:
        text = f"{run.task.task_id} {run.task.fencing_token}?"
        question = {"kind": "question", "text": text, "then": then}
        self.ends(worker, run, OutcomeKind.ASKED, question=question, answer_within=within)
        self.step(self.recording(worker, [worker.spool[run.claim]]))

    @precondition(lambda self: self.workers)
    @rule(i=ANY, then=THEN, rounds=st.lists(st.tuples(SINCE, st.booleans()), min_size=1, max_size=3))
    def a_run_asks(self, i: int, then: str, rounds: list[tuple[str, bool]]) -> None:
        """Again and again. After each answer and each claim its old results are sent once more."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        task_id = run.task.task_id
        for what, replayed in rounds:
            self.asks(worker, run, 30 * SECOND, then)
            if what == "expires":
                self.is_heard(worker)
                self.step(self.sweeping(worker))  # too early
                self.time_passes(35)
                self.is_heard(worker)
                self.step(self.sweeping(worker))
                self.seen["expired"] += 1
            elif task_id in self.truth.tasks:
                self.step(self.edit(task_id, what))
            if replayed:
                self.replays(worker)
            again = self.claims_one(worker)
            if replayed:
                self.replays(worker)
            if again is None or again.task.task_id != task_id:
                return
            run = again

    def replays(self, worker: FakeWorker) -> None:
        for result in list(worker.done.values()):
            self.before = self.world.picture()
            self.exact = True
            self.recorded(None, [result], self.run(worker.stores.results.finish([result])), False)
            self.everything_holds()

    @precondition(lambda self: self.workers)
    @rule(
        i=ANY,
        kept=st.sampled_from(("the run", "the question", "the answer")),
        then=st.sampled_from(("compares", "succeeds", "asks", "fails", "replays", "is asked again")),
    )
    def a_failover_loses_a_wait(self, i: int, kept: str, then: str) -> None:
        """The standby had `kept`, and not what came after it. The run that was given the answer goes on."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        task_id = run.task.task_id
        if kept == "the run":
            self.the_standby_catches_up()
        self.asks(worker, run)
        if kept == "the question":
            self.the_standby_catches_up()
        self.step(self.edit(task_id, "answer"))
        if kept == "the answer":
            self.the_standby_catches_up()
        again = self.claims_one(worker)
        if again is None or again.task.task_id != task_id:
            return
        self.throw_back()
        self.everything_holds()
        if then == "replays":
            self.replays(worker)
        elif then == "is asked again":
            self.replays(worker)
            if self.before.tasks[task_id]["status"] == "waiting":
                self.step(self.edit(task_id, "also answer"))
        if then in ("compares", "replays", "is asked again"):
            self.is_heard(worker)
            self.step(self.comparing(worker))
        elif then == "asks":
            self.asks(worker, again)
        else:
            self.ends(worker, again, OutcomeKind.SUCCEEDED if then == "succeeds" else OutcomeKind.FAILED)
            self.step(self.recording(worker, [worker.spool[again.claim]]))
