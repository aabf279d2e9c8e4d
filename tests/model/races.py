"""Two statements at once: one is carried out and not committed while the other begins, or the other's snapshot is older."""

from collections.abc import Callable

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import QUEUES, SECOND, Op
from tests.model.messages import Messages
from tests.model.people import ANY
from turbo.db.claim_store import Claim


class Races(Messages):
    @precondition(lambda self: len(self.truth.tasks) > 1)
    @rule(first=ANY, second=ANY, i=ANY, j=ANY, k=ANY)
    def two_at_once(self, first: int, second: int, i: int, j: int, k: int) -> None:
        """One statement is carried out and not committed while another begins."""
        makers: list[Callable[[int, int], Op | None]] = [
            self.claim_op, self.record_op, self.release_op, self.rescue_op, self.sweep_op, self.reconcile_op, self.hand_op,
            self.settle_op, self.tell_op, self.read_op, self.mark_op,
        ]  # fmt: skip
        one, two = self.pick(makers, first)(i, k), self.pick(makers, second)(j, k)
        if one is None or two is None or one.lane is two.lane or (one.name == two.name == "hand"):
            return
        if one.worker is two.worker and {one.name, two.name} & {"release", "reconcile"}:
            return  # a worker does not do these beside its other statements about the same runs
        self.side_by_side(one, two)

    @precondition(lambda self: self.waiting() and len(self.workers) > 1)
    @rule(i=ANY, j=ANY, one=st.integers(1, 3), two=st.integers(1, 3), queue=st.sampled_from([QUEUES[0], *QUEUES]))
    def two_claims_at_once(self, i: int, j: int, one: int, two: int, queue: str) -> None:
        first = self.pick(self.workers, i)
        second = self.pick([w for w in self.workers if w is not first], j)
        self.side_by_side(self.claiming(first, queue, one), self.claiming(second, queue, two))

    @precondition(lambda self: len(self.workers) > 1)
    @rule(i=ANY, j=ANY, k=ANY, key=st.sampled_from([None, "c", "c"]))
    def claims_race(self, i: int, j: int, k: int, key: str | None) -> None:
        """A claim whose snapshot is older than the commit of its sibling's; of two queues, which share a key."""
        one = self.pick(self.workers, i)
        two = self.pick([w for w in self.workers if w is not one], j)
        if key is not None:
            self.a_new_task(key=key)
            self.a_new_task(key=key, queue=QUEUES[1])

        async def race() -> Claim:
            two.claims.begin = "begin isolation level repeatable read"
            async with two.claims.use() as connection:
                await connection.execute("select from public.agent_tasks limit 1")
            try:
                self.claim_taken(one, await one.stores.claims.claim(QUEUES[k % 2], 2, may_idle=True), False)
                claim = await two.stores.claims.claim(QUEUES[1 - k % 2], 2, may_idle=True)
            except psycopg.Error:
                # turbo claims in READ COMMITTED and would claim again
                self.seen["key or row raced"] += 1
                await two.claims.end("rollback")
                return await two.stores.claims.claim(QUEUES[1 - k % 2], 2, may_idle=True)
            await two.claims.end()
            return claim

        self.exact = False
        self.claim_taken(two, self.run(race()), False)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(i=ANY, j=ANY, answer=st.sampled_from(("answer", "also answer", "pending", "cancelled")), first=st.booleans())
    def an_answer_meets_the_sweep(self, i: int, j: int, answer: str, first: bool) -> None:
        """One is carried out and not committed while the other begins."""
        if (found := self.starts_one(i)) is None:
            return
        worker, run = found
        self.asks(worker, run, 30 * SECOND)
        self.time_passes(35)
        other = self.another(worker, j)
        sweep, edit = self.sweeping(other), self.edit(run.task.task_id, answer)
        self.side_by_side(*((edit, sweep) if first else (sweep, edit)))
        self.everything_holds()
