"""Work done is work recorded, and nothing runs on when it should not: each way it can go wrong, done on purpose.

Runs are counted by a ledger that the task's own program writes. Every scenario asserts that its fault bit.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import conninfo

from tests.support import workers
from tests.support.proxy import proxy
from tests.support.rig import Rig, finished
from tests.support.waiting import gone, until
from turbo.host.sanitize import sanitize_result
from turbo.host.spool import Spool


def programs_of(bench, children: int) -> list[int]:
    """The pids of a task's program and of what it started, as they wrote them down."""
    file = bench.path / "ledger.pids"
    until(lambda: file.exists() and len(file.read_text().split()) == children)
    return [bench.entries()[-1]["pid"], *(int(p) for p in file.read_text().split())]


def watcher_of(worker) -> psutil.Process:
    return next(p for p in psutil.Process(worker.pid).children() if "turbo.process.reaper" in p.cmdline())


def test_killed_workers_task_runs_elsewhere_and_programs_end(bench):
    first = bench.start(name="first", state_dir=str(bench.path / "one")).listening()
    bench.insert("t", {"seconds": 300, "children": 2})
    pids = programs_of(bench, 2)
    assert not any(gone(p) for p in pids)
    second = bench.start(name="second", state_dir=str(bench.path / "two")).listening()
    bench.sql("update agent_tasks set input_data = '{}' where task_id = 't'")
    first.kill()
    killed = time.monotonic()
    until(lambda: all(gone(p) for p in pids), 5, "the program, its child and the child in a session of its own")
    row = bench.wait("t", seconds=30)
    took = time.monotonic() - killed
    assert row["assigned_worker_id"] == second.worker_id
    assert bench.runs() == {"t": 2}
    assert bench.trail("t") == ["claimed", "edited", "rescued", "promoted", "claimed", "finished"]
    assert row["retry_count"] == 0
    assert took < 4 + 2 * 1.5 + 2 + 5, "lease, two beats, backoff, and slack for a busy machine"


def test_without_the_watcher_a_killed_workers_programs_live_on(bench):
    """The control."""
    worker = bench.start().listening()
    bench.insert("t", {"seconds": 300, "children": 2})
    pids = programs_of(bench, 2)
    watcher_of(worker).kill()
    worker.kill()
    worker.process.wait()
    time.sleep(5)
    alive = [p for p in pids if not gone(p)]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert len(alive) == 3


def test_restarted_worker_rescues_its_predecessor_at_once(bench):
    first = bench.start(lease_seconds=3600).listening()
    bench.insert("t", {"seconds": 300})
    until(lambda: bench.runs()["t"])
    bench.sql("update agent_tasks set input_data = '{}' where task_id = 't'")
    first.kill()
    first.process.wait()
    second = bench.start(lease_seconds=3600)
    second.listening()
    bench.wait("t", seconds=20)
    assert "rescued" in bench.trail("t")
    assert bench.sql("select detail ->> 'reason' from agent_actions where action_type = 'rescued'") == [
        ("worker_restarted",)
    ]
    assert bench.runs() == {"t": 2}


def test_frozen_worker_overwrites_nothing_and_ends_its_program(bench):
    first = bench.start(name="first", state_dir=str(bench.path / "one")).listening()
    bench.insert("t", {"seconds": 300})
    until(lambda: bench.runs()["t"])
    program = bench.entries()[0]["pid"]
    second = bench.start(name="second", state_dir=str(bench.path / "two")).listening()
    bench.sql("update agent_tasks set input_data = '{}' where task_id = 't'")
    first.kill(signal.SIGSTOP)
    row = bench.wait("t", seconds=40)
    assert row["assigned_worker_id"] == second.worker_id
    assert not gone(program), "the fault bit: two runs at once, as documented"
    first.kill(signal.SIGCONT)
    until(lambda: gone(program), 20, "the program of the lost lease")
    first.said("lease lost")
    assert bench.row("t") == row, "the late one changed nothing"
    bench.insert("next")
    bench.wait("next")
    assert bench.sql("select count(*) from agent_workers where state = 'up'") == [(2,)], "it registered again"


@pytest.mark.parametrize(("without", "recorded"), [((), 1), (("fence", "lost_lease"), 2)], ids=["guarded", "control"])
def test_result_after_the_lease_reaches_only_the_audit_trail(bench, without, recorded):
    """Its program ends while the worker is frozen; the worker thaws after somebody else has done the task."""
    first = bench.start(name="first", state_dir=str(bench.path / "one"), without=without).listening()
    bench.insert("t", {"seconds": 3})
    until(lambda: bench.runs()["t"])
    program = bench.entries()[0]["pid"]
    first.kill(signal.SIGSTOP)
    bench.start(name="second", state_dir=str(bench.path / "two")).listening()
    row = bench.wait("t", seconds=40)
    assert gone(program), "the fault bit: its result is there to be handed over"
    assert bench.runs() == {"t": 2}
    first.kill(signal.SIGCONT)
    first.said("succeeded in", times=1)
    until(lambda: "late" in bench.trail("t") or bench.trail("t").count("finished") == 2)
    assert bench.trail("t").count("finished") == recorded
    assert (bench.row("t") == row) is (recorded == 1)


