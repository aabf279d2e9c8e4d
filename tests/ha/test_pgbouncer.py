"""A worker behind PgBouncer: in session mode all is as without, in transaction mode it says so once, and polls."""

import pytest

from tests.support import workers
from tests.support.pgbouncer import pgbouncer
from tests.support.waiting import until


def test_session_mode_delivers_notifications_across_a_restart(own_server, tmp_path):
    with pgbouncer(own_server.dsn, "session") as pool, workers.bench(own_server.dsn, tmp_path) as bench:
        worker = bench.start(dsn=pool.dsn, poll_seconds=3600).listening()
        until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
        bench.insert("first")
        bench.wait("first")
        assert worker.metric(bench.dsn, "turbo_listener_up") == 1
        own_server.stop("immediate")
        own_server.start_again()
        worker.said("listener is back")
        until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
        bench.insert("second")
        bench.wait("second")
        assert bench.runs() == {"first": 1, "second": 1}
        assert "notifications do not arrive" not in worker.log


def test_transaction_mode_is_reported_once_and_polled(dsn, tmp_path):
    with pgbouncer(dsn, "transaction", pool_size=3) as pool, workers.bench(dsn, tmp_path) as bench:
        started = [bench.start(name=f"w{i}", slots=4, dsn=pool.dsn) for i in range(2)]
        for worker in started:
            worker.said("is a pooler in transaction mode in the way?")
        ids = [f"t{i}" for i in range(60)]
        for task_id in ids:
            bench.insert(task_id, task_type="noop" if int(task_id[1:]) % 2 else "ledger")
        until(
            lambda: bench.sql("select count(*) from agent_tasks where status = 'completed'") == [(60,)], 60, bench.logs
        )
        assert bench.runs() == dict.fromkeys(ids[::2], 1)
        assert bench.sql("select count(*) from agent_actions where action_type = 'finished'") == [(60,)]
        assert bench.sql("select bool_or(idle) from agent_workers") == [(False,)], "it must not hold the gate open"
        pool.change("session")
        bench.insert("later")
        bench.wait("later")
        for worker in started:
            worker.said("listening on channel", seconds=50)
            assert worker.log.count("is a pooler in transaction mode in the way?") == 1
            assert "prepared statement" not in worker.log
            assert "ERROR" not in worker.log, worker.log


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_worker_waits_for_a_killed_pooler_and_loses_nothing(dsn, tmp_path, mode):
    with workers.bench(dsn, tmp_path) as bench:
        with pgbouncer(dsn, mode) as pool:
            worker = bench.start(dsn=pool.dsn)
            worker.said("listening on channel" if mode == "session" else "is a pooler in transaction mode")
            bench.insert("t", {"seconds": 2})
            until(lambda: bench.runs()["t"])
        until(lambda: list((tmp_path / "state/workers" / worker.worker_id / "spool").glob("*.json")))
        assert bench.row("t")["status"] == "running", "the fault bit: nobody could record it"
        worker.kill()
        worker.process.wait()
        with pgbouncer(dsn, mode) as pool:
            bench.start(dsn=pool.dsn)
            bench.wait("t")
        assert bench.runs() == {"t": 1}
