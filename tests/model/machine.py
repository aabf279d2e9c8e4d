"""A small fleet against the real database, in every order of events that hypothesis can think of.

Three workers on two hosts, a handful of tasks, people who edit rows, an old poller, a standby that lags behind. Every
statement is turbo's own, sent through `turbo/queue.py`. After every step `truth.look` and `_runs_are_ours` must hold, every
answer is judged, and at the end, with all faults over, every task must come to an end.
"""

import copy
import sys
from collections.abc import Callable

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.model.fleet import HOSTS, QUEUES, FakeWorker, Op
from tests.model.leases import Leases
from tests.model.people import ANY
from turbo.outcome import OutcomeKind
from turbo.queue import Claim
from turbo.states import FINAL

SETTLE_ROUNDS = 14
FIRST = ((None, 1, "default", 0, 4), (None, 9, "default", 1, 0), ("a", 5, "default", 0, 0), ("a", 5, "other", 0, 0))
"""The first tasks, so that every history has something to do: key, priority, queue, max_retries, infra_count."""


class Fleet(Leases):
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

    @precondition(lambda self: len(self.truth.tasks) > 1)
    @rule(first=ANY, second=ANY, i=ANY, j=ANY, k=ANY)
    def two_at_once(self, first: int, second: int, i: int, j: int, k: int) -> None:
        """One statement is carried out and not committed while another begins."""
        makers: list[Callable[[int, int], Op | None]] = [
            self.claim_op, self.record_op, self.release_op, self.rescue_op, self.sweep_op, self.reconcile_op, self.hand_op,
        ]  # fmt: skip
        one, two = self.pick(makers, first)(i, k), self.pick(makers, second)(j, k)
        if one is None or two is None or one.lane is two.lane or (one.name == two.name == "hand"):
            return
        if one.worker is two.worker and {one.name, two.name} & {"release", "reconcile"}:
            return  # a worker does not do these beside its other statements about the same runs
        self.exact = False
        try:
            answers = self.run(self.world.interleaved(one.send, one.lane, two.send))
        except psycopg.errors.DeadlockDetected:
            raise AssertionError(f"{one.name} and {two.name} wait for each other") from None
        one.take(answers[0], False)
        two.take(answers[1], False)
        self.seen["two at once"] += 1

    @precondition(lambda self: self.waiting() > 1 and len(self.workers) > 1)
    @rule(i=ANY, j=ANY, k=ANY)
    def claims_race(self, i: int, j: int, k: int) -> None:
        """A claim whose snapshot is older than the commit of its sibling's."""
        one, two = self.pick(self.workers, i), self.pick(self.workers, j)
        if one is None or one is two:
            return

        async def race() -> Claim:
            two.claims.begin = "begin isolation level repeatable read"
            async with two.claims.use() as connection:
                await connection.execute("select from public.agent_tasks limit 1")
            try:
                self.claim_taken(one, await one.queue.claim(QUEUES[k % 2], 2, may_idle=True), False)
                claim = await two.queue.claim(QUEUES[1 - k % 2], 2, may_idle=True)
            except psycopg.Error:
                # turbo claims in READ COMMITTED and would claim again
                self.seen["key or row raced"] += 1
                await two.claims.end("rollback")
                return await two.queue.claim(QUEUES[1 - k % 2], 2, may_idle=True)
            await two.claims.end()
            return claim

        self.exact = False
        self.claim_taken(two, self.run(race()), False)

    @rule(seconds=st.sampled_from([1, 12, 35, 70, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.now += seconds

    @rule()
    def the_standby_catches_up(self) -> None:
        self.world.save()
        self.saved = copy.deepcopy(self.truth)

    @precondition(lambda self: self.truth.tasks or self.saved.tasks)
    @rule(reconnect=st.booleans(), prune=st.booleans())
    def fail_over(self, reconnect: bool, prune: bool) -> None:
        """The standby becomes the primary: what it had not received never happened. Mostly the workers are soon back."""
        self._throw_back()
        self.everything_holds()
        if prune and self.workers:
            self.run(self.workers[0].queue.prune_workers())
        if reconnect:
            for k, worker in enumerate(self.workers):
                self.beats(worker)
                self.do(self.reconcile_op(2 * k, 0))
                self.everything_holds()

    def _throw_back(self) -> None:
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

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.settle()

    def settle(self) -> None:
        """All faults are over: every task must come to its end."""
        self.world.admin.execute("delete from agent_queues")
        self.world.admin.execute(
            "update agent_tasks set status = 'completed', completed_at = now() where status = 'running' and fencing_token is null"
        )
        for slot, worker in enumerate(self.slots):
            if worker is None:
                self.start(slot)
        for number in range(SETTLE_ROUNDS):
            for worker in self.workers:
                if self.beats(worker):
                    self.rescued(self.run(worker.queue.rescue("worker_silent")))
                self.run(worker.queue.prune_workers())
                self.everything_holds()
                self.do(self.reconcile_op(2 * worker.slot, 0))
                self.do(self.sweep_op(worker.slot, 0))
                self.everything_holds()
                for queue in (0, 2, 2):
                    self.do(self.claim_op(worker.slot, queue))
                    self.everything_holds()
                for run in worker.alive_runs:
                    self.ends(worker, run, OutcomeKind.SUCCEEDED)
                while worker.spool:
                    self.do(self.record_op(self.workers_with_spool().index(worker), 2))
                    self.everything_holds()
            if all(r["status"] in FINAL for r in self.before.tasks.values()):
                return
            self.time_passes(30 if number else 700)
            self.everything_holds()
        open_ = {
            t: (r["status"], r["assigned_worker_id"]) for t, r in self.before.tasks.items() if r["status"] not in FINAL
        }
        raise AssertionError(f"these never come to an end: {open_}")

    def workers_with_spool(self) -> list[FakeWorker]:
        return [w for w in self.workers if w.spool]
