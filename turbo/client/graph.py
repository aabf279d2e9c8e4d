"""How tasks hang together, as the client returns it: graphs, what blocks a task, and what people told it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from turbo.domain.states import FINAL, TaskState
from turbo.domain.work import OnNeedsFailed

NODES = 10_000
"""Tasks that `Client.graph` reads, the nearest first."""

EDGES = 100_000

DELETED = "deleted"
"""The status of a task whose row is gone, while others still name it."""

NAMED = 10
"""Of the tasks that a blocked one waits for."""


class Refused(ValueError):
    """The database takes no follow-up to this task, or no message for it. The text says why, and what to do instead."""


class TaskIsOver(Refused):
    """The task takes no message any more. `said`: why, without what to do instead."""

    def __init__(self, said: str, hint: str) -> None:
        super().__init__(f"{said}. {hint}")
        self.said = said


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A task of a graph. `status`: 'deleted' if its row is gone. `task_description` is cut to 200 characters."""

    task_id: str
    status: str
    queue: str | None = None
    task_type: str | None = None
    task_description: str = ""
    failure_kind: str | None = None
    assigned_worker_id: str | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """`task_id` waits for `needs`, or waited for it (`settled`). `mode`: what a need that does not complete does to it (cancel, run
    or wait). `continues`: it goes on with the conversation of `needs`."""

    task_id: str
    needs: str
    mode: str
    settled: bool
    continues: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """All tasks that hang together with `task_id`, by needs and by conversations, the nearest first; and the edges between them.

    `cut`: there are more tasks or edges than were asked for; edges to tasks that are not in `nodes` are left out."""

    task_id: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    cut: bool = False

    @property
    def by_status(self) -> dict[str, int]:
        """How many tasks have each status, as they come up."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            counts[node.status] = counts.get(node.status, 0) + 1
        return counts


def read_graph(task_id: str, rows: Iterable[Mapping[str, Any]], nodes: int | None, edges: int | None) -> Graph:
    """The rows of client/graph.sql."""
    found: list[GraphNode] = []
    lines: list[GraphEdge] = []
    for row in rows:
        if row["kind"] == "task":
            found.append(
                GraphNode(
                    row["task_id"],
                    row["status"] or DELETED,
                    row["queue"],
                    row["task_type"],
                    row["task_description"] or "",
                    row["failure_kind"],
                    row["assigned_worker_id"],
                )
            )
        else:
            lines.append(GraphEdge(row["task_id"], row["needs"], row["mode"], row["settled"], row["continues"]))
    cut = (nodes is not None and len(found) > nodes) or (edges is not None and len(lines) > edges)
    kept = found if nodes is None else found[:nodes]
    known = {node.task_id for node in kept}
    shown = [edge for edge in lines if edge.task_id in known and edge.needs in known]
    return Graph(task_id, tuple(kept), tuple(shown if edges is None else shown[:edges]), cut)


@dataclass(frozen=True, slots=True)
class Dependents:
    """Tasks that would not run without others, at any depth. `blocked`: they wait, and are cancelled if those are. `cancelled`:
    they were, and wait again if those are retried. `more`: there are more than were counted."""

    blocked: int
    cancelled: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Related:
    """A task that hangs together with another. `status`: 'deleted' if its row is gone."""

    task_id: str
    status: str


RELATED = 20
"""Tasks of each kind in `Relations`."""


@dataclass(frozen=True, slots=True)
class Relations:
    """How a task hangs together with others: what it needs, what needs it, and its conversation in order (the task itself included;
    from ten turns before it on). At most 20 of each; `of_all` says how many there are."""

    needs: tuple[Related, ...]
    dependents: tuple[Related, ...]
    turns: tuple[Related, ...]
    of_all: Mapping[str, int]


def read_relations(rows: Iterable[Mapping[str, Any]]) -> Relations:
    """The rows of client/relations.sql."""
    found: dict[str, list[Related]] = {"need": [], "dependent": [], "turn": []}
    of_all = dict.fromkeys(("needs", "dependents", "turns"), 0)
    for row in rows:
        found[row["kind"]].append(Related(row["task_id"], row["status"] or DELETED))
        of_all[f"{row['kind']}s"] = row["of_all"]
    return Relations(tuple(found["need"]), tuple(found["dependent"]), tuple(found["turn"]), of_all)


@dataclass(frozen=True, slots=True)
class Blocked:
    """For what a blocked task waits, and for how many seconds it has.

    `waits_for`: the first ten tasks, of `needs_left`. `tied`: turbo has looked at the task since its insert; until then
    `needs_left` is None. `after`: the task before it in its conversation."""

    task_id: str
    needs_left: int | None
    failed_need: str | None
    tied: bool
    seconds: float
    continues: str | None
    after: str | None
    on_needs_failed: str
    waits_for: tuple[Related, ...]

    @property
    def why(self) -> str:
        """On one line: what it waits for."""
        if not self.tied:
            return "no worker has looked at it yet"
        if self.failed_need is not None:
            return f"{self.failed_need} did not complete: no worker has acted on it yet"
        if not self.needs_left:
            return "all that it needs is over: no worker has let it go yet"
        named = ", ".join(self._named(one) for one in self.waits_for[:3])
        more = self.needs_left - min(3, len(self.waits_for))
        return f"waits for {named}" + (f" and {more} more" if more > 0 and named else "" if named else "other tasks")

    def _named(self, one: Related) -> str:
        failed = one.status in (TaskState.FAILED, TaskState.CANCELLED) and self.on_needs_failed == OnNeedsFailed.WAIT
        return f"{one.task_id} ({one.status}{': for its retry' if failed else ''})"


def read_blocked(row: Mapping[str, Any]) -> Blocked:
    """A row of client/blocked.sql."""
    waits_for = tuple(Related(one["task_id"], one["status"] or DELETED) for one in row["waits_for"])
    return Blocked(**{**row, "waits_for": waits_for})


@dataclass(frozen=True, slots=True)
class Told:
    """A message that was taken for a task."""

    task_id: str
    message_id: int


@dataclass(frozen=True, slots=True)
class MessageLine:
    """A message to a task; `body` is cut to 2,000 characters. `delivered_at`: when the agent had it, or when it was closed; None: not
    yet. `follow_up`: the task that it became, because its own was over."""

    message_id: int
    body: str
    created_at: datetime
    created_by: str
    delivered_at: datetime | None
    follow_up: str | None
