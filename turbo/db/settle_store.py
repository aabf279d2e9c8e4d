"""Statements of the settler: they tie tasks that wait to what they need, and let them go (turbo.worker.settler)."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from turbo.db.lane import Lane
from turbo.db.refusals import Refusals
from turbo.db.row_by_row import Ref, RefusedRows, Work, fail_as_poison
from turbo.db.store import Row, Store, ids_of
from turbo.domain.states import RowStatement, TaskState
from turbo.sql import Variant

NOTES = 200
"""Notes that one statement reads."""

EDGES = 1000
"""Edges that one statement ties or settles: no row of a need is locked for long."""

NEEDS = 200
"""Tasks whose end one statement tells to those who wait."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk of settle/settle.sql goes on: `ready` rows above that id, and without the tasks that it found `held_up`."""

    ready: str | None = None
    held_up: frozenset[str] = frozenset()

    def after(self, step: "SettleStep", ready: str | None) -> "Walk | None":
        """Where it goes on after `step`, which saw ready rows up to `ready`. None: it has looked at all."""
        held_up = self.held_up | step.held_up
        if ready is None and len(held_up) == len(self.held_up) and not (held_up and step.moved):
            return None
        return Walk(ready or self.ready, held_up)


@dataclass(frozen=True, slots=True)
class SettleStep:
    """What one statement of the settler did. `moved`: how many rows it changed. `remaining`: how many it had to leave, because
    somebody has them locked. `held_up`: of these, some by their ids. `queues`: those to be woken. `later`: some rows became
    scheduled. `after`: where the next call of this statement goes on; None: it has looked at all. `notes`, `messages`: there
    is work for the other statements. `unsettled`: there was anything to do at all."""

    moved: int = 0
    remaining: int = 0
    released: int = 0
    cancelled: int = 0
    queues: tuple[str, ...] = ()
    later: bool = False
    after: "int | str | Walk | None" = None
    held_up: frozenset[str] = frozenset()
    notes: bool = False
    messages: bool = False
    unsettled: bool = False

    def __add__(self, more: "SettleStep") -> "SettleStep":
        """This one, and then `more`."""
        return SettleStep(
            moved=self.moved + more.moved,
            remaining=self.remaining + more.remaining,
            released=self.released + more.released,
            cancelled=self.cancelled + more.cancelled,
            queues=tuple(dict.fromkeys(self.queues + more.queues)),
            later=self.later or more.later,
            after=more.after,
            held_up=self.held_up | more.held_up,
            notes=self.notes or more.notes,
            messages=self.messages or more.messages,
            unsettled=more.unsettled,
        )


class SettleStore(Store):
    """Bound to one worker, which the audit trail names."""

    def __init__(self, lane: Lane, worker_id: str, refusals: Refusals) -> None:
        super().__init__(lane)
        self._worker_id = worker_id
        self._untied = RefusedRows(RowStatement.SETTLE, refusals)
        self._unreleased = RefusedRows(RowStatement.SETTLE, refusals)

    async def unsettled(self) -> bool:
        """Whether there is anything to do (turbo_unsettled)."""
        return bool((await self._rows("settle/unsettled", {}))[0][0])

    async def place(self, after: int = 0) -> SettleStep:
        """Give follow-ups their places (settle/place.sql), those of notes above `after`."""
        ((placed, remaining, last, queues),) = await self._rows("settle/place", {"after": after, "notes": EDGES})
        return SettleStep(moved=placed, remaining=remaining, queues=tuple(queues), after=last)

    async def tie(self, after: int = 0) -> SettleStep:
        """Tie blocked tasks to what they need (settle/tie.sql), those of notes above `after`."""
        parameters: dict[str, object] = {"after": after, "notes": NOTES, "edges": EDGES, "worker": self._worker_id}
        return await self._around_refused("settle/tie", parameters, self._untied, _tied)

    async def settle(self, after: Walk | None = None) -> SettleStep:
        """Tell ends, and let go (settle/settle.sql), from where `after` says."""
        walk = after or Walk()
        parameters: dict[str, object] = {
            "after": walk.ready,
            "passed": json.dumps(dict.fromkeys(walk.held_up, True), ensure_ascii=False),
            "needs": NEEDS,
            "edges": EDGES,
            "worker": self._worker_id,
        }
        found = await self._around_refused("settle/settle", parameters, self._unreleased, _released)
        return replace(found, after=walk.after(found, found.after if isinstance(found.after, str) else None))

    async def _around_refused(
        self, name: str, parameters: dict[str, object], refused: RefusedRows, step: Callable[[Row], SettleStep]
    ) -> SettleStep:
        """What the statement did, around rows that the database refuses. A blocked one that stays refused is failed."""

        async def send(variant: Variant | None, ids: Sequence[str]) -> SettleStep:
            (row,) = await self._rows(name, parameters | ids_of(variant, ids), None, variant)
            return step(row)

        async def which(aside: Sequence[str]) -> list[Ref]:
            found = await self._rows(name, {**parameters, "aside": list(aside)}, None, "which")
            return [(task_id, token) for task_id, token in found if task_id is not None]

        work = Work(send, which, wrote=lambda done: done.moved, fail=self._fail, reads=True)
        answers, failed = await refused.run(work)
        if failed is not None:
            raise failed
        return functools.reduce(SettleStep.__add__, answers)

    async def _fail(self, ref: Ref, error: str, audit: bool) -> bool:
        return await self._use(
            lambda own: fail_as_poison(own, self._worker_id, RowStatement.SETTLE, TaskState.BLOCKED, ref, error, audit)
        )

    async def left_over(self) -> SettleStep:
        """See to messages that no run will take (settle/left_over.sql)."""
        ((moved, follow_ups),) = await self._rows("settle/left_over", {"worker_id": self._worker_id})
        return SettleStep(moved=moved, released=follow_ups)

    async def audit(self) -> int:
        """Leave notes for what came past the triggers (settle/audit.sql). How many."""
        return int((await self._rows("settle/audit", {}))[0][0])

    async def close(self) -> None:
        """Close the session, if there is one. The next use opens another."""
        await self._lane.close_when_idle()

    async def end(self) -> None:
        """The worker stops: a statement under way is cut off. Another worker's settler finds what it did not do."""
        await self._lane.over()


def _tied(row: Row) -> SettleStep:
    done, remaining, moved, queues, last = row
    return SettleStep(moved=done + moved, remaining=remaining, queues=tuple(queues), after=last)


def _released(row: Row) -> SettleStep:
    released, cancelled, moved, queues, later, last, held_up, notes, messages, unsettled = row
    return SettleStep(
        moved=moved,
        released=released,
        cancelled=cancelled,
        queues=tuple(queues),
        later=later,
        after=last,
        held_up=frozenset(held_up),
        notes=notes,
        messages=messages,
        unsettled=unsettled,
    )
