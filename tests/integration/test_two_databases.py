"""Two databases, one state directory: what belongs to one never reaches the other."""

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import database
from tests.support.pgbouncer import pgbouncer
from tests.support.rig import finished
from tests.support.waiting import until
from turbo.domain.claim import ClaimRef
from turbo.host.spool import Spool
from turbo.host.state_dir import StateDir, all_files, files_of, logs_of, owner_of


def query(dsn: str, text: str, *parameters: object) -> list[tuple]:  # type: ignore[type-arg]
    with psycopg.connect(dsn, autocommit=True) as db:
        cursor = db.execute(text, parameters)
        return cursor.fetchall() if cursor.description else []


def renew(dsn: str) -> str:
    """A test's databases are copies of one template, so they have one identity: give this one its own."""
    ((found,),) = query(
        dsn,
        "update turbo_meta set value = to_jsonb(gen_random_uuid()::text) where key = 'database_id' returning value #>> '{}'",
    )
    return str(found)


@pytest.fixture
def other(dsn: str) -> Iterator[str]:
    with database.migrated_database() as name:
        renew(name)
        renew(dsn)
        yield name


def identity(dsn: str) -> str:
    return str(query(dsn, "select turbo_database_id()")[0][0])


def insert(dsn: str, task_id: str) -> None:
    query(dsn, "insert into agent_tasks (task_id, task_description) values (%s, 'x')", task_id)


def claimed(dsn: str, task_id: str, worker: str) -> int:
    """A task that a worker claimed before it died. Returns its token."""
    insert(dsn, task_id)
    ((token,),) = query(
        dsn,
        "update agent_tasks set status = 'running', assigned_worker_id = %s, fencing_token = %s,"
        " started_at = now(), turbo_rev = turbo_rev + 1 where task_id = %s returning fencing_token",
        worker,
        secrets.randbits(50),
        task_id,
    )
    return int(token)


def status(dsn: str, task_id: str) -> str:
    return str(query(dsn, "select status from agent_tasks where task_id = %s", task_id)[0][0])


DEAD = "w-999999999-abcdef"  # no pid is so high


def test_dead_workers_result_waits_for_its_own_database(bench, other, shell):
    """Both have a running task `t`, as ids that people choose may be the same."""
    state = bench.path / "state"
    token = claimed(other, "t", DEAD)
    spool = Spool(StateDir(state).root / "workers" / DEAD / "spool")
    spool.put(finished(ClaimRef("t", token), DEAD))
    (state / "workers" / DEAD / "database").write_text(identity(other))
    insert(bench.dsn, "ours")
    worker = bench.start().listening()
    bench.wait("ours", "completed")
    assert "left alone: 1 results of the dead worker" in worker.log
    assert len(spool.pending()) == 1
    assert query(bench.dsn, "select count(*) from agent_actions where task_id = 't'") == [(0,)]
    doctor = shell("doctor", "--config", next(bench.path.glob("*.yaml")))
    assert f"1 of {DEAD} (database {identity(other)})" in doctor.out
    second = bench.start(dsn=other).listening()
    until(lambda: status(other, "t") == "completed")
    assert not (state / "workers" / DEAD).exists()
    # Their files are apart, too, and each command finds its own.
    insert(other, "ours")
    until(lambda: status(other, "ours") == "completed")
    assert owner_of(state) == identity(bench.dsn)
    assert all_files(state) == [state, state / "databases" / identity(other)]
    assert [len(list(logs_of(files_of(state, identity(d)), "ours").iterdir())) for d in (bench.dsn, other)] == [1, 1]
    for dsn in (bench.dsn, other):
        told = shell("logs", "ours", "--state-dir", state, "--dsn", dsn)
        assert str(files_of(state, identity(dsn)) / "logs" / "ours") in told.err
    assert second.stop() == worker.stop() == 0


def test_results_from_before_go_to_the_database_that_knows(bench, other):
    """Directories without an identity: one is this database's, by its claim; one is nobody's here."""
    state = StateDir(bench.path / "state").root
    ours, theirs = (f"w-99999999{n}-abcdef" for n in (1, 2))
    for worker, dsn in ((ours, bench.dsn), (theirs, other)):
        Spool(state / "workers" / worker / "spool").put(finished(ClaimRef("t", claimed(dsn, "t", worker)), worker))
    log = state / "logs" / "t" / f"1-{query(other, 'select fencing_token from agent_tasks')[0][0]}.log"
    log.parent.mkdir()
    log.write_text("a log of the other database")
    worker = bench.start().listening()
    assert status(bench.dsn, "t") == "completed"
    assert not (state / "workers" / ours).exists()
    assert len(Spool(state / "workers" / theirs / "spool").pending()) == 1
    assert "that this database does not know" in worker.log
    # Whose the logs are could be seen by a token in a name: the other database will have them.
    assert owner_of(state) is None
    assert files_of(state, identity(bench.dsn)) != state
    bench.start(dsn=other).listening()
    until(lambda: status(other, "t") == "completed")
    assert owner_of(state) == identity(other)
    assert worker.stop() == 0


