"""A failover of two nodes: what an asynchronous one loses is put back, and nothing waits for a host that is gone."""

import pytest

from tests import workers
from tests.ha.nodes import Nodes, bare_client, nodes, one
from tests.workers import Bench, WorkerProcess, until

TICKS = 40
"""More than the 32 numbers that a sequence writes ahead into the WAL, so that a promoted standby repeats some."""


def claims(dsn: str) -> set[int]:
    with_rows = "select coalesce(array_agg(fencing_token), '{}') from agent_actions where action_type = 'claimed'"
    return set(one(dsn, with_rows))


def lost_in_a_failover(bench: Bench, pair: Nodes, without: tuple[str, ...]) -> tuple[WorkerProcess, set[int]]:
    """One result acknowledged, one run going on, forty light tasks done; then the primary dies with all of it."""
    bench.insert("result")
    bench.insert("running", {"seconds": 6})
    for i in range(TICKS):
        bench.insert(f"tick{i}", task_type="noop")
    pair.caught_up()
    pair.cut()
    worker = bench.start(without=without, slots=4).listening()
    bench.wait("result")
    until(lambda: bench.runs()["running"] == 1)
    until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 1,)])
    tokens = claims(pair.primary.dsn)
    pair.kill()
    lost = "select count(*) from agent_tasks where status = 'pending' and fencing_token is null"
    assert one(pair.standby.dsn, lost) == TICKS + 2, "the fault bit: acknowledged results and claims are lost"
    assert one(pair.standby.dsn, "select count(*) from agent_actions") == 0
    assert one(pair.standby.dsn, "select count(*) from agent_workers") == 0
    pair.promote()
    return worker, tokens


def test_an_asynchronous_failover_that_loses_the_last_wal_loses_no_work(tmp_path):
    with nodes() as pair, workers.bench(pair.dsn, tmp_path) as bench:
        worker, tokens = lost_in_a_failover(bench, pair, ())
        bench.wait("result")
        bench.wait("running")
        assert bench.runs() == {"result": 1, "running": 1}
        assert bench.trail("result") == ["finished"], "replayed from done/"
        assert bench.trail("running") == ["reasserted", "finished"]
        worker.said("claim reasserted")
        until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 2,)])
        again = claims(pair.standby.dsn)
        assert len(again) == TICKS
        assert {t >> 20 for t in again} & {t >> 20 for t in tokens}, "the sequence did repeat itself"
        assert not again & tokens, "no fencing token is equal to one that the lost primary gave"
        assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("without", "runs"), [("replay", {"result": 2, "running": 1}), ("reassert", {"result": 1, "running": 2})]
)
def test_without_its_guard_the_failover_costs_a_second_run(tmp_path, without, runs):
    """The controls. Where nothing is replayed or reasserted, the worker claims again what is pending."""
    with nodes() as pair, workers.bench(pair.dsn, tmp_path) as bench:
        lost_in_a_failover(bench, pair, (without,))
        until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 2,)], 40)
        assert bench.runs() == runs


def test_without_random_bits_fencing_tokens_are_given_twice(tmp_path):
    """The control."""
    with nodes() as pair, workers.bench(pair.dsn, tmp_path) as bench:
        _, tokens = lost_in_a_failover(bench, pair, ("random_token",))
        until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 2,)], 40)
        assert claims(pair.standby.dsn) & tokens
