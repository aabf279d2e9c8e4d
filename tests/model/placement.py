"""Where a task may run: what it requires of a worker, and whether its host's conversation can be had elsewhere, too."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.fleet import FakeWorker
from tests.model.people import ANY
from tests.model.races import Races

REQUIRED = st.sampled_from(("a gpu", "a gpu", "nothing"))


class Placement(Races):
    @precondition(lambda self: self.truth.tasks)
    @rule(i=ANY, what=REQUIRED)
    def a_person_says_what_it_requires(self, i: int, what: str) -> None:
        waits = sorted(t for t, r in self.before.tasks.items() if r["status"] == "pending" and t in self.truth.tasks)
        self.do(self.edit(self.pick(waits or sorted(self.truth.tasks), i), what))

    @precondition(lambda self: any(r["prefer_host"] for r in self.before.tasks.values()))
    @rule(i=ANY, later=st.booleans())
    def its_conversation_can_be_had_anywhere(self, i: int, later: bool) -> None:
        """And if it waits, its host is slow to take it."""
        rows = self.before.tasks
        pinned = sorted(t for t, r in rows.items() if r["prefer_host"] and r["status"] in ("pending", "waiting"))
        if not (task_id := self.pick(pinned or sorted(t for t, r in rows.items() if r["prefer_host"]), i)):
            return
        self.world.admin.execute(
            "insert into public.agent_portable (task_id, session) values (%s, %s)"
            " on conflict (task_id) do update set session = excluded.session",
            [task_id, rows[task_id]["agent_session_id"]],
        )
        self.everything_holds()
        if later and rows[task_id]["status"] == "pending":
            self.time_passes(70)
            self.everything_holds()
            others: list[FakeWorker] = [w for w in self.workers if w.host != rows[task_id]["prefer_host"]]
            if (worker := self.pick(others, i)) is not None:
                self.is_heard(worker)
                self.step(self.claiming(worker, str(rows[task_id]["queue"]), 3))
                self.seen["taken from its host"] += self.before.tasks[task_id]["status"] == "running"
