"""What runs used, in `agent_usage`: recorded with the result, once, and kept when the task is gone."""

import asyncio
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, replace

import psycopg
import pytest
from psycopg import errors

from tests.support.adoption import each, make
from tests.support.migrations import query
from tests.support.odd_tables import OddTable
from tests.support.rig import Rig, finished
from tests.support.stores import Stores
from tests.support.waiting import until_async
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import ModelUsage, OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import Verdict
from turbo.domain.task import Task
from turbo.domain.usage import NAME_BYTES, Price, Prices, usage_rows
from turbo.host.sanitize import sanitize_usage
from turbo.migrate import MigrationError, migrate
from turbo.sql import statement

SONNET = ModelUsage("sonnet", 10, 20, 30, 40, 0.5)
HAIKU = ModelUsage("haiku", 1, 2)


async def claimed(stores: Stores, db: psycopg.Connection, task_id: str = "t", **columns: object) -> Task:
    given = {"task_id": task_id, "task_description": "x", "task_type": "review"} | columns
    names = ", ".join(given)
    db.execute(f"insert into agent_tasks ({names}) values ({', '.join(f'%({n})s' for n in given)})".encode(), given)
    (task,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    return task


def used(task: Task, *usage: ModelUsage, worker_id: str, outcome: OutcomeKind = OutcomeKind.SUCCEEDED) -> RunResult:
    rows = usage_rows(task, "claude", "max", usage or (SONNET, HAIKU))
    return finished(task, worker_id, outcome, usage=rows)


def ledger(db: psycopg.Connection, columns: str = "task_id, model, cost_usd::float") -> list[tuple[object, ...]]:
    return db.execute(f"select {columns} from agent_usage order by task_id, fencing_token, model".encode()).fetchall()


async def test_result_brings_its_usage_once(stores: Stores, db: psycopg.Connection) -> None:
    task = await claimed(stores, db)
    result = used(task, worker_id=stores.worker_id)
    assert [a.verdict for a in await stores.results.finish([result])] == [Verdict.RECORDED]
    assert [a.verdict for a in await stores.results.finish([result])] == [Verdict.ALREADY]
    (user,) = db.execute("select session_user::text").fetchone() or ()
    columns = (
        "fencing_token, executor, account, model, attempt, queue, task_type, submitted_by, input_tokens, output_tokens,"
        " cache_read_tokens, cache_write_tokens, cost_usd::float, counted"
    )
    run = (task.fencing_token, "claude", "max")
    whose = (1, "default", "review", user)
    assert ledger(db, columns) == [
        (*run, "haiku", *whose, 1, 2, 0, 0, None, False),
        (*run, "sonnet", *whose, 10, 20, 30, 40, 0.5, False),
    ]


async def test_usage_refused_keeps_its_result_back(stores: Stores, db: psycopg.Connection) -> None:
    """Either both are recorded or neither is; a result without usage is not concerned."""
    task = await claimed(stores, db)
    bare = await claimed(stores, db, "bare")
    db.execute("alter table agent_usage add constraint cheap check (cost_usd < 0.1)")
    result = used(task, worker_id=stores.worker_id)
    with pytest.raises(errors.CheckViolation):
        await stores.results.finish([result])
    assert db.execute("select status from agent_tasks where task_id = 't'").fetchone() == ("running",)
    assert [a.verdict for a in await stores.results.finish([finished(bare, stores.worker_id)])] == [Verdict.RECORDED]
    db.execute("alter table agent_usage drop constraint cheap")
    assert [a.verdict for a in await stores.results.finish([result])] == [Verdict.RECORDED]
    assert len(ledger(db)) == 2


async def test_question_late_and_orphaned_results_count(stores: Stores, db: psycopg.Connection) -> None:
    late = await claimed(stores, db, "late")
    db.execute("update agent_tasks set status = 'pending' where task_id = 'late'")  # a person ends the run
    await stores.results.release([(ClaimRef("late", late.fencing_token), None)], "stopped")
    (again,) = (await stores.claims.claim("default", 1, may_idle=False)).tasks
    gone = await claimed(stores, db, "gone")
    other = await claimed(stores, db, "other")
    asking = await claimed(stores, db, "asking")
    db.execute("set session_replication_role = replica")
    db.execute("delete from agent_tasks where task_id in ('gone', 'other')")
    db.execute("set session_replication_role = origin")
    db.execute("insert into agent_tasks (task_id, task_description) values ('other', 'not the same')")
    asked = replace(
        used(asking, worker_id=stores.worker_id, outcome=OutcomeKind.ASKED), question={"kind": "question", "text": "?"}
    )
    results = [used(task, SONNET, worker_id=stores.worker_id) for task in (late, gone, other)]
    answers = await stores.results.finish([asked, *results, used(again, HAIKU, worker_id=stores.worker_id)])
    assert {a.task_id: a.verdict.value for a in answers if a.token != late.fencing_token} == {
        "late": "recorded",
        "gone": "gone",
        "other": "late",
        "asking": "recorded",
    }
    assert ledger(db, "task_id, model, submitted_by is not null") == [
        ("asking", "haiku", True),
        ("asking", "sonnet", True),
        ("gone", "sonnet", False),
        ("late", "sonnet", True),
        ("late", "haiku", True),
        ("other", "sonnet", False),
    ]


async def test_usage_outlives_its_task_and_its_table(stores: Stores, db: psycopg.Connection) -> None:
    task = await claimed(stores, db)
    await stores.results.finish([used(task, worker_id=stores.worker_id)])
    db.execute("delete from agent_tasks")
    db.execute("truncate agent_tasks")
    assert len(ledger(db)) == 2
    again = await claimed(stores, db)
    await stores.results.finish([used(again, worker_id=stores.worker_id)])
    assert len(ledger(db)) == 4, "another task of this id is another run"


async def test_longest_ids_and_names_fit(stores: Stores, db: psycopg.Connection) -> None:
    task = await claimed(stores, db, secrets.token_hex(1024))
    odd = secrets.token_hex(400) + "\0\ud800"
    usage = (replace(SONNET, model=odd), replace(HAIKU, executor=odd, account="ü" * 400))
    rows = sanitize_usage(usage_rows(task, odd, odd, usage))
    await stores.results.finish([finished(task, stores.worker_id, usage=rows)])
    longest = ledger(db, "greatest(octet_length(executor), octet_length(account), octet_length(model))")
    assert longest == [(NAME_BYTES,)] * 2
    plain = sanitize_usage(usage_rows(task, "ä", "日本", (replace(SONNET, model="\ud800"),)), ascii_only=True)
    assert [(row.executor, row.account, row.model) for row in plain] == [("?", "??", "?")]


async def test_two_replays_at_once_add_one_run(dsn: str, stores: Stores, db: psycopg.Connection) -> None:
    """Stepped: the first one has inserted and not committed; the second waits for it, and adds nothing of it."""
    task = await claimed(stores, db)
    result = used(task, worker_id=stores.worker_id)
    waits = "select true from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(dsn) as first:
        rows = json.dumps([asdict(row) for row in result.usage])
        await first.execute(statement("tasks/usage"), {"usage": rows})
        second = asyncio.create_task(stores.results.finish([result]))
        await until_async(lambda: db.execute(waits).fetchone() is not None)
        await first.commit()
    assert [a.verdict for a in await second] == [Verdict.RECORDED]
    assert [(task_id, model) for task_id, model, _ in ledger(db)] == [("t", "haiku"), ("t", "sonnet")]


@each
async def test_adopted_ids_are_text_in_the_ledger(empty_dsn: str, table: OddTable) -> None:
    make(empty_dsn, table, 3)
    migrate(empty_dsn)
    async with Rig(empty_dsn, slots_size=1) as rig:
        task, _ = await rig.claimed()
        await rig.stores.results.finish([used(task, SONNET, worker_id=rig.worker_id)])
    rows = query(empty_dsn, "select task_id, queue, model from agent_usage")
    assert rows == [(task.task_id, "default", "sonnet")]


def test_foreign_table_of_the_name_refuses_the_migration(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute("create table agent_usage (mine int)")
    with pytest.raises(MigrationError, match="agent_usage"):
        migrate(empty_dsn)


# ── rows and prices, without a database ─────────────────────────────────────────────────────────────────────────────

TASK = Task("t", "review", "x", fencing_token=7, retry_count=1)


def models(rows: Iterable[object]) -> list[object]:
    return [(row.executor, row.account, row.model, row.input_tokens, row.cost_usd) for row in rows]  # type: ignore[attr-defined]


def test_calls_of_one_model_are_one_row_of_their_executor() -> None:
    review = replace(SONNET, executor="reviewer", account="other")
    unknown = replace(SONNET, cost_usd=None)
    rows = usage_rows(TASK, "claude", None, (SONNET, review, unknown, replace(review, account=None), HAIKU))
    assert models(rows) == [
        ("claude", "", "sonnet", 20, 0.5),
        ("reviewer", "other", "sonnet", 10, 0.5),
        ("reviewer", "", "sonnet", 10, 0.5),
        ("claude", "", "haiku", 1, None),
    ]
    assert {row.attempt for row in rows} == {2}


def test_price_fills_only_what_no_agent_reports() -> None:
    prices = Prices({"haiku": Price(1_000_000, 2_000_000, 3, 4), "sonnet": Price(9, 9, 9, 9)})
    assert prices.fill((SONNET, HAIKU, ModelUsage("other", 7))) == (
        SONNET,
        replace(HAIKU, cost_usd=1 + 2 * 2.0),
        ModelUsage("other", 7),
    )
