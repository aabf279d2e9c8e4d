"""The owner of the table refuses every change of one row: that row stays as it is, and all others go on."""

from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from psycopg import sql

from tests.model.fleet import QUEUES, FakeWorker, Op
from tests.model.forgotten import Forgotten
from tests.model.people import ANY

KEPT = ("status", "fencing_token", "turbo_rev", "assigned_worker_id")


class Refused(Forgotten):
    @precondition(lambda self: self.workers and self.before.tasks)
    @rule(i=ANY, j=ANY, what=st.sampled_from(("claim", "claim", "sweep", "rescue")))
    def a_row_is_refused(self, i: int, j: int, what: str) -> None:
        worker = self.pick(self.workers, i)
        waits = {"claim": "pending", "sweep": "scheduled", "rescue": "running"}[what]
        ids = sorted(t for t, r in self.before.tasks.items() if r["status"] == waits) or sorted(self.before.tasks)
        task_id = self.pick(ids, j)
        before = self.before
        makers = {
            "claim": lambda: self.claiming(worker, QUEUES[0], 3),
            "sweep": lambda: self.sweeping(worker),
            "rescue": lambda: self.rescuing(worker),
        }
        self.refusing(worker, task_id, makers[what]())
        self.everything_holds()
        for column in KEPT:
            assert self.before.tasks[task_id][column] == before.tasks[task_id][column], f"{task_id}: {column}"
        if what == "claim":
            self.others_were_claimed(worker, task_id, before.tasks)
        elif what == "rescue":
            dead = {w for w, row in before.workers.items() if row["state"] == "dead"}
            left = {
                t for t, r in self.before.tasks.items()
                if r["status"] == "running" and (r["fencing_token"] or 0) > 0 and r["assigned_worker_id"] in dead
            }  # fmt: skip
            assert left <= {task_id}, f"{left} were to be rescued"
        self.seen[f"refused in a {what}"] += 1

    def refusing(self, worker: FakeWorker, task_id: str, op: Op) -> None:
        """Send it while the row is refused, as a worker that was refused nothing before."""
        check = sql.SQL("alter table public.agent_tasks add constraint refuses check (task_id <> {}) not valid")
        known, worker.stores = worker.stores, worker.new_stores()
        self.world.admin.execute(check.format(task_id))
        self.exact = False
        try:
            with patch("turbo.db.row_by_row.SECONDS", 60.0):  # a slow machine takes the same steps
                op.take(self.run(op.send()), False)
        finally:
            self.world.admin.execute("alter table public.agent_tasks drop constraint refuses")
            worker.stores = known

    def others_were_claimed(self, worker: FakeWorker, task_id: str, before: dict[str, dict[str, object]]) -> None:
        if self.before.workers.get(worker.id, {}).get("state") != "up" or QUEUES[0] in self.before.paused:
            return
        others = {
            t for t, r in before.items()
            if r["status"] == "pending" and r["queue"] == QUEUES[0] and r["concurrency_key"] is None and t != task_id
            and r["conversation"] is None and r["continues"] is None
            and worker.may_run(r)
        }  # fmt: skip
        claimed = {  # or claimed, and given back at once: a failover took back a run whose needs it had lost
            t
            for t, r in self.before.tasks.items()
            if r["status"] in ("running", "blocked") and before[t]["status"] == "pending"
        }
        assert others <= claimed or len(claimed) == 3, f"{others - claimed} were to be claimed"
