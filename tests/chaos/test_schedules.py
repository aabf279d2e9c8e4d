"""A schedule of seconds, while workers are killed, backends are terminated and the server crashes: each second has one task."""

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import schedules
from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded

ROUNDS = sized(3, 60)

pytestmark = [pytest.mark.sized, pytest.mark.timeout(sized(240, 3600))]


@pytest.fixture
def bench(own_server: embedded.Server, tmp_path: Path) -> Iterator[Bench]:
    one = Bench(own_server.dsn, tmp_path)
    yield one
    one.close()


def fired(server: embedded.Server) -> int:
    with psycopg.connect(server.dsn, autocommit=True) as db:
        return len(schedules.slots(db, "tick"))


def test_each_second_has_one_task_through_every_fault(own_server: embedded.Server, bench: Bench) -> None:
    dice = random.Random(11)
    workers: list[WorkerProcess] = [bench.start(name=f"w{n}", poll_seconds=1).listening() for n in range(2)]
    with psycopg.connect(own_server.dsn, autocommit=True) as db:
        schedules.add(db, "tick", "* * * * * *", task_type="noop", overlap="queue", catch_up="all")
    for number in range(ROUNDS):
        before = fired(own_server)
        match ("worker", "backends", "server")[number % 3]:
            case "worker":
                n = dice.randrange(2)
                workers[n].kill()
                workers[n] = bench.start(name=f"w{n}", poll_seconds=1)
            case "backends":
                with psycopg.connect(own_server.dsn, autocommit=True) as db:
                    db.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where application_name like 'turbo %' and pid <> pg_backend_pid()"
                    )
            case _:
                own_server.stop("immediate")
                own_server.start_again()
        until(lambda before=before: fired(own_server) >= before + 2, 60)  # type: ignore[misc]
    with psycopg.connect(own_server.dsn, autocommit=True) as db:
        seconds = [int(slot.timestamp()) for slot in schedules.slots(db, "tick")]
        assert seconds == list(range(seconds[0], seconds[0] + len(seconds)))
        schedules.once_each(db)
        print(f"{len(seconds)} seconds through {ROUNDS} faults, one task each")
        assert schedules.row(db, "tick")["error"] is None