def test_running_worker_never_writes_to_another_database(bench, tmp_path, other):
    """The service file leads elsewhere while a task runs: its result waits until the file leads back."""
    service = tmp_path / "services"

    def lead_to(dsn: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        service.write_text("[s]\n" + "".join(f"{key}={value}\n" for key, value in parts.items()))

    lead_to(bench.dsn)
    gate = tmp_path / "gate"
    os.environ["PGSERVICEFILE"] = str(service)
    try:
        worker = bench.start(dsn="service=s").listening()
    finally:
        del os.environ["PGSERVICEFILE"]
    bench.insert("t", {"gate": str(gate)})
    bench.wait("t", "running")
    ((token,),) = query(bench.dsn, "select fencing_token from agent_tasks where task_id = 't'")
    insert(other, "t")
    query(other, "update agent_tasks set queue = 'nobody'")
    query(other, "insert into agent_tasks (task_id, task_description) values ('bait', 'x')")
    lead_to(other)
    mine = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like %s and datname = current_database()"
    query(bench.dsn, mine, f"turbo %{worker.worker_id}%")
    gate.touch()
    worker.said("the DSN leads to another database than before")
    spool = Spool(worker.state_dir / "workers" / worker.worker_id / "spool")
    until(lambda: len(spool.pending()) == 1)
    assert query(other, "select task_id, status from agent_tasks order by 1") == [("bait", "pending"), ("t", "pending")]
    assert query(other, "select count(*) from agent_workers") == [(0,)]
    assert status(bench.dsn, "t") == "running"
    lead_to(bench.dsn)
    bench.wait("t", "completed", 30)
    assert query(bench.dsn, "select abs(fencing_token) from agent_tasks where task_id = 't'") == [(token,)]
    worker.kill(signal.SIGTERM)
    assert worker.stop() == 0


def test_pooler_that_leads_elsewhere_gets_nothing_sent(bench, tmp_path, other):
    """The entry of a transaction pooler is changed under open sessions, while a task runs."""
    ours, theirs = (str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]) for dsn in (bench.dsn, other))
    with pgbouncer(bench.dsn, "transaction") as pool:
        entry = psycopg.conninfo.make_conninfo(pool.dsn, dbname="entry")
        pool.lead("entry", ours)
        worker = bench.start(dsn=entry)
        worker.said("notifications do not arrive")
        gate = tmp_path / "gate"
        bench.insert("t", {"gate": str(gate)})
        bench.wait("t", "running")
        ((token,),) = query(bench.dsn, "select fencing_token from agent_tasks where task_id = 't'")
        insert(other, "t")
        query(other, "update agent_tasks set queue = 'nobody'")
        pool.lead("entry", theirs)
        until(lambda: identity(entry) == identity(other), what="the fault bit")
        insert(other, "bait")
        gate.touch()
        for lane in ("cannot claim", "cannot record results, keeping them"):
            worker.said(f"{lane}: the DSN leads to another database than before")
        spool = Spool(worker.state_dir / "workers" / worker.worker_id / "spool")
        until(lambda: len(spool.pending()) == 1)
        tasks = "select task_id, status from agent_tasks order by 1"
        assert query(other, tasks) == [("bait", "pending"), ("t", "pending")]
        assert query(other, "select count(*) from agent_actions where actor = %s", worker.worker_id) == [(0,)]
        assert query(other, "select count(*) from agent_workers") == [(0,)]
        assert status(bench.dsn, "t") == "running"
        pool.lead("entry", ours)
        bench.wait("t", "completed", 30)
        assert query(bench.dsn, "select abs(fencing_token) from agent_tasks where task_id = 't'") == [(token,)]
        assert worker.stop() == 0


def test_pooler_that_leads_to_an_unmigrated_database_is_named(bench):
    """Without turbo's function: PostgreSQL itself refuses."""
    with pgbouncer(bench.dsn, "transaction") as pool, database.fresh_database() as empty:
        entry = psycopg.conninfo.make_conninfo(pool.dsn, dbname="entry")
        pool.lead("entry", str(psycopg.conninfo.conninfo_to_dict(bench.dsn)["dbname"]))
        worker = bench.start(dsn=entry)
        worker.said("notifications do not arrive")
        pool.lead("entry", str(psycopg.conninfo.conninfo_to_dict(empty)["dbname"]))
        worker.said("the DSN leads to another database than before: it has no identity")
        assert worker.stop() == 0


def test_new_identity_of_the_same_name_is_another_database(bench):
    """As after DROP DATABASE, createdb and turbo migrate under a running worker."""
    worker = bench.start().listening()
    renew(bench.dsn)
    query(
        bench.dsn, "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'turbo claims%%'"
    )
    bench.insert("bait", {})
    worker.said("the DSN leads to another database than before")
    assert status(bench.dsn, "bait") == "pending"
    assert worker.stop() == 0
    bench.start().listening()  # a new process works for it
    bench.wait("bait", "completed")


def test_lost_identity_is_said_with_its_remedy(bench):
    query(bench.dsn, "delete from turbo_meta where key = 'database_id'")
    worker = bench.start()
    worker.said("the database has lost its identity")
    remedy = worker.log.split("lost its identity: ")[1].split(", or put")[0]
    query(bench.dsn, remedy)
    worker.listening()


def test_identity_survives_a_second_migrate(dsn, shell):
    before = identity(dsn)
    assert shell("migrate").code == 0
    assert identity(dsn) == before
    assert json.loads(f'"{before}"').count("-") == 4


def test_starting_twice_takes_the_top_once(tmp_path: Path):
    one, two = StateDir(tmp_path / "state"), StateDir(tmp_path / "state")
    one.use("a-1", claim=True)
    two.use("b-2", claim=True)
    assert (one.files, two.files) == (tmp_path / "state", tmp_path / "state" / "databases" / "b-2")
    home = two.open_worker(DEAD)
    assert two.workers() == {DEAD: ""}
    home.belongs_to("b-2")
    assert one.workers() == {DEAD: "b-2"}
    assert home.work_dir("t") == two.files / "tasks" / "t"
    home.close()
    assert one.dead_workers(among={"another"}) == []
