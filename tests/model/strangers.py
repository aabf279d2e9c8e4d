"""Rows that carry the id of a need that was deleted; and a worker from before there were blocked tasks, beside the others."""

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import OLDER, QUEUES
from tests.model.graphs import MODES, Graphs
from tests.model.people import ANY, TASKS_AT_MOST


class Strangers(Graphs):
    @precondition(lambda self: self.workers and self.truth.tasks and len(self.truth.tasks) + 2 <= TASKS_AT_MOST)
    @rule(
        i=ANY,
        j=ANY,
        mode=MODES,
        tied=st.booleans(),
        how=st.sampled_from(("later", "at once", "past the triggers")),
        queue=st.sampled_from(QUEUES),
        then=st.permutations(("completed", "failed", "pending")),
    )
    def a_stranger_comes(self, i: int, j: int, mode: str, tied: bool, how: str, queue: str, then: list[str]) -> None:
        """A need is deleted before its end, and another row has its id: whatever becomes of that is nothing to who waited."""
        worker = self.pick(self.workers, i)
        self.insert(None, None, queue, 600, 0, 0)
        need = f"t{self.numbers}"
        other = self.pick(sorted(self.truth.tasks), j)
        task_id = self.insert_needing(sorted({need, other}), mode)
        if task_id is None:
            return
        if tied:
            self.step(self.settling(worker, "tie"))
        self._is_replaced(need, how, queue)
        self.everything_holds()
        for what in then:
            self.step(self.edit(need, what))
            self.step(self.settling(worker, "tie"))
            self.step(self.settling(worker, "settle"))
        self.settles(worker)
        status = self.before.tasks[task_id]["status"]
        if not self._an_older_worker_serves():
            assert status == "cancelled" or mode == "run", f"{task_id} is {status}, and a need of it was deleted"
            assert status != "blocked" or other != need, f"{task_id} waits for a stranger"
        self.seen["a stranger with the id of a need"] += 1

    def _is_replaced(self, need: str, how: str, queue: str) -> None:
        former = self.truth.tasks.pop(need).tokens()
        self.truth.deleted[need] = former
        if how == "later":
            self.world.admin.execute("delete from public.agent_tasks where task_id = %s", [need])
            self.inserted(need, None, None, queue)
        elif how == "at once":
            with self.world.admin.transaction():
                self.world.admin.execute("delete from public.agent_tasks where task_id = %s", [need])
                self.inserted(need, None, None, queue)
        else:
            self.world.admin.execute("delete from public.agent_tasks where task_id = %s", [need])
            with self.world.admin.transaction():
                self.world.admin.execute("set local session_replication_role = replica")
                self.inserted(need, None, None, queue)

    # ── an older worker ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(queue=st.sampled_from(QUEUES))
    def an_older_worker_serves(self, queue: str) -> None:
        """For a while: the next time it is gone."""
        if self._an_older_worker_serves():
            self.the_older_worker_is_gone()
            return
        if queue in self.world.required_in():
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is older than tasks"):
                self._older_worker_begins(queue)
            self.seen["an older worker is refused"] += 1
        else:
            self._older_worker_begins(queue)

    def _older_worker_begins(self, queue: str) -> None:
        self.world.admin.execute(
            "insert into public.agent_workers (worker_id, name, host, pid, version, slots, queues, state, heartbeat_at,"
            " schema)"
            " values (%s, 'older', 'gamma', 1, '0', 1, %s, 'up', now() + interval '10000 days', 12)"
            " on conflict (worker_id) do update set state = 'up', queues = excluded.queues, heartbeat_at = excluded.heartbeat_at",
            [OLDER, [queue]],
        )

    def the_older_worker_is_gone(self) -> None:
        self.world.admin.execute("delete from public.agent_workers where worker_id = %s", [OLDER])

    def _an_older_worker_serves(self) -> bool:
        return OLDER in self.world.workers()
