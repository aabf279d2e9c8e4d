"""Errors of the database that a worker rides out: each is logged once, and blamed on the session that had it."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from tests.support import workers
from tests.support.logins import login
from tests.support.rig import Rig, finished
from tests.support.waiting import until
from tests.support.workers import Bench
from turbo.domain.states import Verdict
from turbo.host.spool import Spool
from turbo.host.spool_writer import SpoolWriter
from turbo.migrate import grant_roles
from turbo.observability.metrics import Metrics
from turbo.runtime.problems import Problems
from turbo.worker.completer import Completer


@pytest.fixture
def member(dsn: str, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose workers have the role turbo_worker, and nothing more."""
    grant_roles(dsn)
    with login(dsn, "turbo_worker") as member_dsn, workers.bench(member_dsn, tmp_path) as bench:
        yield bench


def refused_again(owner: psycopg.Connection) -> None:
    """Until the server has refused at least two statements more: of three it counts, one may be the refusal just logged."""
    counted = "select xact_rollback from pg_stat_database where datname = current_database()"
    before = one(owner, counted)
    until(lambda: one(owner, counted) >= before + 3, seconds=60)


def one(owner: psycopg.Connection, query: LiteralString) -> int:
    row = owner.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_revoked_privilege_is_logged_once_and_ridden_out(member: Bench, dsn: str) -> None:
    worker = member.start().listening()
    with psycopg.connect(dsn, autocommit=True) as owner:
        until(lambda: owner.execute("select idle from agent_workers").fetchone() == (True,))
        owner.execute("revoke update on agent_tasks from turbo_worker")
        owner.execute("insert into agent_tasks (task_id, task_description) values ('t', '{}')")
        worker.said("cannot claim: permission denied for table agent_tasks")
        refused_again(owner)
        lines = [line for line in worker.log.splitlines() if "permission denied" in line]
        assert len([line for line in lines if "cannot claim" in line]) == 1, lines
        assert all(re.search(r"Z ERROR ", line) for line in lines)
        grant_roles(dsn)
        worker.said("claiming again")
        until(lambda: owner.execute("select status from agent_tasks").fetchone() == ("completed",))


def test_refused_poll_spares_the_listener(member: Bench, dsn: str) -> None:
    """Its session works, and notifications still arrive: only the poll itself is refused."""
    worker = member.start(poll_seconds=1).listening()
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("revoke update on agent_tasks from turbo_worker")
        worker.said("cannot poll: permission denied for table agent_tasks")
        refused_again(owner)
        assert worker.log.count("cannot poll") == 1
        assert "listener lost its session" not in worker.log
        grant_roles(dsn)
        worker.said("polling again")


def test_refused_registration_is_logged_once(member: Bench, dsn: str) -> None:
    worker = member.start().listening()
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("revoke insert on agent_workers from turbo_worker")
        owner.execute("delete from agent_workers")
        worker.said("cannot register: permission denied for table agent_workers")
        refused_again(owner)
        assert worker.log.count("cannot register") == 1
        assert worker.log.count("registering again") == 1
        grant_roles(dsn)
        worker.said("registered again")


def test_start_without_a_privilege_names_it_once(member: Bench, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("revoke all on agent_workers from turbo_worker")
        worker = member.start()
        worker.said("cannot start: permission denied for table agent_workers")
        refused_again(owner)
    assert worker.log.count("permission denied") == 1
    assert "waiting for the database" not in worker.log
    grant_roles(dsn)
    worker.listening()
    assert "the database is there" in worker.log


def test_claims_session_error_spares_the_listener(bench: Bench) -> None:
    worker = bench.start(without=["claims_session"]).listening()
    until(lambda: bench.sql("select idle from agent_workers") == [(True,)])
    assert worker.log.count("cannot put back what the database may have lost: the claims' session failed") == 1
    assert "listener lost its session" not in worker.log
    assert worker.metric(bench.dsn, "turbo_listener_reconnects_total") == 0
    assert worker.metric(bench.dsn, "turbo_listener_up") == 1
    bench.insert("t")
    bench.wait("t")


async def test_result_is_recorded_on_a_disk_gone_read_only(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row has it: its claim is no longer known, and what follows a recorded result happens."""
    spool, troubles = Spool(tmp_path / "spool"), list[str | None]()
    writer = SpoolWriter(spool, lambda _trouble: None, troubles.append)
    async with Rig(dsn, slots_size=2) as rig:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("insert into agent_tasks (task_description) values ('a'), ('b')")
        tasks = [(await rig.claimed())[0] for _ in range(2)]
        completer = Completer(
            rig.stores.results, writer, rig.slots, rig.wakeups, Problems(), Metrics(), lambda _why: None
        )
        for claim in list(rig.slots.running):
            rig.slots.give_back(claim, unrecorded=True)
        for task in tasks:
            await completer.submit(finished(task, rig.worker_id), durable=True)

        def read_only(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Spool, "done", read_only)
        with completer.recorded.watch() as recorded:
            completer.start(lambda name, error: pytest.fail(f"{name}: {error}"))
            assert await completer.flushed(20)
            answers = [recorded.get_nowait()[1].verdict for _ in tasks]
        await completer.stop()
        assert answers == [Verdict.RECORDED] * 2
        assert rig.slots.unrecorded == set()
        assert len(troubles) == 1, "said once; claims go on, because a new result can be written"
        assert "Read-only file system" in (troubles[0] or "")
        assert len(spool.pending()) == 2, "sent again after a restart, and answered `already`"


def test_state_that_a_failover_lost_is_written_again(bench: Bench) -> None:
    """The row is `paused` as on a standby that lagged behind: a worker that claims by it would never claim again."""
    worker = bench.start().listening()
    bench.insert("first", task_type="noop")
    bench.wait("first")
    bench.sql("update agent_workers set state = 'paused', idle = false")
    bench.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'turbo listener%%' and datname = current_database()"
    )
    worker.said("listener is back")
    bench.insert("second", task_type="noop")
    bench.wait("second", seconds=10)
    assert bench.sql("select state from agent_workers") == [("up",)]
