"""The standby becomes the primary, and what it had not received never happened."""

import copy

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.leases import Leases


class Failover(Leases):
    @rule()
    def the_standby_catches_up(self) -> None:
        self.world.save()
        self.saved = copy.deepcopy(self.truth)

    @precondition(lambda self: self.truth.tasks or self.saved.tasks)
    @rule(reconnect=st.booleans(), prune=st.booleans())
    def fail_over(self, reconnect: bool, prune: bool) -> None:
        """The standby becomes the primary: what it had not received never happened. Mostly the workers are soon back."""
        self.throw_back()
        self.everything_holds()
        if prune and self.workers:
            self.run(self.workers[0].stores.registry.prune())
        if reconnect:
            for k, worker in enumerate(self.workers):
                self.beats(worker)
                self.do(self.reconcile_op(2 * k, 0))
                self.everything_holds()

    def throw_back(self) -> None:
        self.world.fail_over()
        done = {(t, n) for t, task in self.truth.tasks.items() for n in task.recorded}
        self.truth = copy.deepcopy(self.saved)
        self.seen["result lost by a failover"] += len(
            done - {(t, n) for t, task in self.truth.tasks.items() for n in task.recorded}
        )
        rows = self.world.picture()
        for worker in self.workers:
            for held, run in worker.runs.items():
                row = rows.tasks.get(held.task_id)
                mine = row is not None and (row["status"], row["fencing_token"]) == ("running", held.token)
                run.excused = run.excused or not mine
                self.seen["claim lost by a failover"] += not mine
        self.counted = {w: (r["silent_beats"], float("-inf")) for w, r in rows.workers.items()}
        self.before = rows
        self.exact = False
