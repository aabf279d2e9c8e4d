"""After a crash of the server, which forgets claims, no other worker claims what its own worker still runs."""

import signal
import time
from typing import Any

import pytest

from tests.support import workers
from tests.support.database import migrated_server
from tests.support.waiting import until
from turbo.worker.recovery_gate import OTHERS_SECONDS


@pytest.mark.quiet
@pytest.mark.parametrize(("without", "runs"), [((), 1), (("recovery_gate",), 2)], ids=["guarded", "control"])
def test_claim_forgotten_by_a_crash_is_left_to_its_worker(tmp_path, without, runs):
    """`slow` is back half a second after `fast`, which has a free slot by then: as far apart as two listeners can be."""
    with (
        migrated_server({"wal_writer_delay": "10s", "autovacuum": "off"}) as server,
        workers.bench(server.dsn, tmp_path) as bench,
    ):
        quiet: dict[str, Any] = {
            "slots": 1,
            "heartbeat_seconds": 20,
            "lease_seconds": 60,
        }  # a beat of the wrong moment would flush the WAL
        fast = bench.start(name="fast", state_dir=str(tmp_path / "a"), without=["quick_return", *without], **quiet)
        fast.listening()
        gates = {name: tmp_path / name for name in ("busy", "t")}
        bench.insert("busy", {"gate": str(gates["busy"])})
        until(lambda: bench.runs()["busy"] == 1)
        slow = bench.start(name="slow", state_dir=str(tmp_path / "b"), without=["quick_return"], **quiet).listening()
        bench.insert("t", {"gate": str(gates["t"])})
        until(lambda: bench.runs()["t"] == 1)
        server.stop("immediate")
        slow.kill(signal.SIGSTOP)
        gates["busy"].touch()
        fast.said("succeeded in")
        server.start_again()
        time.sleep(0.4)
        slow.kill(signal.SIGCONT)
        until(lambda: bench.runs()["t"] == runs and (without or "reasserted" in bench.trail("t")), seconds=40)
        gates["t"].touch()
        bench.wait("t", seconds=40)
        assert bench.runs()["t"] == runs
        first = bench.trail("t")[0]
        assert first == ("claimed" if without else "reasserted"), "the fault bit: the first claim is forgotten"


def test_killed_backend_delays_no_claim(bench):
    """The same server, no crash: nothing is forgotten, and nobody waits."""
    worker = bench.start(poll_seconds=3600).listening()
    bench.insert("first")
    bench.wait("first")
    until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
    ended = (
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name like 'turbo %%' and datname = current_database()"
    )
    assert len(bench.sql(ended)) >= 3
    worker.said("listener is back")
    until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
    bench.insert("second")
    bench.wait("second")
    waited = worker.metric(bench.dsn, "turbo_pickup_seconds_sum", queue="default")
    assert waited < OTHERS_SECONDS, "both together"
