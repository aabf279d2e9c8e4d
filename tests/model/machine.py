"""A small fleet against the real database, in every order of events that hypothesis can think of.

Three workers on two hosts, a handful of tasks, people who edit rows, an old poller, a standby that lags behind. Every
statement is turbo's own, sent through `turbo/db/claim_store.py`. After every step `truth.look` and `_runs_are_ours` must hold, every
answer is judged, and at the end, with all faults over, every task must come to an end.
"""

import sys
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.model.fleet import HOSTS, FakeWorker
from tests.model.placement import Placement
from turbo.domain.outcome import OutcomeKind
from turbo.domain.states import FINAL, RescueReason

SETTLE_ROUNDS = 14
FIRST = ((None, 1, "default", 0, 4), (None, 9, "default", 1, 0), ("a", 5, "default", 0, 0), ("a", 5, "other", 0, 0))
"""The first tasks, so that every history has something to do: key, priority, queue, max_retries, infra_count."""


class Fleet(Placement):
    """`world` is set by whoever runs it. A failure says what was wrong, and hypothesis prints the steps."""

    @initialize(late=st.booleans())
    def start_all(self, late: bool) -> None:
        if late:
            self.the_standby_catches_up()  # with no worker registered, and no task
        for key, priority, queue, retries, infra in FIRST:
            self.insert(key, priority, queue, 0, retries, infra)
        for slot in range(len(HOSTS)):
            self.start(slot)
        if not late:
            self.the_standby_catches_up()

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.settle()

    def settle(self) -> None:
        """All faults are over: every task must come to its end."""
        self.world.admin.execute("delete from public.agent_queues")
        self.the_older_worker_is_gone()
        self.world.admin.execute(
            "update public.agent_tasks set status = 'completed', completed_at = now()"
            " where status = 'running' and fencing_token is null"
        )
        for slot, worker in enumerate(self.slots):
            if worker is None:
                self.start(slot)
        for number in range(SETTLE_ROUNDS):
            for worker in self.workers:
                if self.beats(worker):
                    self.rescued(self.run(worker.stores.registry.rescue(RescueReason.WORKER_SILENT)))
                self.run(worker.stores.registry.prune())
                self.everything_holds()
                self.do(self.reconcile_op(2 * worker.slot, 0))
                self.everything_holds()
                self.do(self.sweep_op(worker.slot, 0))
                self.everything_holds()
                for task_id, row in self.before.tasks.items():
                    if row["status"] == "waiting":  # what an old poller ran, and a person then held, has no question
                        self.do(self.edit(task_id, "pending" if row["question"] is None else "answer"))
                        self.everything_holds()
                for queue in (0, 2, 2):
                    self.do(self.claim_op(worker.slot, queue))
                    self.everything_holds()
                if self.run(worker.settle.unsettled()):
                    self.settles(worker)
                for run in worker.alive_runs:
                    self.ends(worker, run, OutcomeKind.SUCCEEDED)
                if worker.marks:
                    self.do(self.marking(worker))
                    self.everything_holds()
                while worker.spool:
                    self.do(self.record_op(self.workers_with_spool().index(worker), 2))
                    self.everything_holds()
            if all(r["status"] in FINAL for r in self.before.tasks.values()):
                self.nothing_is_left()
                return
            if self.rests() and not self.run(self.workers[0].settle.unsettled()):
                self.somebody_waits_too_long()
            self.time_passes(30 if number else 700)
            self.everything_holds()
        open_ = {
            t: (r["status"], r["assigned_worker_id"]) for t, r in self.before.tasks.items() if r["status"] not in FINAL
        }
        raise AssertionError(f"these never come to an end: {open_}")

    def somebody_waits_too_long(self) -> None:
        """A need failed, and nobody retries it: after 30 days that is its end."""
        self.nobody_waits_for_nothing()
        days, self.patient = 31 * 86_400, False
        self.world.pass_time(days)
        self.passed += days
        for worker in self.workers:
            self.beats(worker)
            self.run(worker.settle.audit())
            self.everything_holds()

    def nothing_is_left(self) -> None:
        self.nothing_is_open()
        for worker in self.workers[:1]:
            self.settles(worker)
            assert not self.run(worker.settle.unsettled()), "the settler has something left to do, and does not do it"

    def workers_with_spool(self) -> list[FakeWorker]:
        return [w for w in self.workers if w.spool]


class Some(Fleet):
    """Histories of some rules only, as of messages: what these are about comes in a tenth of the histories."""

    rules_of_interest: ClassVar[frozenset[str] | None] = None

    @classmethod
    def setup_state(cls) -> Any:
        state = super().setup_state()
        if cls.rules_of_interest is not None:
            state.rules[:] = [rule for rule in state.rules if rule.function.__name__ in cls.rules_of_interest]
        return state