def test_without_the_orphan_search_a_lost_claim_is_stuck(bench):
    """The control."""
    where = conninfo.conninfo_to_dict(bench.dsn)
    with proxy(str(where["host"]), int(str(where["port"]))) as wire:
        dsn = conninfo.make_conninfo(bench.dsn, port=wire.port)
        bench.start(dsn=dsn, without=["orphans"]).listening()
        wire.swallow = b"lost_answer"
        bench.insert("lost_answer")
        until(lambda: wire.swallowed)
        for i in range(3):  # other work goes on, comparisons included
            bench.insert(f"t{i}", {"seconds": 1})
            bench.wait(f"t{i}")
        assert bench.row("lost_answer")["status"] == "running"
        assert bench.runs()["lost_answer"] == 0


def test_claim_with_a_lost_answer_is_released_and_run(bench):
    where = conninfo.conninfo_to_dict(bench.dsn)
    with proxy(str(where["host"]), int(str(where["port"]))) as wire:
        worker = bench.start(dsn=conninfo.make_conninfo(bench.dsn, port=wire.port)).listening()
        wire.swallow = b"lost_answer"
        bench.insert("lost_answer")
        bench.wait("lost_answer")
        assert wire.swallowed == 1
        assert bench.runs() == {"lost_answer": 1}
        assert bench.trail("lost_answer") == ["claimed", "rescued", "claimed", "finished"]
        worker.said("the answer to its claim was lost")


def test_claim_cut_off_by_a_drain_is_released(bench):
    """TERM comes between the claim's commit and its answer. Nobody may be left to rescue it: it is the last worker."""
    worker = bench.start().listening()
    with psycopg.connect(bench.dsn, autocommit=True) as past_the_triggers:
        past_the_triggers.execute("set session_replication_role = replica")
        past_the_triggers.execute(
            "insert into agent_tasks (task_id, task_description, status, assigned_worker_id, fencing_token, started_at)"
            " values ('cut off', 'x', 'running', %s, 7, now())",
            (worker.worker_id,),
        )
    assert worker.stop() == 0
    assert bench.row("cut off")["status"] == "pending"
    assert bench.trail("cut off") == ["rescued"]
    assert bench.sql("select count(*) from agent_workers") == [(0,)]


@pytest.mark.parametrize(("without", "runs"), [((), 2), (("consumed_token",), 1)], ids=["guarded", "control"])
def test_old_spool_file_does_not_answer_for_a_new_run(bench, without, runs):
    """A crash between the commit and the unlink, then a retry by hand. The control: neither the result nor the retry
    consumes the token, and the old file answers."""
    first = bench.start(without=without).listening()
    bench.insert("t", {"note": 1})
    bench.wait("t")
    done = until(lambda: list((bench.path / "state/workers" / first.worker_id / "spool/done").glob("*.json")))[0]
    first.kill()
    first.process.wait()
    shutil.move(done, done.parent.parent / done.name)  # as if the crash had come before the move
    if without:
        bench.sql("alter table agent_tasks disable trigger zz_turbo_judge_update")
    bench.sql("update agent_tasks set status = 'pending', run_after = now() where task_id = 't'")
    second = bench.start(without=without).listening()
    second.said("results of earlier workers sent again: 1")
    bench.wait("t")
    assert bench.runs() == {"t": runs}
    assert bench.row("t")["assigned_worker_id"] == (first if without else second).worker_id


def test_spooled_result_is_recorded_by_the_next_worker(own_server, tmp_path):
    """The program ends while the database is away, then its worker is killed: the file is all there is."""
    with workers.bench(own_server.dsn, tmp_path) as bench:
        first = bench.start().listening()
        bench.insert("t", {"seconds": 2})
        until(lambda: bench.runs()["t"])
        own_server.stop("immediate")
        spool = tmp_path / "state/workers" / first.worker_id / "spool"
        until(lambda: list(spool.glob("*.json")))
        first.kill()
        first.process.wait()
        own_server.start_again()
        # Pending if the crash came before the WAL of the claim was flushed: then the database never heard of the run.
        assert bench.row("t")["status"] in ("running", "pending"), "not recorded yet"
        bench.start()
        bench.wait("t")
        assert bench.runs() == {"t": 1}
        assert bench.trail("t")[-1] == "finished"


