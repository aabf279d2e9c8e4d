"""A graph of tasks and a conversation beside it, and people who tell them things, while workers are killed, the server crashes and
a standby takes over that lags behind: everything runs, in its order, and no message is lost."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.soak.graphs import too_many_at_once
from tests.support import workers
from tests.support.replication import Nodes, nodes, one
from tests.support.size import sized
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded

LAYERS, WIDTH = sized(4, 12), sized(4, 20)
CROWD = 3
"""So many tasks of the layers, and of the conversation beside them, run at a time: they have one key."""

FOLLOW_UPS = sized(5, 20)
ROUNDS = sized(5, 25)
CRASHES = sized(1, 4)
"""Of the server, among the rounds."""

PROGRAM = """said=$(grep -o 'M<[^>]*>' | sort -u | tr '\\n' ',')
printf "%s begin %s\\n" "$TURBO_TASK_ID" "$said" >>"$1"; sleep 0.1; printf "%s end\\n" "$TURBO_TASK_ID" >>"$1"; printf 1"""
OWN = "coalesce(idempotency_key, '') not like 'message %%'"
"""Not what a message became."""
OVER = f"select count(*) from agent_tasks where status in ('completed', 'failed', 'cancelled') and {OWN}"

pytestmark = [pytest.mark.sized]


@pytest.fixture
def bench(own_server: embedded.Server, tmp_path: Path) -> Iterator[Bench]:
    one = Bench(own_server.dsn, tmp_path)
    yield one
    one.close()


class Graph:
    """Layers of tasks, each of which needs two of the layer before; and follow-ups of one task, all inserted at once."""

    def __init__(
        self, server: embedded.Server, bench: Bench, without: tuple[str, ...] = (), pair: Nodes | None = None
    ) -> None:
        self._server, self.bench, self._without, self._pair = server, bench, without, pair
        self._dice = random.Random(5)
        self.told = Told()
        self._numbers = itertools.count()
        self.needs: dict[str, list[str]] = {}
        for layer in range(LAYERS):
            for place in range(WIDTH):
                before = [f"l{layer - 1}.{(place + n) % WIDTH}" for n in range(2)] if layer else []
                self.needs[f"l{layer}.{place}"] = before
        for n in range(FOLLOW_UPS):
            self.needs[f"f{n}"] = ["l0.0" if n == 0 else f"f{n - 1}"]
        bench.sql("insert into agent_limits values ('crowd', %s)", CROWD)
        for task_id, needs in self.needs.items():
            columns = "needs" if task_id[0] == "l" else "continues"
            value = (needs or None) if task_id[0] == "l" else "l0.0"
            key = "crowd" if task_id[0] == "l" else None  # a follow-up inherits it
            bench.sql(
                f"insert into agent_tasks (task_id, task_description, max_retries, concurrency_key, {columns})"
                " values (%s, 'x', 0, %s, %s)",
                task_id,
                key,
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
        return self.bench.start(config, without=self._without, dsn=self._pair.dsn if self._pair else None)

    def over(self) -> int:
        return int(self.bench.sql(OVER)[0][0])

    def say(self, times: int) -> None:
        for _ in range(times):
            self.told.tell(self.bench, self._dice, next(self._numbers))

    def fails_over(self) -> None:
        """The last things that were said, and what ran meanwhile, never reach the standby."""
        pair = self._pair
        assert pair is not None
        pair.caught_up()
        pair.cut()
        over = self.over()
        self.say(3)
        until(lambda: self.over() > over, 60, lambda: self.bench.logs()[-6000:])
        lost = self.over()
        pair.kill()
        assert one(pair.standby.dsn, OVER) < lost, "it bit: and the workers send again what the standby never had"
        pair.promote()
        self.bench.sessions.close()
        self.bench.dsn = pair.standby.dsn
        assert one(self.bench.dsn, "select pg_is_in_recovery()") is False
        self.told.forget({body for (body,) in self.bench.sql("select body from agent_messages")})

    def breaks(self) -> None:
        """In step with the work: the last kill hits the last tasks."""
        many = CRASHES if self._pair is None else 1  # there is one standby
        crash = {ROUNDS * (n + 1) // (many + 1) for n in range(many)}
        for number in range(ROUNDS):
            until(lambda n=number: self.over() >= len(self.needs) * n // ROUNDS, 60, lambda: self.bench.logs()[-6000:])  # type: ignore[misc]
            self.say(2)
            if number in crash and self._pair is not None:
                self.fails_over()
            elif number in crash:
                self._server.stop("immediate")
                self._server.start_again()
            n = self._dice.randrange(len(self.workers))
            self.workers[n].kill()
            self.workers[n].process.wait(timeout=30)
            self.workers[n] = self._start(n)

    def finish(self, seconds: float) -> None:
        left = "select count(*) from agent_tasks where status not in ('completed', 'failed', 'cancelled')"
        until(lambda: self.over() == len(self.needs), seconds, lambda: f"{self.blocked()}\n{self.bench.logs()[-6000:]}")
        until(lambda: self.bench.sql(left) == [(0,)], seconds, lambda: str(self.blocked()))

    def blocked(self) -> list[tuple[object, ...]]:
        return self.bench.sql("select task_id, status from agent_tasks where status <> 'completed' order by 1")

    def complaints(self) -> list[str]:
        found = [f"{task_id} is {status}" for task_id, status in self.blocked()]
        lines = [line.split() for line in self.bench.ledger.read_text().splitlines()]
        ended: set[str] = set()
        heard: dict[str, set[str]] = {}
        for task_id, what, *said in lines:
            heard.setdefault(task_id, set()).update(said[0].split(",") if said else ())
            if what == "end":
                ended.add(task_id)
            elif early := [need for need in self.needs.get(task_id, ()) if need not in ended]:
                found.append(f"{task_id} begins before the end of {early}")
        twice = (
            "select task_id, count(*) from agent_actions where action_type = 'finished' and to_status = 'completed' group by 1"
            " having count(*) > 1"
        )
        found += [f"{task_id} was recorded {n} times" for task_id, n in self.bench.sql(twice)]
        left = "select (select count(*) from agent_blocked), (select count(*) from agent_unsettled), turbo_unsettled()"
        until(lambda: self.bench.sql(left) == [(0, 0, False)], 30, lambda: str(self.bench.sql(left)))
        with psycopg.connect(self.bench.dsn, row_factory=dict_row) as db:
            rows = {r["task_id"]: r for r in db.execute("select * from agent_tasks")}
            messages = {m["body"]: m for m in db.execute("select * from agent_messages")}
            entries = db.execute("select * from agent_actions order by action_id").fetchall()
        trail: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            trail.setdefault(entry["task_id"], []).append(entry)
        for row in rows.values():
            row["task_type"] = "work"  # its program has a ledger
        found += too_many_at_once(rows, entries, {"crowd": CROWD})
        found += self.told.complaints(rows, trail, messages, set(), heard)
        return found


@pytest.mark.timeout(sized(300, 1500))
def test_killed_workers_and_a_crash_release_all_in_order(own_server: embedded.Server, bench: Bench) -> None:
    one = Graph(own_server, bench)
    one.breaks()
    one.finish(120)
    assert not one.complaints()
    assert one.told.said


@pytest.mark.timeout(sized(300, 900))
def test_failover_releases_all_in_order(tmp_path: Path) -> None:
    with nodes() as pair, workers.bench(pair.primary.dsn, tmp_path) as bench:
        one = Graph(pair.primary, bench, pair=pair)
        one.breaks()
        one.finish(180)
        assert not one.complaints()
        assert one.told.said


def test_without_a_look_for_them_messages_stay_open(own_server: embedded.Server, bench: Bench) -> None:
    """The control: a message that came too late for a run is nobody's."""
    one = Graph(own_server, bench, without=("left_over",))
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'running'") > [(0,)], 60)
    one.say(20)
    until(lambda: one.over() == len(one.needs), 120, bench.logs)
    quiet = "select count(*) from agent_tasks where status in ('pending', 'running', 'blocked')"
    until(lambda: bench.sql(quiet) == [(0,)], 30)
    assert bench.sql("select count(*) from agent_messages where delivered_at is null") > [(0,)]
    assert bench.sql("select turbo_unsettled()") == [(True,)]


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
