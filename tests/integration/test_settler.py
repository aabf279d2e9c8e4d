"""The settler as a service of a worker: what wakes it, an outage, what somebody has locked, its session, and real workers."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.settling import Hand, at_rest, end, settling, states
from tests.support.waiting import until, until_async
from tests.support.waiting_rows import insert
from turbo.maintenance.leadership import Leadership
from turbo.maintenance.settle_audit import SettleAudit


def crashed(name: str, error: BaseException) -> None:
    raise AssertionError(name) from error


@pytest.fixture
async def hand(dsn: str) -> AsyncIterator[Hand]:
    async with settling(dsn) as one:
        one.settler.start(crashed)
        await one.settler.started.wait()
        yield one


SETTLERS = "from pg_stat_activity where datname = current_database() and application_name like 'turbo settle%'"


def sessions(db) -> int:
    (count,) = db.execute(f"select count(*) {SETTLERS}").fetchone()
    return count


async def test_each_signal_starts_a_pass(db, hand):
    """And a worker without tasks that wait for others has no session for them."""
    await hand.settler.started.wait()
    assert sessions(db) == 0
    insert(db, "need")
    insert(db, "t", needs=["need"])
    with hand.settler.settled.watch() as passes:
        hand.settler.polled(unsettled=False)
        hand.settler.polled(unsettled=True)
        assert (await passes.get()).moved > 0
        hand.settler.heard()
        assert (await passes.get()).moved == 0, "another one was quicker"
        end(db, "need")
        hand.settler.heard()
        assert (await passes.get()).released == 1
        end(db, "t")
        hand.settler.wake()
        assert (await passes.get()).moved == 0
        assert passes.empty()
    assert sessions(db) == 1
    assert "default" in hand.wakeups.take_queues().queues, "its own claimer is woken at once"
    at_rest(db)


async def test_what_somebody_holds_is_looked_at_again(dsn, db, hand):
    for n in ("", "2"):
        insert(db, f"need{n}")
        insert(db, f"t{n}", needs=[f"need{n}"])
    with hand.settler.settled.watch() as passes:
        hand.settler.heard()
        await passes.get()
        with psycopg.connect(dsn) as person:
            person.execute("update agent_tasks set task_priority = 1 where task_id = 't'")
            end(db, "need")
            hand.settler.wake()
            assert (await passes.get()).unsettled
            assert (await passes.get()).unsettled, "again, though nobody calls"
        while not (await passes.get()).released:
            pass
        end(db, "need2")
        hand.settler.wake()
        assert (await passes.get()).released == 1, "no pass came between: nothing was left"
    at_rest(db)


async def test_lost_session_costs_one_pass(dsn, db, hand):
    insert(db, "need")
    insert(db, "t", needs=["need"])
    with hand.settler.settled.watch() as passes:
        hand.settler.heard()
        await passes.get()
        end(db, "need")
        db.execute(f"select pg_terminate_backend(pid) {SETTLERS}")
        hand.settler.wake()
        assert (await passes.get()).released == 1


async def test_session_is_closed_after_a_while(dsn, db):
    async with settling(dsn) as hand:
        hand.settler._linger = 0.05
        hand.settler.start(crashed)
        with hand.settler.settled.watch() as passes:
            hand.settler.heard()
            await passes.get()
            await until_async(lambda: sessions(db) == 0)
            insert(db, "over", status="completed")
            insert(db, "t", needs=["over"])
            hand.settler.heard()
            assert (await passes.get()).released == 1


async def test_released_for_later_is_told_to_all_workers(db, hand):
    """They ask when it is due: no trigger tells them."""
    insert(db, "need")
    insert(db, "t", needs=["need"], run_after="2999-01-01")
    with hand.settler.settled.watch() as passes:
        hand.settler.heard()
        await passes.get()
        db.execute("listen turbo_ctl")
        end(db, "need")
        hand.settler.wake()
        await passes.get()
    assert states(db)["t"] == "scheduled"
    assert "queues" in {n.payload for n in db.notifies(timeout=1, stop_after=2)}
    assert hand.wakeups.take_due_poll() is not None


async def test_leader_audits_at_once_and_after_a_failover(db, hand):
    leadership = Leadership()
    audit = SettleAudit(hand.store, leadership, hand.settler.wake)
    insert(db, "need")
    db.execute("set session_replication_role = replica")
    insert(db, "t", needs=["need"], status="blocked")
    db.execute("reset session_replication_role")
    with audit.audited.watch() as audits, hand.settler.settled.watch() as passes:
        audit.start(crashed)
        await audit.started.wait()
        assert audits.empty(), "it does not lead"
        leadership.update(True)
        assert await audits.get() == 1
        assert (await passes.get()).moved > 0
        audit.soon()
        assert await audits.get() == 0
    await audit.stop()


async def test_outage_is_over_though_nothing_is_left(db, hand, caplog):
    """What it could not look at was done by another worker meanwhile."""
    db.execute("alter table agent_unsettled rename to away")
    hand.settler.heard()
    await until_async(lambda: "cannot settle" in caplog.text, what="the look has failed")
    db.execute("alter table away rename to agent_unsettled")
    with caplog.at_level("INFO"), hand.settler.settled.watch() as passes:
        hand.settler.heard()
        assert (await passes.get()).moved == 0
        assert "settling again" in caplog.text


async def test_defect_in_a_pass_stops_no_worker(db, hand, monkeypatch, caplog):
    """An error of turbo's own, over whatever a row says: logged, and the next pass comes by itself."""
    once, audited = hand.store.settle, hand.store.audit

    async def broken(*_: object) -> None:
        monkeypatch.setattr(hand.store, "settle", once)
        monkeypatch.setattr(hand.store, "audit", audited)
        raise TypeError("not what was expected")

    monkeypatch.setattr("turbo.worker.settler.DEFECT_SECONDS", 0.01)
    monkeypatch.setattr(hand.store, "settle", broken)
    insert(db, "need")
    insert(db, "t", needs=["need"])
    with hand.settler.settled.watch() as passes:
        hand.settler.wake()
        assert (await passes.get()).moved > 0
    assert "a defect: cannot settle" in caplog.text
    leadership = Leadership()
    audit = SettleAudit(hand.store, leadership, hand.settler.wake)
    monkeypatch.setattr(hand.store, "audit", broken)
    with audit.audited.watch() as audits:
        audit.start(crashed)
        leadership.update(True)
        await until_async(lambda: "a defect: the leader cannot audit" in caplog.text, what="the defect is logged")
        audit.soon()
        assert await audits.get() == 0
    await audit.stop()


