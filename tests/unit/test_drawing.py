"""A graph as lines of text and as a flowchart."""

import random
import re
import time
from collections.abc import Collection

from turbo.client import drawing
from turbo.client.graph import Graph, GraphEdge, GraphNode

ODD = 'a\x1b[2J"]\n-->b`#<script>&\u202e'


def graph(
    edges: dict[str, list[str]], *, modes: dict[str, str] | None = None, continues: Collection[str] = ()
) -> Graph:  # type: ignore[assignment]
    names = dict.fromkeys([name for task, needs in edges.items() for name in [*needs, task]])
    nodes = tuple(GraphNode(name, "pending") for name in names)
    lines = [
        GraphEdge(task, need, (modes or {}).get(task, "cancel"), False, task in continues)
        for task, needs in edges.items()
        for need in needs
    ]
    return Graph(next(iter(names)), nodes, tuple(lines))


def drawn(one: Graph) -> list[str]:
    return [f"{line.branch}{line.name} {line.note}".rstrip() for line in drawing.lines(one)]


def test_each_task_stands_below_the_last_of_its_needs() -> None:
    one = graph({"plan": [], "a": ["plan"], "b": ["plan"], "review": ["a", "b"], "ship": ["review"], "else": []})
    assert drawn(one) == [
        "plan", "├─ a", "└─ b", "   └─ review also needs a", "      └─ ship", "else",
    ]  # fmt: skip


def test_drawing_is_the_same_in_whatever_order_edges_come() -> None:
    one = graph({"plan": [], "a": ["plan"], "b": ["plan"], "c": ["plan"], "review": ["a", "b", "c"]})
    for seed in range(10):
        edges = random.Random(seed).sample(one.edges, len(one.edges))
        assert drawn(Graph(one.task_id, one.nodes, tuple(edges))) == drawn(one)


def test_conversation_is_told_apart_from_a_need() -> None:
    one = graph({"plan": [], "more": ["plan"], "docs": ["x"]}, continues={"more"})
    assert "└─ more goes on with its conversation" in drawn(one)
    assert "└─ docs" in drawn(one)


def test_many_needs_are_named_up_to_three() -> None:
    one = graph({"all": [f"n{n}" for n in range(6)]})
    assert drawn(one)[-1] == "└─ all also needs n0, n1, n2 and 2 more"


def test_long_chain_stays_narrow_and_is_drawn_whole() -> None:
    one = graph({f"n{n + 1}": [f"n{n}"] for n in range(10_000)})
    began = time.monotonic()
    found = drawn(one)
    assert time.monotonic() - began < 5
    assert len(found) == 10_001
    assert max(map(len, found)) < 70
    assert found[-1].strip() == "10000· n10000"


def test_wide_graph_is_drawn_whole() -> None:
    one = graph({f"n{n}": ["hub"] for n in range(10_000)} | {"end": [f"n{n}" for n in range(10_000)]})
    found = drawn(one)
    assert len(found) == 10_002
    assert found[-1] == "   └─ end also needs n0, n1, n2 and 9996 more"


def test_every_task_is_drawn_once_whatever_the_edges() -> None:
    dice = random.Random(7)
    for size in range(1, 60):
        names = [f"n{n}" for n in range(size)]
        edges = {name: dice.sample(names[:n], dice.randint(0, n)) for n, name in enumerate(names)}
        found = [line.name for line in drawing.lines(graph(edges))]
        assert sorted(found) == sorted(names)
    circle = graph({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})
    assert sorted(line.name for line in drawing.lines(circle)) == ["a", "b", "c", "d"]


def test_hostile_id_is_text_in_both_drawings() -> None:
    one = graph({ODD: [], "b": [ODD, "c"], "d": ["b"]}, modes={"b": "run", "d": "wait"}, continues={"d"})
    assert not set("\x1b\n\u202e") & set("".join(drawn(one)))
    chart = drawing.mermaid(one)
    first = chart.splitlines()[1]
    assert re.fullmatch(r'  n0\["[\w ./:#;-]*<br/>pending"\]:::open', first), first
    assert "n0 -.-> n2" in chart
    assert "-. continues .->" in chart
    assert "<script" not in chart
