"""A worker behind PgBouncer: in session mode all is as without. In transaction mode it says so once, and polls; with a second DSN for
LISTEN and beats, all is as without again."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.support import database, workers
from tests.support.pgbouncer import PgBouncer, documented, pgbouncer
from tests.support.proxy import Proxy, proxy
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


# ── a second DSN for LISTEN and beats ───────────────────────────────────────────────────────────────────────────────

NEVER = 3600
"""Seconds: no poll finds a task within a test."""

SESSIONS = "select application_name from pg_stat_activity where datname = current_database() and application_name like 'turbo %%'"


@dataclass
class Apart:
    """A pooler in transaction mode, set as docs/operations.md says, and a way past it that can be closed."""

    pool: PgBouncer
    past: Proxy
    bench: workers.Bench

    @property
    def listen_dsn(self) -> str:
        return conninfo.make_conninfo(self.bench.dsn, host="127.0.0.1", port=self.past.port)

    def start(self, **more: object) -> workers.WorkerProcess:
        options = {"dsn": self.pool.dsn, "listen_dsn": self.bench.dsn, "poll_seconds": NEVER} | more
        return self.bench.start(**options).listening()  # type: ignore[arg-type]

    def idle(self, workers: int = 1) -> None:
        count = "select count(*) from agent_workers where idle and state = 'up'"
        until(lambda: self.bench.sql(count) == [(workers,)], what=f"idle\n{self.bench.logs()}")


@pytest.fixture
def apart(dsn: str, tmp_path) -> Iterator[Apart]:
    place = conninfo.conninfo_to_dict(dsn)
    with (
        pgbouncer(dsn, "transaction", pool_size=2, more=documented()) as pool,
        proxy(str(place["host"]), int(str(place["port"]))) as past,
        workers.bench(dsn, tmp_path) as bench,
    ):
        yield Apart(pool, past, bench)


def test_listen_dsn_hears_behind_a_transaction_pooler(apart: Apart) -> None:
    """Two workers, two shared backends, odd settings of the database: each run comes by notification, and nothing is left behind."""
    bench = apart.bench
    name = str(conninfo.conninfo_to_dict(bench.dsn)["dbname"])
    for setting, value in (("default_transaction_isolation", "serializable"), ("statement_timeout", "'7s'")):
        bench.sql(
            sql.SQL("alter database {} set {} = ").format(sql.Identifier(name), sql.Identifier(setting)).as_string()
            + value
        )
    apart.pool.change("transaction", pool_size=2)  # its sessions from before have other settings
    for number in range(2):
        apart.start(name=f"w{number}", slots=4)
    apart.idle(2)
    ids = [f"t{number}" for number in range(40)]
    for task_id in ids:
        bench.insert(task_id, task_type="noop" if int(task_id[1:]) % 2 else "ledger")
    done = "select count(*) from agent_tasks where status = 'completed'"
    until(lambda: bench.sql(done) == [(40,)], 60, bench.logs)
    apart.idle(2)
    bench.insert("late")
    bench.wait("late")
    assert bench.runs() == dict.fromkeys([*ids[::2], "late"], 1)
    names = [str(row[0]).split()[1] for row in bench.sql(SESSIONS)]
    assert names.count("listener") == names.count("heartbeat") == 2, "two sessions each that no other client shares"
    assert len(names) <= 2 * 2 + 2, "the rest share the pooler's two"
    with psycopg.connect(apart.pool.dsn, autocommit=True) as neighbour:
        for name, value in (
            ("default_transaction_isolation", "serializable"),
            ("statement_timeout", "7s"),
            ("jit", "on"),
        ):
            assert neighbour.execute("select current_setting(%s)", [name], prepare=False).fetchone() == (value,)
        assert neighbour.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
    for worker in bench.workers:
        for words in ("notifications do not arrive", "prepared statement", "ERROR"):
            assert words not in worker.log, worker.log
        assert worker.metric(bench.dsn, "turbo_listener_up") == 1


def test_killed_pooler_costs_neither_beats_nor_results(apart: Apart, tmp_path) -> None:
    bench, gate = apart.bench, tmp_path / "gate"
    worker = apart.start()
    bench.insert("t", {"gate": str(gate)})
    until(lambda: bench.runs()["t"])
    apart.pool.kill()
    gate.touch()
    spool = tmp_path / "state/workers" / worker.worker_id / "spool"
    until(lambda: list(spool.glob("*.json")))
    assert bench.row("t")["status"] == "running", "the fault bit: nobody could record it"
    (beaten,) = bench.sql("select heartbeat_at from agent_workers")[0]
    until(lambda: bench.sql("select heartbeat_at > %s from agent_workers", beaten) == [(True,)], what="it beats on")
    apart.pool.start_again()
    bench.wait("t")
    apart.idle()
    bench.insert("late")
    bench.wait("late")
    assert bench.runs() == {"t": 1, "late": 1}


def test_server_that_restarts_behind_the_pooler_loses_nothing(own_server, tmp_path) -> None:
    gate = tmp_path / "gate"
    with pgbouncer(own_server.dsn, "transaction") as pool, workers.bench(own_server.dsn, tmp_path) as bench:
        worker = bench.start(dsn=pool.dsn, listen_dsn=own_server.dsn, poll_seconds=NEVER).listening()
        bench.insert("t", {"gate": str(gate)})
        until(lambda: bench.runs()["t"])
        own_server.stop("immediate")
        gate.touch()
        own_server.start_again()
        bench.wait("t")
        worker.said("listener is back")
        until(lambda: bench.sql("select idle from agent_workers") == [(True,)], what=bench.logs())
        bench.insert("late")
        bench.wait("late")
        assert bench.runs() == {"t": 1, "late": 1}
        assert "two servers" not in worker.log


def test_lost_way_of_the_listener_is_polled_around(apart: Apart) -> None:
    """The way past the pooler is closed: tasks are found by polls through it. It opens: the worker listens again by itself."""
    bench = apart.bench
    worker = apart.start(listen_dsn=apart.listen_dsn)
    apart.idle()
    server = conninfo.conninfo_to_dict(bench.dsn)["port"]
    apart.past.turn_to(1)
    worker.said("listener cannot connect")
    bench.insert("polled")
    bench.wait("polled")
    assert worker.metric(bench.dsn, "turbo_listener_up") == 0, "the fault bit"
    apart.past.turn_to(int(str(server)))
    worker.said("listener is connected")
    apart.idle()
    bench.insert("heard")
    bench.wait("heard")
    assert bench.runs() == {"polled": 1, "heard": 1}


@pytest.mark.parametrize("copy", [False, True], ids=["another", "a copy"])
def test_wrong_pair_of_dsns_is_refused(apart: Apart, copy: bool) -> None:
    """The databases of tests are copies of one template, so they have one identity."""
    with database.migrated_database() as other:
        with psycopg.connect(other, autocommit=True) as db:
            if not copy:
                db.execute("update turbo_meta set value = to_jsonb(gen_random_uuid()::text) where key = 'database_id'")
            apart.bench.insert("t")
            worker = apart.bench.start(dsn=apart.pool.dsn, listen_dsn=other)
            worker.said("cannot start: dsn and listen_dsn lead to two " + ("servers" if copy else "databases"))
            assert "let both name one database, or leave listen_dsn out" in worker.log
            assert db.execute("select count(*) from agent_workers").fetchone() == (0,)
        assert apart.bench.sql("select count(*) from agent_workers") == [(0,)]
        assert apart.bench.row("t")["status"] == "pending"


@pytest.mark.parametrize("guarded", [True, False])
def test_pooler_led_to_a_copy_gets_nothing_sent(apart: Apart, tmp_path, guarded: bool) -> None:
    """The copy has the same identity. Control: without comparing servers, the worker claims there what it never beats for."""
    bench = apart.bench
    ours = str(conninfo.conninfo_to_dict(bench.dsn)["dbname"])
    with database.migrated_database() as copy, psycopg.connect(copy, autocommit=True) as db:
        apart.pool.lead("entry", ours)
        entry = conninfo.make_conninfo(apart.pool.dsn, dbname="entry")
        worker = apart.start(dsn=entry, without=() if guarded else ("one_server",))
        apart.idle()
        ((row,),) = bench.sql("select to_jsonb(w)::text from agent_workers w")
        db.execute("insert into agent_workers select * from jsonb_populate_record(null::agent_workers, %s)", [row])
        apart.pool.lead("entry", str(conninfo.conninfo_to_dict(copy)["dbname"]))
        db.execute("insert into agent_tasks (task_id, task_description) values ('bait', 'x')")
        bench.insert("t")  # the notification that makes it claim
        bait = "select status <> 'pending' from agent_tasks where task_id = 'bait'"
        if not guarded:
            until(lambda: db.execute(bait).fetchone() == (True,), what=bench.logs())
            worker.kill()
            return
        worker.said("cannot claim: dsn leads to another server or database than listen_dsn")
        assert db.execute(bait).fetchone() == (False,)
        apart.pool.lead("entry", ours)
        bench.wait("t")
        assert db.execute(bait).fetchone() == (False,)
        assert bench.runs() == {"t": 1}
