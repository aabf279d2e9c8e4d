"""A result that the table refuses (a CHECK of its owner's, a foreign trigger) holds up no other, and waits until it is taken."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from tests.support.rig import Rig, finished
from tests.support.workers import Bench
from turbo.domain.check import CheckResult, WorkCheck
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import OutcomeKind
from turbo.domain.problem import ProblemKind
from turbo.domain.states import TaskState, Verdict
from turbo.host.spool import Spool
from turbo.host.spool_writer import SpoolWriter
from turbo.worker import completer


def test_result_refused_by_a_check_does_not_block_others(bench: Bench) -> None:
    bench.sql("alter table agent_tasks add constraint short_errors check (length(error_message) < 40)")
    first = bench.start(slots=4).listening()
    bench.insert("long", {"raw": "print('e' * 200, file=sys.stderr) or sys.exit('e' * 200)"}, max_retries=0)
    first.said("the database refuses this result")
    bench.insert("neighbour", {"seconds": 0.2})
    bench.insert("light", task_type="noop")
    bench.wait("neighbour")
    bench.wait("light")
    assert bench.row("long")["status"] == "running", "the fault bit"
    assert first.stop() == 0
    # its next worker meets it before its first claim, and is not held up either
    second = bench.start(slots=4).listening()
    second.said("1 refused")
    bench.sql("alter table agent_tasks drop constraint short_errors")
    bench.insert("later")
    bench.wait("later")
    assert "eeee" in bench.wait("long", "failed", seconds=90)["error_message"]
    assert bench.runs() == {"long": 2, "neighbour": 1, "later": 1}, (
        "a failure that comes after a rescue is a run once more"
    )


def test_result_refused_by_a_trigger_is_retried_each_minute(bench: Bench) -> None:
    """SQLSTATE 22P02, as if the output were at fault: once into quarantine, and not for ever."""
    bench.sql(
        "create function strict() returns trigger language plpgsql as $$ begin"
        " if new.task_id = 'bad' and new.status = 'completed' then perform new.task_description::int; end if;"
        " return new; end $$"
    )
    bench.sql("create trigger strict before update on agent_tasks for each row execute function strict()")
    worker = bench.start().listening()
    bench.insert("bad")
    worker.said("the database refuses this result")
    bench.insert("neighbour")
    bench.wait("neighbour")
    quarantined = list(bench.path.rglob("quarantine/*.json"))
    assert len(quarantined) == 1
    assert bench.row("bad")["status"] == "running"
    assert worker.process.poll() is None
    assert worker.log.count("the database refuses this result") == 1
    bench.sql("drop trigger strict on agent_tasks")
    assert worker.stop() == 0
    bench.start().listening()
    assert bench.wait("bad")["output_data"]["quarantined"] == str(quarantined[0])


async def test_refused_result_is_sent_again(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same worker, when its minute is over."""
    monkeypatch.setattr(completer, "REFUSED_SECONDS", 0.2)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("alter table agent_tasks add constraint no_end check (status <> 'completed')")
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        async with Rig(dsn) as rig:
            task, _ = await rig.claimed()
            one = rig.completer(Spool(tmp_path))
            one.start(lambda name, error: pytest.fail(f"{name}: {error}"))
            with one.recorded.watch() as recorded:
                await one.submit(finished(ClaimRef(task.task_id, task.fencing_token), rig.worker_id), durable=True)
                assert not await one.flushed(20), "refused"
                assert recorded.empty()
                (problem,) = rig.problems.current
                assert problem.kind is ProblemKind.REFUSED_RESULT
                assert 'result of task t is refused by the database: new row for relation "agent_tasks"' in problem.what
                db.execute("alter table agent_tasks drop constraint no_end")
                await asyncio.wait_for(recorded.get(), 20)
                assert rig.problems.current == ()
            assert await one.flushed(20)
            await one.stop()
        assert db.execute("select status from agent_tasks").fetchone() == ("completed",)


