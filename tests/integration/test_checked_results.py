"""Results with checks: their rows are in the trail with the result or not at all, once, whatever is sent again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.steps import claim_one, ended, registered
from tests.support.stores import Stores
from turbo.domain.check import CheckResult, WorkCheck
from turbo.domain.claim import ClaimRef
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import Verdict
from turbo.host.spool import Spool

QUESTION = {"kind": "question", "text": "Which?", "then": "proceed"}


def checks(*tokens: int) -> list[dict[str, Any]]:
    """One check in each of these claims; the last one passed."""
    made = [
        WorkCheck(number, token, CheckResult.PASSED if number == len(tokens) else CheckResult.FAILED, "why")
        for number, token in enumerate(tokens, start=1)
    ]
    return [check.trail("x") for check in made]


def trail(db: psycopg.Connection) -> list[tuple[Any, ...]]:
    query = (
        "select action_type, success, fencing_token, (detail ->> 'number')::int from agent_actions order by action_id"
    )
    return db.execute(query).fetchall()


async def insert_and_claim(stores: Stores, db: psycopg.Connection, task: str = "t") -> ClaimRef:
    db.execute("insert into agent_tasks (task_id, task_description, input_data) values (%s, 'x', '{}')", [task])
    return await claim_one(stores)


async def test_replay_writes_each_check_once(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    async with registered(dsn) as stores:
        held = await insert_and_claim(stores, db)
        old = held.token - 1  # of a run that was drained
        result = ended(held, checks=checks(old, held.token))
        assert [a.verdict for a in await stores.results.finish([result])] == [Verdict.RECORDED]
        assert [a.verdict for a in await stores.results.finish([result, ended(ClaimRef("u", 5))])] == [
            Verdict.ALREADY,
            Verdict.GONE,
        ]
    assert [row for row in trail(db) if row[0] == "checked"] == [
        ("checked", False, old, 1),
        ("checked", True, held.token, 2),
    ]
    assert [row[0] for row in trail(db)][:4] == ["claimed", "checked", "checked", "finished"]


async def test_checks_and_result_are_one_transaction(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    async with registered(dsn) as stores:
        held = await insert_and_claim(stores, db)
        db.execute("alter table agent_tasks add constraint mine check (output_data ->> 'output' <> 'done')")
        result = ended(held, checks=checks(held.token))
        with pytest.raises(psycopg.errors.CheckViolation):
            await stores.results.finish([result])
        assert [row[0] for row in trail(db)] == ["claimed"]
        db.execute("alter table agent_tasks drop constraint mine")
        await stores.results.finish([result])
    assert [row[0] for row in trail(db)] == ["claimed", "checked", "finished"]


async def test_result_of_a_lost_claim_is_taken_with_its_checks(dsn: str, db: psycopg.Connection) -> None:
    """The database has lost the claim; the rows of the checks, in the same transaction, do not count as a trace of it."""
    db.autocommit = True
    async with registered(dsn) as stores:
        held = await insert_and_claim(stores, db)
        db.execute("delete from agent_actions")
        db.execute("alter table agent_tasks disable trigger user")
        lost = "update agent_tasks set status = 'pending', fencing_token = null, assigned_worker_id = null, started_at = null"
        db.execute(lost)
        db.execute("alter table agent_tasks enable trigger user")
        (answer,) = await stores.results.finish([ended(held, checks=checks(held.token))])
        assert answer.verdict is Verdict.RECORDED
        (again,) = await stores.results.finish([ended(held, checks=checks(held.token))])
        assert again.verdict is Verdict.ALREADY
    assert [row[0] for row in trail(db)] == ["checked", "finished"]


async def test_batch_of_all_kinds_gets_every_answer(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    async with registered(dsn) as stores:
        held = [await insert_and_claim(stores, db, f"t{n}") for n in range(4)]
        asks = {"question": QUESTION, "uncounted": True}
        results = [
            ended(held[0]),
            ended(held[1], checks=checks(held[1].token)),
            ended(held[2], OutcomeKind.ASKED, **asks, checks=checks(held[2].token)),
            ended(held[3], OutcomeKind.ASKED, **asks),
        ]
        answers = await stores.results.finish(results)
        assert {(a.task_id, a.verdict) for a in answers} == {(f"t{n}", Verdict.RECORDED) for n in range(4)}
    found = db.execute("select task_id, status::text from agent_tasks order by 1").fetchall()
    assert found == [("t0", "completed"), ("t1", "completed"), ("t2", "waiting"), ("t3", "waiting")]
    counted = db.execute("select task_id from agent_actions where action_type = 'checked' order by 1").fetchall()
    assert counted == [("t1",), ("t2",)]


async def test_result_without_a_row_keeps_its_checks_in_the_trail(dsn: str, db: psycopg.Connection) -> None:
    db.autocommit = True
    async with registered(dsn) as stores:
        held = await insert_and_claim(stores, db)
        db.execute("alter table agent_tasks disable trigger user")
        db.execute("delete from agent_tasks")
        db.execute("alter table agent_tasks enable trigger user")
        failed = ended(held, OutcomeKind.FAILED, failure_kind=FailureKind.UNVERIFIED.value, checks=checks(held.token))
        (answer,) = await stores.results.finish([failed])
        assert answer.verdict is Verdict.GONE
    assert [row[0] for row in trail(db)][-2:] == ["checked", "late"]


def test_checks_on_disk_are_read_back_and_by_older_workers(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    result = RunResult("t", 7, OutcomeKind.SUCCEEDED.value, detail={"attempt": 1}, checks=checks(5, 7))
    path = spool.put(result).path
    (entry,) = spool.pending()
    assert replace(entry.result, finished_at="") == result
    fields = json.loads(json.loads(path.read_text())["result"])
    plain = json.loads(json.loads(spool.put(RunResult("u", 8, "succeeded")).path.read_text())["result"])
    assert set(fields) == set(plain)
    assert "checks" not in fields, "an older worker refuses a file with a field that it does not know"
