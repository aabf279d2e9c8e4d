"""A graph of tasks and a conversation beside it, while workers are killed and the server crashes: everything runs, in its order."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded

LAYERS, WIDTH = sized(4, 12), sized(4, 20)
FOLLOW_UPS = sized(5, 20)
ROUNDS = sized(5, 25)
CRASHES = sized(1, 4)
"""Of the server, among the rounds."""

PROGRAM = (
    'printf "%s begin\\n" "$TURBO_TASK_ID" >>"$1"; sleep 0.1; printf "%s end\\n" "$TURBO_TASK_ID" >>"$1"; printf 1'
)

pytestmark = [pytest.mark.sized]


@pytest.fixture
def bench(own_server: embedded.Server, tmp_path: Path) -> Iterator[Bench]:
    one = Bench(own_server.dsn, tmp_path)
    yield one
    one.close()


class Graph:
    """Layers of tasks, each of which needs two of the layer before; and follow-ups of one task, all inserted at once."""

    def __init__(self, server: embedded.Server, bench: Bench, without: tuple[str, ...] = ()) -> None:
        self._server, self.bench, self._without = server, bench, without
        self._dice = random.Random(5)
        self.needs: dict[str, list[str]] = {}
        for layer in range(LAYERS):
            for place in range(WIDTH):
                before = [f"l{layer - 1}.{(place + n) % WIDTH}" for n in range(2)] if layer else []
                self.needs[f"l{layer}.{place}"] = before
        for n in range(FOLLOW_UPS):
            self.needs[f"f{n}"] = ["l0.0" if n == 0 else f"f{n - 1}"]
        for task_id, needs in self.needs.items():
            columns = "needs" if task_id[0] == "l" else "continues"
            value = (needs or None) if task_id[0] == "l" else "l0.0"
            bench.sql(
                f"insert into agent_tasks (task_id, task_description, max_retries, {columns}) values (%s, 'x', 0, %s)",
                task_id,
                value,
            )
        self.workers = [self._start(n) for n in range(2)]
        for worker in self.workers:
            worker.listening()

    def _start(self, n: int) -> WorkerProcess:
        config = self.bench.config(name=f"w{n}", slots=4, poll_seconds=1)
        config["executors"]["works"] = {
            "kind": "command", "command": ["/bin/sh", "-c", PROGRAM, "sh", str(self.bench.ledger)], "grace_seconds": 1,
        }  # fmt: skip
        config["routes"]["default"] = "works"
        return self.bench.start(config, without=self._without)

    def over(self) -> int:
        return int(
            self.bench.sql("select count(*) from agent_tasks where status in ('completed', 'failed', 'cancelled')")[0][
                0
            ]
        )

    def breaks(self) -> None:
        """In step with the work: the last kill hits the last tasks."""
        crash = {ROUNDS * (n + 1) // (CRASHES + 1) for n in range(CRASHES)}
        for number in range(ROUNDS):
            until(lambda n=number: self.over() >= len(self.needs) * n // ROUNDS, 60, lambda: self.bench.logs()[-6000:])  # type: ignore[misc]
            if number in crash:
                self._server.stop("immediate")
                self._server.start_again()
            n = self._dice.randrange(len(self.workers))
            self.workers[n].kill()
            self.workers[n].process.wait(timeout=30)
            self.workers[n] = self._start(n)

    def finish(self, seconds: float) -> None:
        until(lambda: self.over() == len(self.needs), seconds, lambda: f"{self.blocked()}\n{self.bench.logs()[-6000:]}")

    def blocked(self) -> list[tuple[object, ...]]:
        return self.bench.sql("select task_id, status from agent_tasks where status <> 'completed' order by 1")

    def complaints(self) -> list[str]:
        found = [f"{task_id} is {status}" for task_id, status in self.blocked()]
        lines = [line.split() for line in self.bench.ledger.read_text().splitlines()]
        ended: set[str] = set()
        for task_id, what in lines:
            if what == "end":
                ended.add(task_id)
            elif early := [need for need in self.needs[task_id] if need not in ended]:
                found.append(f"{task_id} begins before the end of {early}")
        twice = (
            "select task_id, count(*) from agent_actions where action_type = 'finished' and to_status = 'completed' group by 1"
            " having count(*) > 1"
        )
        found += [f"{task_id} was recorded {n} times" for task_id, n in self.bench.sql(twice)]
        left = "select (select count(*) from agent_blocked), (select count(*) from agent_unsettled), turbo_unsettled()"
        until(lambda: self.bench.sql(left) == [(0, 0, False)], 30, lambda: str(self.bench.sql(left)))
        return found


@pytest.mark.timeout(sized(300, 1500))
def test_killed_workers_and_a_crash_release_all_in_order(own_server: embedded.Server, bench: Bench) -> None:
    one = Graph(own_server, bench)
    one.breaks()
    one.finish(120)
    assert not one.complaints()


def test_release_by_one_need_alone_is_noticed(own_server: embedded.Server, bench: Bench) -> None:
    """The control: a task is let go while one of its needs is still to run."""
    one = Graph(own_server, bench, without=("last_need",))
    one.finish(120)
    assert any("begins before" in complaint for complaint in one.complaints())


def test_without_a_settler_nothing_is_released(own_server: embedded.Server, bench: Bench) -> None:
    """The control: nothing else lets a task go."""
    one = Graph(own_server, bench, without=("settler",))
    until(lambda: one.over() == WIDTH, 60)
    assert {status for _, status in one.blocked()} == {"blocked"}
