"""The graphs and conversations of the soak: which task needs which, and what must be so of them afterwards."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from turbo.domain.states import FINAL

OF_GRAPHS = ("needs", "on_needs_failed", "continues")
"""Columns of a task that waits for others."""

NEAR = 30
"""A task needs some of so many tasks before it: chains, fans in and fans out come of themselves."""


@dataclass
class Graphs:
    """`needs`: task → the tasks that it needs, and how. `follows`: task → the one that it goes on with."""

    needs: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    follows: dict[str, str] = field(default_factory=dict)

    def choose(self, dice: random.Random, before: list[str]) -> dict[str, object]:
        """Columns of the next task."""
        kind, near = dice.random(), before[-NEAR:]
        if len(near) < 3 or kind > 0.4:
            return {}
        if kind < 0.12:
            return {"continues": dice.choice(near)}
        mode = "run" if dice.random() < 0.4 else "cancel"
        return {"needs": dice.sample(near, dice.randrange(1, 4)), "on_needs_failed": mode}

    def accepted(self, task_id: str, columns: Mapping[str, Any]) -> None:
        if "continues" in columns:
            self.follows[task_id] = columns["continues"]
        elif columns:
            self.needs[task_id] = (columns["needs"], columns["on_needs_failed"])

    def forget(self, task_id: str) -> None:
        """It is gone with the commit that brought it."""
        self.follows.pop(task_id, None)
        self.needs.pop(task_id, None)

    def waits_for(self, task_id: str) -> list[str]:
        if task_id in self.follows:
            return [self.follows[task_id]]
        return self.needs.get(task_id, ([], ""))[0]

    def begins_as(self, task_id: str) -> str:
        return "blocked" if self.waits_for(task_id) else "pending"

    def stirred(self, touched: set[str], edges: list[tuple[str, str]]) -> set[str]:
        """What a person touched, and all that waited for that, or came after it in its conversation: its end is theirs."""
        found = set(touched)
        waiting = [(t, need) for t in (*self.needs, *self.follows) for need in self.waits_for(t)] + edges
        while more := {task for task, need in waiting if need in found} - found:
            found |= more
        return found

    def after_a_cancelled_one(self, ends: Mapping[str, str]) -> set[str]:
        """Follow-ups in whose conversation a task was cancelled: if that one never ran, neither does the next."""
        lines: dict[str, list[str]] = {}
        for task_id in self.follows:
            first = task_id
            while first in self.follows:
                first = self.follows[first]
            lines.setdefault(first, [first]).append(task_id)
        cancelled = [line for line in lines.values() if any(ends.get(t) == "cancelled" for t in line)]
        return {task_id for line in cancelled for task_id in line if task_id in self.follows}

    def wanted(self, task_id: str, ends: Mapping[str, str], own: str) -> str:
        """The end of a task that nobody touched, and whose own program would end as `own`."""
        needs, mode = self.needs.get(task_id, ([], ""))
        return "cancelled" if mode == "cancel" and any(ends[need] != "completed" for need in needs) else own

    def complaints(
        self, rows: Mapping[str, Mapping[str, Any]], trail: Mapping[str, list[dict[str, Any]]], left: Mapping[str, int]
    ) -> Iterator[str]:
        """Nobody is blocked by nothing, and nobody was let go early. `left`: rows of the settler's own tables."""
        for task_id in (*self.needs, *self.follows):
            if task_id in rows:
                yield from self._early(task_id, trail)
        yield from (f"{n} rows are left in {table}" for table, n in left.items() if n)

    def _early(self, task_id: str, trail: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
        """Before each release every need had been over, by the numbers of the audit trail."""
        for entry in trail.get(task_id, []):
            if entry["action_type"] != "unblocked":
                continue
            for need in self.waits_for(task_id):
                ends = [
                    e for e in trail.get(need, []) if e["to_status"] in FINAL and e["action_id"] < entry["action_id"]
                ]
                if not ends:
                    yield f"{task_id} was let go before {need} was over"


def too_many_at_once(
    rows: Mapping[str, Mapping[str, Any]], trail: list[dict[str, Any]], limits: Mapping[str, int]
) -> Iterator[str]:
    """One run at a time in each conversation, and of each key as many as its limit says, by the order of the audit trail."""
    runs: dict[tuple[str, object], set[str]] = {}
    for entry in trail:
        row = rows.get(entry["task_id"])
        if row is None or entry["from_status"] == entry["to_status"]:
            continue
        for column, most in (("conversation", 1), ("concurrency_key", limits.get(row["concurrency_key"], 1))):
            if row[column] is None:
                continue
            running = runs.setdefault((column, row[column]), set())
            if entry["to_status"] == "running":
                running.add(entry["task_id"])
                if len(running) > most:
                    yield f"{sorted(running)} run at once in one {column}"
            elif entry["to_status"] is not None:
                running.discard(entry["task_id"])
