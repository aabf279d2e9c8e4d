"""What is on disk is sent again after a restart and after a reconnect: it answers for its own run, and for nothing else."""

import os
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.support.rig import Rig, finished
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.domain.claim import ClaimRef
from turbo.domain.result import RunResult
from turbo.host.spool import Spool


def homes(bench: Bench) -> list[Path]:
    return sorted((bench.path / "state/workers").iterdir())


@pytest.mark.parametrize(
    ("without", "status"), [((), "scheduled"), (("same_id",), "completed")], ids=["guarded", "control"]
)
def test_result_of_a_deleted_row_is_not_used_for_its_successor(bench, without, status):
    """A nightly job deletes its row and inserts it again, due tonight; then a worker is restarted."""
    first = bench.start(without=without).listening()
    bench.insert("nightly", {"night": 1})
    bench.wait("nightly")
    bench.sql("delete from agent_tasks where task_id = 'nightly'")
    bench.insert("nightly", {"night": 2}, run_after="2099-01-01")
    assert first.stop() == 0
    second = bench.start(without=without)
    second.said("results of earlier workers sent again: 1 " + ("recorded" if without else "already"))
    second.listening()
    row = bench.row("nightly")
    assert row["status"] == status
    assert (row["output_data"] is None) == (not without)


def test_interrupted_takeover_is_restarted(bench):
    """The session of the start-up is ended while it waits for a lock; the dead worker's task does not wait for its lease."""
    quiet = {"heartbeat_seconds": 20, "lease_seconds": 120}
    first = bench.start(**quiet).listening()
    bench.insert("t", {"seconds": 300})
    until(lambda: bench.runs()["t"] == 1)
    first.kill()
    first.process.wait()
    bench.sql("update agent_tasks set input_data = '{}' where task_id = 't'")
    with psycopg.connect(bench.dsn) as db:
        db.execute("select from agent_workers where worker_id = %s for update", [first.worker_id])
        second = bench.start(**quiet)
        waits = (
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name like 'turbo claims %%' and datname = current_database()"
            " and wait_event_type = 'Lock'"
        )
        until(lambda: bench.sql(waits) == [(True,)], what="the start-up waits for the row, and its session is ended")
        second.said("waiting for the database")
    second.listening()
    bench.wait("t", seconds=20)
    assert bench.trail("t")[:3] == ["claimed", "edited", "rescued"]
    assert [h.name for h in homes(bench)] == [second.worker_id], "nothing is left of the dead"


async def test_result_of_a_missing_row_is_kept_once(dsn):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        async with Rig(dsn) as rig:
            task, _ = await rig.claimed()
            with db.transaction():
                db.execute("set local session_replication_role = replica")
                db.execute("delete from agent_tasks")
            result = finished(ClaimRef(task.task_id, task.fencing_token), rig.worker_id)
            said = [(await rig.stores.results.finish([result]))[0].verdict for _ in range(3)]
        assert said == ["gone", "already", "already"]
        assert db.execute("select count(*) from agent_actions where action_type = 'late'").fetchone() == (1,)


def test_spool_takeover_keeps_ages_and_skips_damaged_files(tmp_path):
    mine, theirs = Spool(tmp_path / "mine"), Spool(tmp_path / "theirs")
    result = RunResult("t", 5, "succeeded")
    waiting, over = theirs.put(result), theirs.put(replace(result, task_id="over"))
    theirs.done(over)
    long_ago = time.time() - 1800
    os.utime(theirs.directory / "done" / over.path.name, (long_ago, long_ago))
    (theirs.directory / "00000000000000000001.json").write_text('{"format": 1, "sha256": "00", "result": "{}"}')
    taken = mine.put(replace(result, task_id="of the same name"))
    taken.path.rename(mine.directory / waiting.path.name)
    mine.adopt(theirs)
    assert sorted(e.result.task_id for e in mine.pending()) == ["of the same name", "t"]
    assert [e.result.task_id for e in mine.recently_done()] == ["over"]
    assert (mine.directory / "done" / over.path.name).stat().st_mtime == pytest.approx(long_ago)
    assert [p.parent.name for p in theirs.directory.rglob("*.json")] == ["corrupt"]
