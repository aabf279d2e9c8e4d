"""Whole workers meet rows that the database refuses, as people make them, and `turbo status` says so."""

import secrets

import psycopg
import pytest

from tests.support.shell import Shell
from tests.support.waiting import until
from tests.support.workers import Bench


def problems(bench: Bench) -> list[str]:
    return [problem["what"] for problem in Shell(bench.dsn, bench.path)("status", "--json").json["problems"]]


def test_id_that_the_trail_cannot_take_stops_no_queue(bench: Bench) -> None:
    """2,688 random bytes, inserted past the triggers: the primary key takes them, the audit trail's index does not."""
    long_id = secrets.token_hex(1344)
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        db.execute("set session_replication_role = replica")
        db.execute("insert into agent_tasks (task_id, task_description) values (%s, 'x')", [long_id])
        db.execute(
            "insert into agent_tasks (task_id, task_description, status, run_after)"
            " values (%s, 'x', 'scheduled', now()), ('due', 'x', 'scheduled', now())",
            [long_id[::-1]],
        )
    worker = bench.start(slots=4).listening()
    bench.insert("good")
    bench.wait("good")
    bench.wait("due")
    until(lambda: len(problems(bench)) >= 2, 10, lambda: str(problems(bench)))
    assert sorted(what.partition("the database")[0].partition("…")[2] for what in problems(bench) if "…" in what) == [
        " cannot be claimed: ",
        " cannot become pending: ",
    ]
    assert worker.metric(bench.dsn, "turbo_refused_rows_total", statement="claim") >= 1
    assert worker.metric(bench.dsn, "turbo_refused_rows_total", statement="promotion") >= 1
    assert worker.metric(bench.dsn, "turbo_problems", kind="refused_row") == 2
    assert worker.log.count("the database refuses this row") == 2, "said once for each"


@pytest.mark.parametrize("where", ["the same host", "another host"])
def test_check_that_a_running_row_breaks_is_no_end(bench: Bench, where: str) -> None:
    """Four tasks run. The owner adds a CHECK, NOT VALID, that one of them breaks; then their worker is killed."""
    gate = bench.path / "gate"
    first = bench.start(slots=4, state_dir=str(bench.path / "state")).listening()
    for number in range(4):
        bench.insert(f"t{number}", {"gate": str(gate)}, task_priority=10 if number == 2 else 5)
    until(lambda: len(bench.runs()) == 4, 20, "four run")
    bench.sql("alter table agent_tasks add constraint low check (task_priority < 10) not valid")
    first.kill()
    first.process.wait()
    state = "state" if where == "the same host" else "other"
    second = bench.start(slots=4, state_dir=str(bench.path / state)).listening()
    gate.touch()
    for number in (0, 1, 3):
        bench.wait(f"t{number}")
    bench.insert("later")
    bench.wait("later")
    row = bench.row("t2")
    assert (row["status"], row["assigned_worker_id"]) == ("running", first.worker_id), "the fault bit"
    said = "task t2 cannot be taken back from its dead worker: the database refuses its row"
    until(lambda: any(said in what for what in problems(bench)), 10, lambda: str(problems(bench)))
    assert second.log.count("the database refuses this row") == 1
    bench.sql("alter table agent_tasks drop constraint low")
    bench.wait("t2")
    until(lambda: not any(said in what for what in problems(bench)), 10, lambda: str(problems(bench)))
    assert bench.runs() == {"t0": 2, "t1": 2, "t2": 2, "t3": 2, "later": 1}
