"""What any login can hold or fill holds up nobody else: advisory locks, open transactions, invented queues, moments."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.logins import login, user
from tests.support.prefork import TURBO
from tests.support.rig import Rig
from tests.support.shell import Shell
from tests.support.steps import claim_one, ended, registered
from turbo import Client
from turbo.client.fleet_status import QUEUES_LISTED
from turbo.migrate import MigrationError, Patience, grant_roles, migrate
from turbo.migrate.session import LOCK_KEY
from turbo.sql import statement

INSERT = "insert into agent_tasks (task_id, task_description, concurrency_key, task_priority) values (%s, 'x', %s, %s)"
PROMOTE = {"worker": "w-1-abc", "accounts": [], "host": "h", "stay": 60.0}
CLAIM = {
    "worker": "w-1-abc",
    "queue": "default",
    "n": 9,
    "may_idle": False,
    "only_types": None,
    "skip_types": None,
    "characters": 100,
    "place": '{"host": "h", "labels": {}, "stay": 60}',
}


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    grant_roles(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


async def test_advisory_lock_starves_no_key(dsn: str, db: psycopg.Connection) -> None:
    """The lock is on the number by which claims used to take the key. Its own slot, nobody but a worker may lock."""
    db.execute(INSERT, ["keyed", "k", 5])
    with login(dsn, "turbo_submitter", "turbo_reader", "turbo_admin") as anybody, psycopg.connect(anybody) as holder:
        holder.execute("select pg_advisory_lock(1953852002, hashtext('k'))")
        holder.commit()
        for held in ("select turbo_take_key('k')", "lock table turbo_key_slots in access share mode"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                holder.execute(held)  # type: ignore[call-overload]
            holder.rollback()
        async with registered(dsn) as stores:
            assert (await claim_one(stores)).task_id == "keyed"


async def test_batches_that_meet_keys_in_two_orders_do_not_wait(dsn: str, db: psycopg.Connection) -> None:
    """The first has taken one key and is not committed. The second, in time-limited steps, takes what is left."""
    db.execute(INSERT, ["a1", "a", 9])
    async with registered(dsn):
        with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True) as second:
            assert [r[0] for r in first.execute(statement("tasks/claim"), CLAIM)] == ["a1"]
            for name, key, priority in (("b2", "b", 8), ("a2", "a", 7), ("plain", None, 6)):
                db.execute(INSERT, [name, key, priority])
            second.execute("set lock_timeout = '2s'")
            assert sorted(r[0] for r in second.execute(statement("tasks/claim"), CLAIM)) == ["b2", "plain"]
            with second.transaction(force_rollback=True):  # the control: a claim that does not look waits for the first
                second.execute("create or replace function turbo_take_key(key text) returns boolean return true")
                second.execute("set local lock_timeout = '100ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable), second.transaction():
                    second.execute(statement("tasks/claim"), CLAIM)
            first.rollback()
            assert [r[0] for r in second.execute(statement("tasks/claim"), CLAIM | {"n": 1})] == ["a1"]


async def test_open_transaction_of_a_submitter_holds_up_no_worker(dsn: str, db: psycopg.Connection) -> None:
    db.execute(INSERT, ["mine", "k", 5])
    db.execute(
        "insert into agent_tasks (task_id, task_description, run_after) values ('due', 'x', now() + interval '1 ms')"
    )
    with login(dsn, "turbo_submitter") as submitter, psycopg.connect(submitter) as holder:
        holder.execute(INSERT, ["uncommitted", "k", 9])
        holder.execute("select * from agent_tasks")
        async with registered(dsn) as stores:
            held = await claim_one(stores)
            assert held.task_id == "mine"
            assert (await stores.claims.poll(["default"])).due == 1
            assert (await stores.results.finish([ended(held)]))[0].verdict == "recorded"
        for lock in ("select * from agent_tasks for update", "lock table agent_tasks in share mode"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                holder.execute(lock)  # type: ignore[call-overload]
            holder.rollback()


def test_submit_names_the_transaction_that_has_inserted_its_id(dsn: str, db: psycopg.Connection) -> None:
    with (
        login(dsn, "turbo_submitter") as other,
        login(dsn, "turbo_submitter") as mine,
        psycopg.connect(other) as holder,
    ):
        holder.execute(INSERT, ["same", None, 5])
        with pytest.raises(psycopg.errors.LockNotAvailable), Client(mine, lock_seconds=0.2) as client:
            client.submit("x", task_id="same")
        code = (
            "import turbo.cli.options as o; o.LOCK_SECONDS = 1.0; import turbo.cli.submit as s; s.LOCK_SECONDS = 1.0; "
        )
        code += (
            "from turbo.cli.main import main; import sys; sys.argv = ['turbo', 'submit', 'x', '--id', 'same']; main()"
        )
        python = [str(Path(TURBO).parent / "python"), "-c", code]
        done = subprocess.run(python, env={**os.environ, "TURBO_DSN": mine}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "another transaction that is not finished has inserted this id" in done.stderr
        assert f"user {user(other)}" in done.stderr
        assert f"pg_terminate_backend({holder.info.backend_pid})" in done.stderr


async def test_due_rows_of_an_unserved_queue_delay_no_other(dsn: str, db: psycopg.Connection) -> None:
    """3,000 of them fell due first. A queue with many due rows leaves each other one its share, and is polled again at once."""
    rows = "insert into agent_tasks (task_description, queue, status, run_after) select 'x', %s, 'scheduled', now() - %s::interval"
    db.execute("set session_replication_role = replica")
    db.execute(f"{rows} from generate_series(1, 3000)", ["nobody", "1 hour"])  # type: ignore[arg-type]
    db.execute(f"{rows} from generate_series(1, 600)", ["busy", "1 minute"])  # type: ignore[arg-type]
    db.execute(rows, ["default", "1 second"])
    async with registered(dsn) as stores:
        first = await stores.claims.poll(["busy", "default"])
        assert (first.due, sorted(first.runnable)) == (501, ["busy", "default"])
        assert first.next_in == 0
        assert (await stores.claims.poll(["busy", "default"])).due == 100
        assert (await stores.claims.poll(["busy", "default"])).next_in is None
    assert db.execute("select count(*) from agent_tasks where status = 'scheduled'").fetchone() == (3000,)


def test_invented_queues_end_no_list_and_no_gauge(dsn: str, db: psycopg.Connection) -> None:
    db.execute("set session_replication_role = replica")
    db.execute(
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues) values ('w', 'w', 'h', 1, '0', 1, '{zz}')"
    )
    db.execute("insert into agent_tasks (task_description, queue) select 'x', 'q' || i from generate_series(1, 2000) i")
    db.execute("insert into agent_tasks (task_description, queue) select 'x', 'zz' from generate_series(1, 3)")
    facts = db.execute(statement("workers/gauges")).fetchall()
    assert len(facts) < 20
    assert {(f[1], f[3]) for f in facts if f[0] == "tasks"} == {("zz", 3.0), (None, 2000.0)}
    with Client(dsn) as client:
        status = client.fleet()
    for queues in (status.queues, db.execute(statement("top/queues"), {"most": 10, "limit": 100}).fetchall()):
        assert len(queues) <= QUEUES_LISTED + 1
    served = next(q for q in status.queues if q.queue == "zz")
    assert (served.pending, served.workers) == (3, 1)
    rest = status.queues[-1]
    assert (rest.queue, rest.queues, rest.pending) == (None, 2001 - QUEUES_LISTED, 2001 - QUEUES_LISTED)
    assert len(status.problems) < 20
    assert any("1990 more queues" in problem.what for problem in status.problems)


def test_invented_workers_and_accounts_end_no_list(dsn: str, db: psycopg.Connection, shell: Shell) -> None:
    """Real ones come first: workers that live, and accounts that they use."""
    workers = (
        "insert into agent_workers (worker_id, name, host, pid, version, slots, queues, accounts, state, started_at, problems)"
        " select %s || i, 'w', 'h' || i, 1, '0', 1, array['q' || i], array['a' || i], %s, now() + %s::interval, %s"
        " from generate_series(1, %s) i"
    )
    reported = '[{"kind": "deaf", "what": "what", "do": ""}]'
    db.execute(workers, ["zz", "up", "-1 hour", "[]", 1])  # type: ignore[arg-type]
    db.execute(workers, ["dead", "dead", "-2 hours", "[]", 600])  # type: ignore[arg-type]
    db.execute(workers, ["up", "up", "0", reported, 2000])  # type: ignore[arg-type]
    db.execute(workers, ["busy", "up", "0", "[]", 1])  # type: ignore[arg-type]
    db.execute(
        "update agent_workers set problems = jsonb_set(problems, '{0,what}', to_jsonb(worker_id)) where problems <> '[]'"
    )
    db.execute(
        "insert into agent_accounts (account, host, state, reason)"
        " select '0' || i, '*', 'paused', 'manual' from generate_series(1, 900) i"
    )
    db.execute("insert into agent_accounts (account, host, state, reason) values ('a1', '*', 'paused', 'manual')")
    db.execute("set session_replication_role = replica")
    db.execute(
        "insert into agent_tasks (task_description, status, completed_at, assigned_worker_id)"
        " select 'x', 'completed', now(), 'host' || i || '-1-abcdef' from generate_series(1, 700) i"
    )
    db.execute(
        "insert into agent_tasks (task_description, status, assigned_worker_id)"
        " values ('x', 'running', 'busy1'), ('x', 'running', 'dead600')"
    )
    with Client(dsn) as client:
        status = client.fleet()
    assert (len(status.workers), status.more_workers) == (500, 2102)
    assert {"zz1", "busy1"} <= {worker.worker_id for worker in status.workers}
    assert all(worker.live for worker in status.workers)
    assert (len(status.accounts), status.more_accounts) == (500, 2400)
    assert {a.state for a in status.accounts if a.account == "a1"} == {"paused"}
    assert len(status.problems) < 120
    assert len(status.finished) == 501
    assert sum(line.tasks for line in status.finished) == 700
    facts = db.execute(statement("workers/gauges")).fetchall()
    assert len([fact for fact in facts if fact[0] == "served"]) == 500
    document = shell("status", "--json").json
    assert (document["more_workers"], document["more_accounts"]) == (2102, 2400)
    for command in (["status"], ["top", "--once"]):
        shown = shell(*command).out
        assert "2102 more" in shown
        assert "2400 more" in shown
    assert " and 1992 more; these workers poll" in shell("doctor").out


def test_status_loads_nothing_of_what_a_hold_releases(dsn: str, db: psycopg.Connection) -> None:
    """A submitter may hold ten tasks of any size; `turbo top` asks every two seconds."""
    db.execute(
        "insert into agent_tasks (task_id, task_description, input_data, status)"
        " values ('held', repeat('x', 1000000), to_jsonb(repeat('y', 1000000)), 'waiting')"
    )
    with Client(dsn) as client:
        (listed,) = client.fleet().questions
        (whole,) = client.questions()
        assert len(listed.text) < 2100
        assert listed.input_data is None
        assert (len(whole.text), len(whole.input_data)) == (1000000, 1000000)
        assert client.approve([listed])[0].task_id == "held", "what is answered is what was looked at"


@pytest.mark.parametrize("made", ["infinity", "2999-01-01", "-infinity"])
def test_moment_of_an_insert_hides_no_task_in_lists(dsn: str, db: psycopg.Connection, made: str) -> None:
    with login(dsn, "turbo_submitter") as submitter, psycopg.connect(submitter, autocommit=True) as inserting:
        inserting.execute(
            "insert into agent_tasks (task_id, task_description, created_at) values ('odd', 'x', %s)", [made]
        )
        inserting.execute("insert into agent_tasks (task_id, task_description) values ('real', 'x')")
        inserting.execute(
            "insert into agent_tasks (task_id, task_description, created_at) values ('old', 'x', '2020-01-01')"
        )
    db.execute("set session_replication_role = replica")
    db.execute("insert into agent_tasks (task_id, task_description, created_at) values ('legacy', 'x', 'infinity')")
    with Client(dsn) as client:
        assert [task.task_id for task in client.tasks()] == ["real", "odd", "old", "legacy"]
        assert client.newest_ids("")[0] == "real"


def test_migrate_names_the_session_that_holds_its_lock(dsn: str, db: psycopg.Connection) -> None:
    db.execute("delete from turbo_migrations where version = (select max(version) from turbo_migrations)")
    with login(dsn) as anybody, psycopg.connect(anybody, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(MigrationError) as refused:
            migrate(dsn, patience=Patience(wait=0.2))
        pid = holder.info.backend_pid
        assert f"pid {pid} (" in str(refused.value)
        assert f"user {user(anybody)}" in str(refused.value)
        assert f"select pg_terminate_backend({pid})" in str(refused.value)
    assert migrate(dsn).applied, "the migration is repeatable"


async def test_rescuer_promotes_for_queues_it_does_not_serve(dsn: str, db: psycopg.Connection) -> None:
    """Their own workers do not know when what it rescued is due."""
    async with Rig(dsn) as rig:
        db.execute("set session_replication_role = replica")
        for queue in ("rescued", "strange"):
            db.execute(
                "insert into agent_tasks (task_description, queue, status) values ('x', %s, 'scheduled')", [queue]
            )
        assert (await rig.poller.poll()).due == 0
        rig.poller.promote_also({"rescued", "default"})
        assert (await rig.poller.poll()).due == 1
        assert db.execute("select queue from agent_tasks where status = 'pending'").fetchall() == [("rescued",)]
