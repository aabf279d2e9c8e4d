"""A graph of tasks as lines of text, and as a Mermaid flowchart. No I/O.

    plan            completed
    ├─ build        running
    │  └─ review    blocked    also needs docs
    └─ docs         pending

Every task is one line. It stands below the last of its needs; the others are named beside it. Needs cannot form a circle, because a
need is there before its dependent is inserted; rows that came past the triggers are drawn all the same, each once.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from turbo.client.graph import Graph, GraphEdge, GraphNode
from turbo.domain.visible import visible

DEEPEST = 12
"""Levels that are indented. Behind them a number says how deep a task is: a chain of thousands still fits a terminal."""

ALSO_NAMED = 3

_PLAIN = re.compile(r"[^\w ./:-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """A task in the drawing: the lines to its left, its one-line name, and what it waits for besides the task above it."""

    branch: str
    name: str
    node: GraphNode
    note: str


def lines(graph: Graph) -> Iterator[Line]:
    """The drawing, from the tasks that need none of the others on."""
    nodes = {node.task_id: node for node in graph.nodes}
    above = _edges_above(graph)
    order = _in_order(nodes, above)
    place = {task_id: number for number, task_id in enumerate(order)}
    above = {task_id: sorted(edges, key=lambda edge: place[edge.needs]) for task_id, edges in above.items()}
    below: dict[str, list[str]] = {}
    tops: list[str] = []
    for task_id in order:
        earlier = [edge for edge in above.get(task_id, ()) if place[edge.needs] < place[task_id]]
        if not earlier:
            tops.append(task_id)
            continue
        below.setdefault(max(earlier, key=lambda edge: place[edge.needs]).needs, []).append(task_id)
    stack = [(task_id, "", "", 0) for task_id in reversed(tops)]
    drawn: dict[str, str] = {task_id: parent for parent, found in below.items() for task_id in found}
    while stack:
        task_id, left, joint, depth = stack.pop()
        note = _note(above.get(task_id, ()), drawn.get(task_id))
        yield Line(left + joint, _one_line(task_id), nodes[task_id], note)
        children = below.get(task_id, [])
        if depth >= DEEPEST:
            inner, joints = left, [f"{depth + 1}· "] * len(children)
        else:
            inner = left + {"": "", "├─ ": "│  ", "└─ ": "   "}[joint]
            joints = ["├─ "] * (len(children) - 1) + ["└─ "]
        stack += reversed([(one, inner, mark, depth + 1) for one, mark in zip(children, joints, strict=False)])


def mermaid(graph: Graph) -> str:
    """A flowchart for a page. A dashed arrow is a need whose end is enough, or a conversation that goes on."""
    names = {node.task_id: f"n{number}" for number, node in enumerate(graph.nodes)}
    drawn = ["flowchart TD"]
    drawn += [
        f'  {names[n.task_id]}["{_label(n.task_id)}<br/>{_label(n.status)}"]:::{_class(n.status)}' for n in graph.nodes
    ]
    for edge in graph.edges:
        arrow = "-. continues .->" if edge.continues else {"run": "-.->", "wait": "-- wait -->"}.get(edge.mode, "-->")
        drawn.append(f"  {names[edge.needs]} {arrow} {names[edge.task_id]}")
    drawn += [f"  classDef {name} {style}" for name, style in _CLASSES.items()]
    return "\n".join(drawn)


_CLASSES = {
    "completed": "fill:#d3f2d8,stroke:#2e7d32,color:#10300f",
    "failed": "fill:#fbd7d5,stroke:#c62828,color:#3b0d0b",
    "cancelled": "fill:#e6e6e6,stroke:#777777,color:#333333",
    "running": "fill:#fff2c2,stroke:#b28704,color:#3a2c00",
    "waiting": "fill:#f3d9f7,stroke:#8e24aa,color:#33103c",
    "blocked": "fill:#dbe7fb,stroke:#1e5bb8,color:#0d2347",
    "open": "fill:#e2f5f7,stroke:#00838f,color:#04343a",
}


def _class(status: str) -> str:
    return status if status in _CLASSES else "open"


def _label(text: str) -> str:
    """As text: nothing in it is markup, or ends the label."""
    return _PLAIN.sub(lambda match: f"#{ord(match[0])};", _one_line(text))


def _one_line(text: str) -> str:
    return visible(" ".join(text.split())) or '""'


def _edges_above(graph: Graph) -> Mapping[str, Sequence[GraphEdge]]:
    """The edges of each task to what it needs."""
    above: dict[str, list[GraphEdge]] = {}
    for edge in graph.edges:
        above.setdefault(edge.task_id, []).append(edge)
    return above


def _in_order(nodes: Mapping[str, GraphNode], above: Mapping[str, Sequence[GraphEdge]]) -> list[str]:
    """Every task after all that it needs, else in the order of `nodes`. What waits in a circle comes last."""
    number = {task_id: n for n, task_id in enumerate(nodes)}
    left = {task_id: len(above.get(task_id, ())) for task_id in nodes}
    below: dict[str, list[str]] = {}
    for task_id, edges in above.items():
        for edge in edges:
            below.setdefault(edge.needs, []).append(task_id)
    ready = deque(task_id for task_id in nodes if not left[task_id])
    order: list[str] = []
    while ready:
        order.append(ready.popleft())
        for task_id in sorted(below.get(order[-1], ()), key=number.__getitem__):
            left[task_id] -= 1
            if not left[task_id]:
                ready.append(task_id)
    placed = set(order)
    return order + [task_id for task_id in nodes if task_id not in placed]


def _note(edges: Sequence[GraphEdge], parent: str | None) -> str:
    """What the lines of the drawing do not say."""
    said = []
    if next((edge for edge in edges if edge.needs == parent and edge.continues), None):
        said.append("goes on with its conversation")
    for word, continues in (("also needs", False), ("goes on with", True)):
        others = [_one_line(edge.needs) for edge in edges if edge.needs != parent and edge.continues is continues]
        if others:
            more = f" and {len(others) - ALSO_NAMED} more" if len(others) > ALSO_NAMED else ""
            said.append(f"{word} {', '.join(others[:ALSO_NAMED])}{more}")
    return "; ".join(said)
