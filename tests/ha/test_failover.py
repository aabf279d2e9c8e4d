"""A failover of two nodes: what an asynchronous one loses is put back, and nothing waits for a host that is gone."""

import time

import psycopg
import pytest

from tests.support import workers
from tests.support.replication import Nodes, bare_client, nodes, one
from tests.support.size import sized
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess

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


def test_async_failover_that_loses_wal_loses_no_work(tmp_path):
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
def test_without_replay_a_failover_costs_a_second_run(tmp_path, without, runs):
    """The controls. Where nothing is replayed or reasserted, the worker claims again what is pending."""
    with nodes() as pair, workers.bench(pair.dsn, tmp_path) as bench:
        lost_in_a_failover(bench, pair, (without,))
        until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 2,)], 40)
        assert bench.runs() == runs


def test_without_random_bits_fencing_tokens_repeat(tmp_path):
    """The control."""
    with nodes() as pair, workers.bench(pair.dsn, tmp_path) as bench:
        _, tokens = lost_in_a_failover(bench, pair, ("random_token",))
        until(lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(TICKS + 2,)], 40)
        assert claims(pair.standby.dsn) & tokens


@pytest.mark.quiet
@pytest.mark.sized
@pytest.mark.parametrize(("end", "synchronous"), [("killed", False), ("frozen", False), ("killed", True)])
def test_first_claim_follows_within_2_s_of_promotion(tmp_path, capsys, end, synchronous):
    """Beside a bare psycopg client with the same DSN. Frozen: the dead host's sockets stay open, and take connections."""
    with nodes(synchronous=synchronous) as pair, workers.bench(pair.dsn, tmp_path) as bench:
        worker = bench.start(heartbeat_seconds=2, lease_seconds=60).listening()
        bench.insert("before")
        bench.wait("before")
        later = (
            "insert into agent_tasks (task_id, task_description, run_after) values (%s, 'x', now() + interval '1 day')"
        )
        bench.sql(later, "waiting")
        pair.caught_up()
        if end == "killed":
            pair.kill()
        else:
            pair.freeze()
        # An outage: beats fail, reconnects are at their longest pause. A frozen server is noticed after some seconds.
        time.sleep(sized(4, 8) if end == "killed" else 8)
        with bare_client(pair.dsn) as client:
            pair.promote()
            writes_at = time.time()
            with psycopg.connect(pair.standby.dsn, autocommit=True) as db:
                db.execute("update agent_tasks set run_after = now() where task_id = 'waiting'")
                claimed = "select extract(epoch from executed_at)::float8 from agent_actions where task_id = 'waiting'"
                claimed_at = until(lambda: db.execute(f"{claimed} and action_type = 'claimed'").fetchone())[0]
            bare_at = until(lambda: client.wrote_at)
        took, bare = claimed_at - writes_at, bare_at - writes_at
        with capsys.disabled():
            print(f"\n{end}, synchronous {synchronous}: first claim after {took:.2f} s, bare client {bare:.2f} s")
        assert took < 2
        bench.dsn = pair.standby.dsn
        bench.wait("waiting")
        bench.wait("bare")
        assert bench.runs() == {"before": 1, "waiting": 1, "bare": 1}
        worker.said("listener is back")