async def test_exhausted_sequence_quarantines_no_result(dsn: str, tmp_path: Path) -> None:
    """No number is left for the audit trail: that is no fault of the result, which is kept whole and recorded later."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        async with Rig(dsn) as rig:
            task, _ = await rig.claimed()
            db.execute("alter table agent_actions alter action_id set maxvalue 1000 restart 1000")
            db.execute("insert into agent_actions (action_type) values ('the last')")
            one = rig.completer(Spool(tmp_path))
            one.start(lambda name, error: pytest.fail(f"{name}: {error}"))
            with one.recorded.watch() as recorded:
                await one.submit(finished(ClaimRef(task.task_id, task.fencing_token), rig.worker_id), durable=True)
                assert not await one.flushed(0.5)
                db.execute("alter table agent_actions alter action_id set maxvalue 2000")
                await asyncio.wait_for(recorded.get(), 20)
            await one.stop()
        assert not list(tmp_path.rglob("quarantine/*.json"))
        row = db.execute("select status, output_data from agent_tasks").fetchone()
        assert row == ("completed", {"output": "done"})


async def test_half_recorded_batch_is_answered_as_recorded(dsn: str, tmp_path: Path) -> None:
    """Results with checks have a transaction of their own: it is committed, and what follows from it happens."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('checked', 'x'), ('refused', 'x')")
        async with Rig(dsn, slots_size=2) as rig:
            tasks = {task.task_id: task for task in [(await rig.claimed())[0] for _ in range(2)]}
            db.execute(
                "alter table agent_tasks add constraint mine check (task_id <> 'refused' or status <> 'completed')"
            )
            check = WorkCheck(1, tasks["checked"].fencing_token, CheckResult.FAILED, "why").trail("x")
            failed = finished(
                tasks["checked"], rig.worker_id, OutcomeKind.FAILED, checks=(check,), retry_delay_seconds=900.0
            )
            one = rig.completer(Spool(tmp_path))
            with one.recorded.watch() as recorded:
                for result in (finished(tasks["refused"], rig.worker_id), failed):
                    await one.submit(result, durable=True)
                one.start(lambda name, error: pytest.fail(f"{name}: {error}"))
                result, answer = await asyncio.wait_for(recorded.get(), 20)
                assert not await one.flushed(20), "the other one is refused"
                assert (result.task_id, answer.verdict, answer.becomes) == (
                    "checked",
                    Verdict.RECORDED,
                    TaskState.SCHEDULED,
                )
                assert recorded.empty()
            await one.stop()
        kinds = db.execute("select action_type from agent_actions where task_id = 'checked' order by action_id")
        assert [kind for (kind,) in kinds] == ["claimed", "checked", "finished"]


async def test_replay_tells_all_who_missed_the_first_answer(dsn: str, tmp_path: Path) -> None:
    """The answer to the first attempt was lost with its session. No poll is due for an hour."""
    told: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        async with Rig(dsn, slots_size=2) as rig:
            task, _ = await rig.claimed()
            result = finished(task, rig.worker_id, OutcomeKind.FAILED, failure_kind="error", retry_delay_seconds=0.1)
            await rig.stores.results.finish([result])
            one = completer.Completer(
                rig.stores.results,
                SpoolWriter(Spool(tmp_path), lambda _trouble: None, lambda _trouble: None),
                rig.slots,
                rig.wakeups,
                rig.problems,
                rig.metrics,
                lambda _why: None,
                settle=lambda: told.append("settler"),
                task_failed=lambda: told.append("scheduler"),
            )
            one.start(lambda name, error: pytest.fail(f"{name}: {error}"))
            with one.recorded.watch() as recorded:
                await one.submit(result, durable=True)
                assert (await asyncio.wait_for(recorded.get(), 20))[1].verdict is Verdict.ALREADY
            again, _ = await rig.claimed()
            assert again.fencing_token > task.fencing_token
            await one.stop()
    assert sorted(told) == ["scheduler", "settler"]