# ── real workers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_workers_run_a_graph_in_its_order(bench):
    """Two workers; a plan, three tasks in parallel, a review. Nobody waits for a poll."""
    for name in ("v", "w"):
        bench.start(name=name, poll_seconds=300).listening()
    bench.sql(
        "insert into agent_tasks (task_id, task_type, task_description, needs) values ('plan', 'echo', 'x', null),"
        " ('a', 'echo', 'x', '{plan}'), ('b', 'echo', 'x', '{plan}'), ('c', 'echo', 'x', '{plan}'),"
        " ('review', 'echo', 'x', '{a,b,c}')"
    )
    bench.wait("review", seconds=10)
    order = "select task_id from agent_tasks order by started_at"
    names = [name for (name,) in bench.sql(order)]
    assert (names[0], set(names[1:4]), names[4]) == ("plan", {"a", "b", "c"}, "review")
    bench.sql(
        "insert into agent_tasks (task_id, task_type, task_description, needs) values ('late', 'echo', 'x', '{review}')"
    )
    bench.wait("late", seconds=10)


def test_killed_worker_leaves_its_release_to_another(bench):
    """The first worker has recorded the end of the need, and is killed before its settler, which stands still, lets go."""
    first = bench.start(poll_seconds=300).listening()
    bench.insert("need", {"gate": str(bench.path / "gate")})
    bench.insert("t", needs=["need"])
    until(lambda: bench.sql("select 1 from agent_dependencies"))
    bench.wait("need", "running")
    with psycopg.connect(bench.dsn) as gate:
        # the settlers' statements wait, those of the results do not
        gate.execute("lock table agent_dependencies in access exclusive mode")
        (bench.path / "gate").touch()
        bench.wait("need")
        first.kill()
        first.process.wait(20)
        # its session would go on once the lock is gone, as if it had sent its statement before it died
        of_settlers = (
            "from pg_stat_activity where application_name like 'turbo settle %%' and datname = current_database()"
        )
        bench.sql(f"select pg_terminate_backend(pid) {of_settlers}")
        until(lambda: not bench.sql(f"select 1 {of_settlers}"))
    assert bench.row("t")["status"] == "blocked", "the fault bit"
    bench.start(name="second", poll_seconds=300).listening()
    bench.wait("t", seconds=15)