async def test_unstorable_result_does_not_block_its_batch(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db:
        await db.execute("insert into agent_tasks (task_description) select 'x' from generate_series(1, 10)")
        async with Rig(dsn, slots_size=10) as rig:
            tasks = [(await rig.claimed())[0] for _ in range(10)]
            bad = {"output": {"text": "a\0b\ud800c", "number": float("nan"), "kept": "yes"}}
            results = [finished(t, rig.worker_id) for t in tasks[:9]]
            results.append(finished(tasks[9], rig.worker_id, output=bad, error="x\0y"))
            with pytest.raises((psycopg.Error, UnicodeError)):  # the control: as it is, it takes the batch down
                await rig.stores.results.finish(results)
            answers = await rig.stores.results.finish([sanitize_result(r) for r in results])
            assert {a.verdict for a in answers} == {"recorded"}
            row = await (
                await db.execute("select output_data from agent_tasks where task_id = %s", [tasks[9].task_id])
            ).fetchone()
            assert row[0]["output"]["kept"] == "yes"
            assert row[0]["output"]["number"] == "nan"
            assert len(row[0]["altered"]) == 3


@pytest.mark.parametrize(
    ("without", "ends"), [((), "failed"), (("poison_cap",), "completed")], ids=["guarded", "control"]
)
def test_poison_task_stops_at_the_cap_and_others_finish(bench, without, ends):
    """From the first kill on; only the backoff between two rescues is cut short. Without the cap it goes round again."""
    bench.insert("poison", {"kill_worker": True}, queue="poison")
    state = str(bench.path / "victim")

    def victim():
        return bench.start(name="victim", queues=["poison"], state_dir=state, lease_seconds=3600, without=without)

    other = bench.start(name="other", state_dir=str(bench.path / "other")).listening()
    for n in range(5):
        killer = victim()
        if n:
            until(lambda n=n: bench.row("poison")["infra_count"] == n, what=f"rescue {n}")
            bench.sql("update agent_tasks set run_after = now() where task_id = 'poison' and status = 'scheduled'")
        assert killer.process.wait(60) == -signal.SIGKILL, "the fault bit"
        bench.insert(f"neighbour{n}")
    last = victim().listening()
    until(lambda: bench.row("poison")["infra_count"] == 5)
    if without:
        assert bench.row("poison")["status"] == "scheduled"
        bench.sql("update agent_tasks set input_data = '{}', run_after = now() where task_id = 'poison'")
    row = bench.wait("poison", ends)
    assert bench.runs()["poison"] == (6 if without else 5)
    if not without:
        assert row["failure_kind"] == "poison"
        assert "see the audit trail" in row["error_message"]
    for n in range(5):
        assert bench.wait(f"neighbour{n}")["assigned_worker_id"] == other.worker_id
    assert last.process.poll() is None


@pytest.mark.parametrize("without", [(), ("counted_silence",)], ids=["guarded", "control"])
def test_outage_past_the_lease_rescues_and_loses_nothing(own_server, tmp_path, without):
    """The control tells the dead by the age of their last beat: the first that is back takes the others for dead."""
    with workers.bench(own_server.dsn, tmp_path) as bench:
        started = [bench.start(name=f"w{i}", state_dir=str(tmp_path / f"s{i}"), without=without) for i in range(2)]
        for worker in started:
            worker.listening()
        for i, seconds in enumerate((3, 4, 12, 13)):  # two end in the outage, two after it
            bench.insert(f"t{i}", {"seconds": seconds})
        until(lambda: len(bench.runs()) == 4)
        own_server.stop()  # cleanly: a crash could lose the claims of its last moments, which is another story
        time.sleep(9)  # more than twice the lease
        own_server.start_again()
        for worker in started:
            worker.said("heartbeat is back")
        if without:
            until(lambda: any("marked dead" in worker.log for worker in started))
            return
        for i in range(4):
            bench.wait(f"t{i}", seconds=40)
        assert set(bench.runs().values()) == {1}
        assert bench.sql("select count(*) from agent_actions where action_type = 'rescued'") == [(0,)]
        for worker in started:
            assert "cannot" in worker.log or "lost" in worker.log, "the fault bit"
            assert len(worker.log.splitlines()) < 60, worker.log


def test_partial_spool_entry_is_set_aside(tmp_path):
    """Every prefix of a file that a crash may leave is put aside, and holds up no other."""
    spool = Spool(tmp_path / "spool")
    whole = spool.put(finished(workers_held(), "w"))
    content = whole.path.read_text()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        Path(whole.path.with_name(f"{length:020d}.json")).write_text(content[:length])
    whole.path.with_name("9.json").write_text(content.replace("done", "none"))
    assert [e.result for e in spool.pending()] == [whole.result]
    assert len(list((tmp_path / "spool/corrupt").iterdir())) == 5


def workers_held():
    from turbo.domain.claim import ClaimRef

    return ClaimRef("t", 7)
