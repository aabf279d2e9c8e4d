"""Large graphs, read, drawn and cancelled: at a cost a task that does not grow with them."""

import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.size import sized
from turbo import Client
from turbo.client import drawing

TASKS = sized(1_000, 10_000)
SIDE = sized(60, 300)
SECONDS = sized(20.0, 120.0)
"""On a loaded machine; a quadratic walk would take minutes."""

pytestmark = pytest.mark.sized

INSERT = (
    "insert into agent_tasks (task_id, task_description, status, needs)"
    " select {id}, 'x', 'blocked', '{{x}}' from generate_series(0, {n}) n"
)


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    """A chain c0 … cN, a fan-in of f1 … fN into f0, and a dense one: each right of r1 … needs each left of l1 …"""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")
        for name, count in (("c", TASKS), ("f", TASKS), ("l", SIDE), ("r", SIDE)):
            db.execute(INSERT.format(id=f"'{name}' || n", n=count).encode())
        for edges in (
            f"select 'c' || n + 1, 'c' || n from generate_series(0, {TASKS} - 1) n",
            f"select 'f0', 'f' || n from generate_series(1, {TASKS}) n",
            f"select 'r' || n, 'l' || m from generate_series(1, {SIDE}) n cross join generate_series(1, {SIDE}) m",
        ):
            db.execute(f"insert into agent_dependencies (task_id, needs) {edges}".encode())
    with Client(dsn) as one:
        yield one


def test_large_graphs_are_read_and_drawn_in_time(client: Client) -> None:
    began = time.monotonic()
    for start, nodes, edges in (
        ("c0", TASKS + 1, TASKS),
        (f"c{TASKS // 2}", TASKS + 1, TASKS),
        ("f0", TASKS + 1, TASKS),
        ("f7", TASKS + 1, TASKS),
        ("l1", 2 * SIDE, SIDE * SIDE),
    ):
        graph = client.graph(start, nodes=None)
        assert (len(graph.nodes), len(graph.edges), graph.cut) == (nodes, edges, False)
        assert sum(1 for _ in drawing.lines(graph)) == nodes
    cut = client.graph("l1", edges=SIDE)
    assert (len(cut.nodes), len(cut.edges), cut.cut) == (2 * SIDE, SIDE, True)
    assert (client.dependents("c0").blocked, client.dependents("f7").blocked) == (TASKS, 1)
    assert time.monotonic() - began < SECONDS


def test_large_graph_is_cancelled_in_one_statement(client: Client) -> None:
    began = time.monotonic()
    assert len(client.cancel("c5", graph=True)) == TASKS + 1
    assert client.graph("c0", nodes=None).by_status == {"cancelled": TASKS + 1}
    assert time.monotonic() - began < SECONDS
